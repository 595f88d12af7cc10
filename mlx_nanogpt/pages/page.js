"use strict";
// The screen: it sends the text to the worker, and shows what comes back. A text reaches the page as textContent alone.

const by = id => document.getElementById(id);
const data = JSON.parse(by("data").textContent), { stops, tokenizers } = data;
const make = (tag, content = "", name = "") => Object.assign(document.createElement(tag), { textContent: content, className: name });
const LEVELS = [8, 4, 2, 1];  // the least bits of a colour
const PAUSE = 900;  // ms between two stops that play
const WEAKEST = 0.1;  // of the largest share of attention: a line shows it

let stop = 0, turn = 0, writing = false, playing = false, pauseTimer;
let spans = [], pieces = [], bits = [];  // spans and pieces of the text; bits of its tokens, as far as they are known
let known = [];  // the spans of the tokens, without unknown characters
let text = "", cursor = 0;  // as the field has them; a field without the focus forgets its cursor
let look = null, asked = 0, layer, head;  // what the worker found; the place that was asked for; the chosen head
let fresh = false;  // whether that is of the text as it is now
let isTyping = false, taken = -1;  // whether the last change was typed; the row of the guess that was taken
const undone = [];  // texts and cursors before each change

// ---- the worker

const worker = new Worker(URL.createObjectURL(new Blob([by("worker").textContent], { type: "text/javascript" })));
const weights = Array.from(document.querySelectorAll(".weights"), element => { element.remove(); return element.textContent; });
worker.onerror = event => {
  by("broken").textContent = `This browser could not compute the model: ${event.message || "its worker did not start"}. Open the file again, or in a newer browser.`;
  by("broken").hidden = false;
};
worker.postMessage({ kind: "open", turn, tokenizers, stops: stops.map((stop, i) => ({ ...stop, weights: weights[i] })) });

function order(kind, more) {
  worker.postMessage({ kind, turn: kind === "look" ? turn : ++turn, ...more });
}

function show() {
  fresh = false;
  order("show", { stop, text, offset: cursor });
}

worker.onmessage = ({ data: message }) => { if (message.turn === turn) answers[message.kind](message); };

const answers = {
  tokens({ pieces: found, surprise }) {
    setPieces(found);
    bits = surprise;
    known.forEach((_, i) => paint(i));
    if (writing) by("text").value = text = pieces.map(piece => piece.text).join("");
  },
  look(found) { look = found; asked = look.place; fresh = true; showLook(); },
  surprise({ from, bits: found }) { found.forEach((cost, i) => { bits[from + i] = cost; paint(from + i); }); },
  done({ milliseconds }) {
    document.body.dataset.milliseconds = milliseconds;
    showCost();
    clearTimeout(pauseTimer);
    if (playing) pauseTimer = setTimeout(() => stop < stops.length - 1 ? choose(stop + 1) : play(false), PAUSE);
  },
  wrote({ piece, bits: cost }) {
    pieces.push(piece);
    addSpan(piece);
    bits[known.length - 1] = cost;
    paint(known.length - 1);
    by("text").value = text += piece.text;
    by("field").scrollTop = by("field").scrollHeight;
  },
  end({ ended, drawn, rate }) {
    document.body.dataset.rate = rate;
    const speed = drawn < 10 ? "" : `. ${rate < 10 ? rate.toFixed(1) : Math.round(rate).toLocaleString("en")} ${unit(2)} a second`;
    endWriting(`${ended ? ". It ended its text" : ""}${speed}`);
  },
};

// ---- the text

function setPieces(found) {
  let same = 0;
  while (same < spans.length && same < found.length && spans[same].isConnected && pieces[same]?.text === found[same].text && pieces[same].id === found[same].id) same++;
  spans.length = same;
  pieces = found.slice(0, same);
  known = spans.filter((_, i) => pieces[i].id !== null);
  by("shown").replaceChildren(...spans);
  for (const piece of found.slice(same)) { pieces.push(piece); addSpan(piece); }
  by("shown").append("\u200b");  // a last line of its own has a height, too
}

function addSpan({ id, text }) {
  const span = make("span", text, id === null ? "unknown" : text.startsWith("\n") ? "line" : "");
  spans.push(span);
  if (id !== null) known.push(span);
  by("shown").lastChild?.nodeType === Node.TEXT_NODE ? by("shown").lastChild.before(span) : by("shown").append(span);
}

