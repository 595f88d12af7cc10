"use strict";
// What computes, in a worker, so that typing never waits: it reads the text, looks inside, and writes.

const KEPT_WINDOWS = 8;  // of the text, with all that the layers found
const WORK_AT_ONCE = 3e7;  // products between two looks at the messages: some 30 ms
const CHEAP_READING = 2.5e8;  // products: a context that costs less is read again for every token, as mlx-gpt generate does
const TOP = 10, TOP_OF_LAYER = 3;

/** One model's reading of one text: the start token, and then the tokens. From the place i it guesses the token i of the text.
 * In a text that is longer than the context each window begins in the middle of the one before; at the end of the text it is the last
 * context, if that is cheap. */
class Reading {
  constructor(model, start) {
    this.model = model;
    this.tokens = [start];
    this.surprise = [];  // of each token of the text, in bits, as far as it was read
    this.windows = new Map();  // the caches by the place of their first token, the last used one last
    const { block_size, vocab_size, n_embd } = model.config, sizes = Object.values(model.weights).map(array => array.length);
    this.work = sizes.reduce((a, b) => a + b) - (model.config.tied ? 0 : vocab_size * n_embd);  // products for a token
    this.half = Math.max(block_size >> 1, 1);
    this.endStep = this.work * block_size <= CHEAP_READING ? 1 : this.half;
  }

  /** Read `ids` from now on. What is the same as before is not read again. */
  setText(ids) {
    const tokens = [this.tokens[0], ...ids], differs = this.tokens.findIndex((id, i) => id !== tokens[i]);
    if (differs >= 0) this.surprise.length = Math.min(this.surprise.length, differs - 1);
    this.tokens = tokens;
  }

  /** The first token that the model sees at `place`. */
  first(place) {
    const step = place === this.tokens.length - 1 ? this.endStep : this.half;
    return Math.max(0, Math.ceil((place + 1 - this.model.config.block_size) / step) * step);
  }

  /** The cache of the window from `first` on, read up to `place`. `pause` is awaited from time to time; it raises to stop. */
  async readWindow(first, place, pause) {
    const cache = this.windows.get(first) ?? new Cache(this.model.config);
    this.windows.delete(first);
    this.windows.set(first, cache);
    if (this.windows.size > KEPT_WINDOWS) this.windows.delete(this.windows.keys().next().value);
    const atOnce = Math.max(8, WORK_AT_ONCE / this.work | 0);
    for (;;) {
      cache.rewind(this.tokens.slice(first));
      if (first + cache.length > place) return cache;
      this.model.read(this.tokens.slice(first + cache.length, Math.min(place + 1, first + cache.length + atOnce)), cache);
      await pause();
    }
  }

  /** Find the surprise of every token; yields its number after each part. */
  async *read(pause) {
    const { block_size, vocab_size } = this.model.config, atOnce = Math.max(1, WORK_AT_ONCE / this.work | 0);
    while (this.surprise.length < this.tokens.length - 1) {
      const place = this.surprise.length, first = Math.max(0, Math.ceil((place + 1 - block_size) / this.half) * this.half);
      const end = Math.min(place + atOnce, first + block_size, this.tokens.length - 1);
      const cache = await this.readWindow(first, end - 1, pause), logits = this.model.logitsAt(cache, place - first, undefined, end - place);
      for (let i = place; i < end; i++)
        this.surprise.push(bitsOf(logits.subarray((i - place) * vocab_size, (i - place + 1) * vocab_size), this.tokens[i + 1]));
      yield place;
      await pause();
    }
  }

  /** The logits after the last token. */
  async nextLogits(pause) {
    const place = this.tokens.length - 1, first = this.first(place);
    return this.model.logitsAt(await this.readWindow(first, place, pause), place - first);
  }

  /** What the model sees, expects and does at `place`: `first`, the first token in view; `candidates` [[id, probability], ...], the likeliest
   * first; `lens`, the same after each layer; `actual`, the probability of the token that the text has there after each layer, and
   * `bits`, its cost; `attention`, (layers, heads, tokens in view). */
  async look(place, pause) {
    const { model } = this, first = this.first(place), cache = await this.readWindow(first, place, pause), i = place - first;
    const logits = model.h.map((_, layer) => model.logitsAt(cache, i, layer)), layers = logits.map(softmax), next = this.tokens[place + 1];
    const attention = model.h.flatMap(({ attn }, layer) => Array.from({ length: attn.n_head }, (_, head) => attn.weigh(cache.layers[layer], i, head)));
    return {
      place, first, attention,
      candidates: likeliest(layers.at(-1), TOP),
      lens: layers.map(probabilities => likeliest(probabilities, TOP_OF_LAYER)),
      actual: layers.map(probabilities => probabilities[next] ?? null),
      bits: next === undefined ? null : bitsOf(logits.at(-1), next),
    };
  }
}

/** The `top` largest of `probabilities`, as pairs [id, probability]. */
function likeliest(probabilities, top) {
  const found = [];
  for (let id = 0; id < probabilities.length; id++) {
    if (found.length === top && !(probabilities[id] > found[top - 1][1])) continue;
    if (found.length === top) found.pop();
    let at = found.length;
    while (at > 0 && probabilities[id] > found[at - 1][1]) at--;
    found.splice(at, 0, [id, probabilities[id]]);
  }
  return found;
}

/** The bits that the token `id` costs. */
function bitsOf(logits, id) {
  let most = -Infinity, sum = 0;
  for (const logit of logits) most = Math.max(most, logit);
  for (const logit of logits) sum += Math.exp(logit - most);
  return (Math.log(sum) + most - logits[id]) / Math.LN2;
}

/** As make_sampler in generation.py: a function that draws an id from logits; the same seed draws the same ids. */
function makeSampler({ temperature, topK, topP, seed }) {
  const random = makeRandom(seed);
  return logits => {
    if (temperature < 1e-6) return logits.indexOf(logits.reduce((a, b) => Math.max(a, b)));
    const scaled = logits.map(logit => logit / temperature), falling = scaled.slice().sort().reverse().slice(0, topK || undefined);
    let kept = 0, sum = 0;
    for (const p of softmax(falling)) if (sum < (topP || 1)) { kept++; sum += p; }
    const probabilities = softmax(scaled.map(logit => logit >= falling[kept - 1] ? logit : -Infinity));
    let left = random();
    const id = probabilities.findIndex(p => (left -= p) < 0);
    return id >= 0 ? id : likeliest(probabilities, 1)[0][0];  // rounding left a rest
  };
}

/** Numbers from 0 to 1 (mulberry32, by Tommy Ettinger). */
function makeRandom(seed) {
  let state = seed >>> 0;
  return () => {
    state = state + 0x6d2b79f5 | 0;
    let t = Math.imul(state ^ state >>> 15, 1 | state);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 2 ** 32;
  };
}

/** The model of a stop: {config, shapes: [[name, numbers], ...], half: whether they are float16, weights: in base64}. */
function loadModel({ config, shapes, half, weights }) {
  const text = atob(weights), bytes = new Uint8Array(text.length), named = {};
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  const numbers = half ? fromFloat16(new Uint16Array(bytes.buffer)) : new Float32Array(bytes.buffer);
  let start = 0;
  for (const [name, size] of shapes) named[name] = numbers.subarray(start, start += size);
  return Object.assign(new GPT(config, named), { weights: named });
}

function fromFloat16(halves) {
  const table = Float32Array.from({ length: 2 ** 16 }, (_, bits) => {
    const exponent = bits >> 10 & 31, fraction = (bits & 1023) / 1024, sign = bits >> 15 ? -1 : 1;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (exponent ? (1 + fraction) * 2 ** (exponent - 15) : fraction * 2 ** -14);
  });
  return Float32Array.from(halves, bits => table[bits]);
}

// ---- the messages of the page

let stops, tokenizers, readings;  // a reading is made when its stop is shown first
let stop = 0, text = null, pieces = [], written = 0;  // the characters of the text whose tokens were drawn, and stay as they are
let turn = 0;  // of the newest order: an older one ends

class Stale extends Error {}
const channel = new MessageChannel(), waiting = [];
channel.port1.onmessage = () => waiting.shift()();

/** A function to await, which lets messages in, and ends the order if there is a newer one. */
function pauseOf(own) {
  return async () => {
    await new Promise(resolve => { waiting.push(resolve); channel.port2.postMessage(null); });
    if (own !== turn) throw new Stale();
  };
}