function paint(i) {
  const level = LEVELS.find(least => bits[i] >= least);
  for (const least of LEVELS) known[i]?.classList.toggle("bits" + least, least === level);
}

/** Show the text of the field at once; its tokens come from the worker. */
function readField() {
  text = by("text").value;
  cursor = by("text").selectionStart;
  let same = 0, end = 0;
  while (same < spans.length && text.startsWith(pieces[same].text, end)) end += pieces[same++].text.length;
  by("shown").replaceChildren(...spans.slice(0, same), text.slice(end) + "\u200b");
  show();
}

function setText(next, at) {
  by("text").value = next;
  by("text").setSelectionRange(at, at);
  readField();
}

/** Remember the text before a change. What is typed without a pause by another one is one change. */
function remember(change = "") {
  if (!isTyping || change !== "typed") undone.push([text, cursor]);
  isTyping = change === "typed";
  by("undo").disabled = false;
}

function showCost() {
  const { vocab_size } = stops[stop].config, count = known.length, sum = bits.reduce((a, b) => a + b, 0);
  const strange = [...new Set(pieces.filter(({ id }) => id === null).map(({ text }) => text))];
  const cost = count ? `${count.toLocaleString("en")} ${unit(count)}, ${(sum / count).toFixed(2)} bits each on average; a blind guess among ${vocab_size.toLocaleString("en")} costs ${Math.log2(vocab_size).toFixed(2)}.` : "";
  const unknown = strange.length ? ` It has never seen ${strange.slice(0, 10).join(" ")}, and skips ${strange.length > 1 ? "them" : "it"}.` : "";
  const full = text.length >= by("text").maxLength ? ` The page takes ${by("text").maxLength.toLocaleString("en")} characters.` : "";
  by("cost").textContent = cost + unknown + full;
}

// ---- what the model thinks

const visible = token => token.replaceAll("\n", "↵").replaceAll(" ", "␣").replaceAll("\t", "⇥").replaceAll("\0", "∎") || "·";
const nameOf = ({ text, end }) => end ? "(the end)" : visible(text);
const percent = p => (100 * p).toFixed(p < 0.0995 ? 2 : 1) + "%";
const unit = count => tokenizers[stops[stop].tokenizer].kind === "char" ? (count === 1 ? "character" : "characters") : count === 1 ? "token" : "tokens";
const code = (token, isActual) => make("code", nameOf(token), isActual ? "actual" : "");

function showLook() {
  const { place, id, actual, bits: cost, first } = look;
  by("said").replaceChildren(...id === null ? ["What comes next, after all of the text?"]
    : ["The text has ", make("code", visible(known[place].textContent), "actual"), ` next: ${percent(actual.at(-1))}, ${cost.toFixed(2)} bits.`]);
  by("back").disabled = place === 0;
  by("on").disabled = id === null;
  known.forEach((span, i) => { span.classList.toggle("chosen", i === place); span.classList.toggle("unseen", i + 1 < first); });
  showCandidates();
  showLens();
  showHeads();
}

function showCandidates() {
  const { id, candidates } = look;
  by("candidates").replaceChildren(...candidates.map((candidate, rank) => {
    const row = make("button"), label = make("span", "", "name"), bar = make("div", "", "bar");
    label.append(code(candidate, candidate.id === id));
    bar.style.width = 100 * candidate.p + "%";
    row.append(label, make("span", percent(candidate.p), "number"), bar);
    row.disabled = candidate.end || writing || candidate.id === id;
    row.title = candidate.end ? "The text ends here" : candidate.id === id ? "The text has this one" : "Go on with this one";
    row.addEventListener("click", () => takeGuess(candidate, rank));
    return row;
  }));
  if (!writing && document.activeElement === document.body) by("candidates").children[taken]?.focus();
  if (!writing) taken = -1;
}

function showLens() {
  const { id, actual, lens } = look, titles = make("tr"), rows = lens.map((guesses, l) => {
    const row = make("tr");
    row.append(make("td", l + 1, "faint"), ...guesses.map((guess, rank) => {
      const cell = make("td", "", rank === 2 ? "third" : "");
      cell.append(code(guess, guess.id === id), " " + percent(guess.p));
      cell.style.opacity = 0.75 + 0.25 * guess.p;
      return cell;
    }), make("td", id === null ? "" : percent(actual[l]), "number"));
    return row;
  });
  titles.append(...["layer", "first guess", "second", "third", id === null ? "" : "the text's"].map((title, i) => make("th", title, i === 3 ? "third" : "")));
  by("lens").replaceChildren(titles, ...rows);
}