/** The place before the token that begins at the character `offset`, or that it is in. */
function placeAt(offset) {
  let end = 0, place = 0;
  for (const { id, text } of pieces) {
    const start = end;
    end += text.length;
    if (id === null) continue;
    if (start >= offset || end > offset) break;
    place++;
  }
  return place;
}

const tokenizer = () => tokenizers[stops[stop].tokenizer];
const reading = () => {
  readings[stop] ??= new Reading(loadModel(stops[stop]), tokenizer().start);
  stops[stop].weights = null;
  return readings[stop];
};
const setPieces = list => { pieces = list; reading().setText(pieces.flatMap(({ id }) => id ?? [])); };

function setText(next, other) {
  if (tokenizer() !== other) { text = null; written = 0; }
  if (next === text) return setPieces(pieces);
  const kept = [];
  if (written && next.startsWith(text.slice(0, written)))
    for (let end = 0; end < written; end += kept.at(-1).text.length) kept.push(pieces[kept.length]);
  else written = 0;
  text = next;
  setPieces([...kept, ...tokenizer().encode(next.slice(written))]);
}

async function lookAt(place, pause) {
  const found = await reading().look(place, pause), spell = ([id, p]) => ({ id, p, text: tokenizer().decode(id), end: id === tokenizer().end });
  postMessage({ kind: "look", turn, ...found, candidates: found.candidates.map(spell), lens: found.lens.map(layer => layer.map(spell)),
    actual: found.actual, id: reading().tokens[place + 1] ?? null, start: tokenizer().decode(reading().tokens[0]) });
}

const orders = {
  open(order) { ({ stops } = order); tokenizers = order.tokenizers.map(makeTokenizer); readings = stops.map(() => null); },

  async show(order, pause) {
    const other = tokenizer(), began = performance.now();
    if (stop !== order.stop) readings[stop]?.windows.clear();
    stop = order.stop;
    setText(order.text, other);
    const { surprise } = reading();
    postMessage({ kind: "tokens", turn, pieces, surprise: [...surprise] });
    await lookAt(placeAt(order.offset), pause);
    for await (const from of reading().read(pause)) postMessage({ kind: "surprise", turn, from, bits: surprise.slice(from) });
    postMessage({ kind: "done", turn, milliseconds: performance.now() - began });
  },

  look({ offset, place }, pause) { return lookAt(place ?? placeAt(offset), pause); },

  /** Cut the text before the token at `offset`, take the token `first` if there is one, and write `count` more. */
  async write({ offset, place, first, count, ...settings }, pause) {
    const sample = makeSampler(settings), { end } = tokenizer(), decode = tokenizer().decoder(), began = performance.now();
    let drawn = 0, ended = false;
    const known = pieces.filter(({ id }) => id !== null), next = known[place ?? placeAt(offset)];
    setPieces(next ? pieces.slice(0, pieces.indexOf(next)) : pieces);
    text = pieces.map(piece => piece.text).join("");
    written = Math.min(written, text.length);
    postMessage({ kind: "tokens", turn, pieces, surprise: [...reading().surprise] });
    pieces.forEach(({ id }) => id === null || decode(id));  // the last character may be half
    for (; drawn < count; drawn++) {
      const logits = await reading().nextLogits(pause), id = drawn || first === undefined ? sample(logits) : first;
      if (ended = id === end) break;
      pieces.push({ id, text: decode(id) });
      reading().tokens.push(id);
      postMessage({ kind: "wrote", turn, piece: pieces.at(-1), bits: bitsOf(logits, id) });
      text += pieces.at(-1).text;
      written = text.length;
      await pause();
    }
    postMessage({ kind: "end", turn, ended, drawn, rate: 1000 * drawn / (performance.now() - began) });
  },

  halt() {},
};

self.onmessage = async ({ data: order }) => {
  if (order.kind !== "look") turn = order.turn;
  try {
    await orders[order.kind](order, pauseOf(turn));
  } catch (error) {
    if (!(error instanceof Stale)) setTimeout(() => { throw error; });  // outside of the promise, so that the page hears of it
  }
};