function showHeads() {
  const { place, first, attention, start } = look, { n_layer, n_embd, head_size, block_size } = stops[stop].config, count = n_embd / head_size;
  layer = Math.min(layer ?? n_layer - 1, n_layer - 1);
  head = Math.min(head ?? 0, count - 1);
  if (by("heads").children.length !== (n_layer + 1) * (count + 1)) makeHeads(n_layer, count);
  const share = attention[layer * count + head], rgb = getComputedStyle(document.documentElement).getPropertyValue("--look").split(",").map(Number);
  const most = Array.from(share, (s, j) => [s, first + j]).sort((a, b) => b[0] - a[0]).slice(0, 3);
  const where = j => j ? `“${visible(known[j - 1].textContent)}” ${place - j + 1} back` : `the start (“${visible(start)}”)`;
  const seen = place - Math.max(first, 1) + 1, part = first && seen < block_size ? `; a long text is read in windows of ${block_size.toLocaleString("en")} that overlap` : "";
  by("looked").textContent = `Layer ${layer + 1}, head ${head + 1} looked most at ` + most.map(([s, j]) => `${where(j)} (${(100 * s).toFixed(0)}%)`).join(", ") +
    `. Here it sees ${place === 0 ? "the start alone" : `${seen.toLocaleString("en")} ${unit(seen)}${first ? "" : " and the start"}`}${part}.`;
  known.forEach((span, i) => {
    const s = share[i + 1 - first] ?? 0;
    span.style.boxShadow = s > WEAKEST * most[0][0] ? `0 3px 0 rgba(${rgb}, ${(s / most[0][0]).toFixed(3)})` : "";
  });
  by("heads").querySelectorAll("button").forEach((button, i) => {
    const own = attention[i], canvas = button.firstChild;
    button.setAttribute("aria-pressed", i === layer * count + head);
    canvas.width = own.length;
    const context = canvas.getContext("2d"), image = context.createImageData(own.length, 1);
    own.forEach((s, j) => image.data.set([...rgb, 255 * Math.sqrt(s)], 4 * j));  // roots, so that small shares can be seen
    context.putImageData(image, 0, 0);
  });
}

function makeHeads(layers, count) {
  by("heads").style.gridTemplateColumns = `auto repeat(${count}, minmax(0, 1fr))`;
  by("heads").replaceChildren(make("span", "head", "layer"), ...Array.from({ length: count }, (_, i) => make("span", i + 1, "head")));
  for (let l = 0; l < layers; l++) {
    by("heads").append(make("span", "layer " + (l + 1), "layer"));
    for (let i = 0; i < count; i++) {
      const button = make("button"), canvas = make("canvas");
      canvas.height = 1;
      button.append(canvas);
      button.setAttribute("aria-label", `layer ${l + 1}, head ${i + 1}`);
      button.addEventListener("click", () => { [layer, head] = [l, i]; if (fresh) showHeads(); });
      by("heads").append(button);
    }
  }
}

/** Look at the place of the cursor, which is now after so many characters, or at `place`. */
function lookAt(offset, place) {
  if (writing || offset === cursor && place === undefined) return;
  cursor = offset;
  order("look", { offset, place });
}

/** Move the cursor by so many tokens. */
function move(tokens) {
  const place = Math.max(0, Math.min(known.length, asked + tokens)), index = known[place] ? spans.indexOf(known[place]) : pieces.length;
  const offset = pieces.slice(0, index).reduce((sum, piece) => sum + piece.text.length, 0);
  by("text").setSelectionRange(offset, offset);
  known[place]?.scrollIntoView({ block: "nearest" });
  lookAt(offset, asked = place);
}

// ---- writing

/** The number in a field, if it is one that the field takes. */
const setting = id => by(id).value !== "" && by(id).validity.valid ? Number(by(id).value) : undefined;

function write(more) {
  const seed = setting("seed") ?? Math.floor(Math.random() * 1e6), room = by("text").maxLength - cursor;
  if (room < 1) return by("wrote").textContent = "There is no room after the cursor.";
  play(false);
  remember();
  fresh = false;
  by("text").readOnly = writing = true;
  by("write").textContent = "Stop";
  by("wrote").textContent = `Seed ${seed}`;
  by("undo").disabled = true;
  document.querySelectorAll("#candidates button").forEach(button => { button.disabled = true; });
  order("write", { offset: cursor, count: Math.min(setting("count") ?? 200, room), temperature: setting("temperature"), topK: setting("topK"), topP: setting("topP"), seed, ...more });
}

/** Go on with a guess, and write as much as stood after it. */
function takeGuess({ id }, rank) {
  if (!fresh) return;
  taken = rank;
  write({ place: look.place, first: id, count: Math.max(1, known.length - look.place) });
}

function endWriting(remark) {
  by("text").readOnly = writing = false;
  by("write").textContent = "Let it write";
  by("wrote").textContent += remark;
  by("undo").disabled = false;
  cursor = text.length;
  by("text").setSelectionRange(cursor, cursor);
  show();
}

by("write").addEventListener("click", () => {
  if (!writing) return write();
  order("halt");
  endWriting(". Stopped");
});
by("undo").addEventListener("click", () => {
  setText(...undone.pop());
  isTyping = false;
  by("undo").disabled = !undone.length;
});
by("clear").addEventListener("click", () => {
  if (writing) by("write").click();
  remember();
  setText("", 0);
  by("text").focus();
});
by("text").addEventListener("input", () => { remember("typed"); readField(); });
document.addEventListener("selectionchange", () => { if (document.activeElement === by("text")) lookAt(by("text").selectionStart); });
by("back").addEventListener("click", () => move(-1));
by("on").addEventListener("click", () => move(1));
document.addEventListener("keydown", event => {
  if (event.key === "Escape" && writing || event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.repeat) { event.preventDefault(); by("write").click(); }
});
for (const output of document.querySelectorAll("output")) {
  const input = by(output.htmlFor[0]), tell = () => { output.textContent = input.id === "topP" && input.value === "1" ? "1 (all)" : input.value; };
  input.addEventListener("input", tell);
  tell();
}

// ---- the stops

const areOneRun = stops.every(({ run }) => run === stops[0].run);

function choose(i) {
  if (writing) by("write").click();
  stop = i;
  const { run, title, about, parameters, config } = stops[i], other = unit(1);
  by("stop").value = i;
  by("stop-name").textContent = by("stop").ariaValueText = areOneRun ? title : `${run}, ${title}`;
  document.title = by("title").textContent = about;
  by("about").textContent = `${run}, ${title}. Its ${parameters.toLocaleString("en")} parameters (${config.n_layer} layers, ${config.n_embd / config.head_size} heads in each, ` +
    `${config.block_size.toLocaleString("en")} ${unit(2)} in view) are in this file, and your browser computes with them: nothing is sent anywhere.`;
  for (const element of document.querySelectorAll(".unit")) element.textContent = other;
  show();
}

function play(on) {
  playing = on;
  clearTimeout(pauseTimer);
  by("play").textContent = on ? "Pause" : "Play";
  if (on) choose(stop < stops.length - 1 ? stop : 0);
}

by("play").addEventListener("click", () => play(!playing));
by("stop").max = stops.length - 1;
by("stop").addEventListener("input", () => { play(false); choose(Number(by("stop").value)); });
by("stops").hidden = stops.length < 2;
by("stops-title").textContent = areOneRun ? "Watch it learn" : "Compare";
by("stops-about").textContent = areOneRun ? "Each stop of the slider is the model after so many steps of its training." : "Each stop of the slider is another model.";
by("origin").hidden = !data.text;
by("legend").append("Bits: ", ...[...LEVELS].reverse().map(least => {
  const key = make("span", least);
  key.style.cssText = `background: var(--bits${least}); color: var(--on${least})`;
  return key;
}), " and more: the deeper the colour, the greater the surprise. Pale text is too far back for the model to see from the cursor.");
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => fresh && showHeads());
by("how").open = innerWidth > 900;
by("text").value = text = data.text;
cursor = /^#\d+$/.test(location.hash) ? Number(location.hash.slice(1)) : text.length;  // page.html#17: after 17 characters
by("text").setSelectionRange(cursor, cursor);
by("shown").textContent = text + "\u200b";
choose(stops.length - 1);
