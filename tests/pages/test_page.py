"""The promises of a page with a model inside: a browser computes what MLX computes, and needs nothing but the page."""

import re
from dataclasses import replace
from pathlib import Path

import mlx_nanogpt as gpt
import mlx.core as mx
import numpy as np
import pytest
from browser import browser, in_a_browser
from conftest import ARCHITECTURES, TEXT, TOKENIZER, byte_pairs, lively_model, tiny_gpt, trained_run
from mlx.utils import tree_map
from mlx_nanogpt.generation import make_filter
from mlx_nanogpt.model import GPT
from mlx_nanogpt.pages import page as pages
from mlx_nanogpt.pages.inspection import inspect
from mlx_nanogpt.pages.page import HERE, SCRIPTS, Stop, as_script, model_page, pack

PLACES = (
    0,
    3,
    8,
    17,
)  # where all numbers are compared: in the first window, at its end, in a later one, and after all of the text
WRITTEN, DRAWS = 200, 5000
ROUNDING, HALF_ROUNDING = 1e-3, 1e-4  # of a probability or a bit; weights in float16 are rounded before both compute
TIE = 1e-3  # logits that are nearer to each other may change places
STRANGE = (
    "don't  WE'll\u00a0x\u0085y\ufeffz \n\n\t 12½ déjà vu e\u0301 🙂👩‍🚀 漢字ab  <|endoftext|> |end \u2028 ٣ ʼs_-—"
)

CASES = ARCHITECTURES | {
    "bias all": {"bias": "all"}, "bias none": {"bias": "none"}, "tied": {"tied": True, "activation": "gelu", "bias": "all"},
    "wide": {"n_embd": 20, "head_size": 10, "n_layer": 3, "position": "rope"}, "short": {"block_size": 1},
}  # fmt: skip

DRIVER = """
const pause = async () => {};
async function compute({ packed, weights, described, texts, places, written }) {
  const tokenizer = makeTokenizer(described), model = loadModel({ ...packed, weights });
  const encoded = texts.map(text => tokenizer.encode(text)), ids = encoded[0].flatMap(({ id }) => id ?? []);
  const reading = new Reading(model, described.start);
  reading.setText(ids.slice(0, 5));  // as typed: what comes after is read after it
  for await (const _ of reading.read(pause));
  reading.setText(ids);
  for await (const _ of reading.read(pause));
  const looks = [];
  for (const place of places) {
    const { attention, ...found } = await reading.look(Math.min(place, ids.length), pause);
    looks.push({ ...found, attention: attention.map(share => [...share]) });
  }
  const sample = makeSampler({ temperature: 0 }), drawn = [], decode = tokenizer.decoder();
  for (let i = 0; i < written; i++) {
    drawn.push(sample(await reading.nextLogits(pause)));
    reading.tokens.push(drawn.at(-1));
  }
  return { encoded, surprise: reading.surprise, looks, drawn, text: drawn.map(id => decode(id)).join("") + decode(null) };
}
"""


# ---- what MLX computes


def probabilities(logits: mx.array) -> np.ndarray:
    return np.array(mx.softmax(logits.astype(mx.float32), axis=-1))


def look_inside(model: GPT, tokens: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """After `tokens`, (T,): the probabilities of the next one if the head reads after each layer, (L, vocab_size), and where each head
    looked, (L, nh, T)."""
    x, shares, lens = model.embed(mx.array([tokens])), [], []
    T = len(tokens)
    for block in model.h:
        attn = block.attn
        heads = attn.c_attn(block.ln_1(x)).reshape(1, T, 3 * attn.n_head, -1).swapaxes(1, 2)
        q, k, _ = mx.split(heads, 3, axis=1)
        q, k = attn.locate(q, k)
        shares.append(probabilities(attn.scale * q[0, :, -1:] @ k[0].swapaxes(-1, -2))[:, 0])
        x = block(x)
        lens.append(probabilities(model.logits(x[0, -1])))
    return np.stack(lens), np.stack(shares)


def first_in_view(place: int, block_size: int, step: int) -> int:
    return max(0, -(-(place + 1 - block_size) // step) * step)


# ---- the cases, which one browser computes


def make_cases() -> dict[str, tuple[Stop, str]]:
    marked = gpt.CharTokenizer("\0" + TOKENIZER.symbols)
    tokenizers = {"documents": marked, "gpt2": byte_pairs(), "gpt2 documents": byte_pairs().with_marks()}
    if byte_pairs():
        learned = gpt.BPETokenizer.learn([TEXT], 280)
        tokenizers |= {"bpe": learned, "bpe documents": learned.with_marks()}
    text = "to be or not, que\nstion that is the"
    cases = {
        name: (Stop(lively_model(tiny_gpt(**changes)).eval(), TOKENIZER, name, "", ""), text)
        for name, changes in CASES.items()
    }
    for name, tokenizer in tokenizers.items():
        config = tiny_gpt(vocab_size=tokenizer.vocab_size)
        cases[name] = (
            Stop(lively_model(config).eval(), tokenizer, name, "", ""),
            "the question, slings and arrows; nobler?\nto be or not to be",
        )
    return cases


@pytest.fixture(scope="module")
def chromium():
    with browser() as started:
        yield started


def read_scripts() -> str:
    """What the worker of a page computes with."""
    return "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)


@pytest.fixture(scope="module")
def results(tmp_path_factory, chromium):
    """What the browser computed in each case, and the model that it computed with."""
    cases, orders, models = make_cases(), {}, {}
    with pytest.MonkeyPatch.context() as patch:
        for name, (stop, text) in cases.items():
            for half in (False, True) if name in ("default", "modern-tied", "gpt2") else (False,):
                patch.setattr(pages, "MOST_IN_FLOAT32", 0 if half else 10**6)
                data, weights = pack([stop])
                title = f"{name}, float16" if half else name
                orders[title] = {
                    "packed": data["stops"][0], "weights": weights[0], "described": data["tokenizers"][0],
                    "texts": [text] if name in CASES else [text, STRANGE, TEXT], "places": PLACES, "written": WRITTEN,
                }  # fmt: skip
                model = lively_model(stop.model.config).eval()
                if half:
                    model.update(tree_map(lambda p: p.astype(mx.float16).astype(mx.float32), model.parameters()))
                models[title] = replace(stop, model=model), text
    page = tmp_path_factory.mktemp("page") / "page.html"
    page.write_text(
        f"<meta charset=utf-8><script>{read_scripts()}{DRIVER}const cases = {as_script(orders)};</script>",
        encoding="utf-8",
    )
    chromium.open(page)
    compute = "(async () => { const all = {}; for (const name in cases) all[name] = await compute(cases[name]); return all; })()"
    found = chromium.run(compute)
    assert not chromium.complaints
    return {title: (*models[title], found[title]) for title in orders}


@in_a_browser
def test_the_browser_has_the_tokens_of_the_tokenizer(results):
    for name, (stop, text, found) in results.items():
        for own, pieces in zip((text, STRANGE, TEXT), found["encoded"]):
            assert "".join(piece["text"] for piece in pieces) == own, name
            ids = [piece["id"] for piece in pieces if piece["id"] is not None]
            if not stop.tokenizer.unknown(own):
                assert ids == stop.tokenizer.encode(own).tolist(), name


@in_a_browser
def test_the_browser_finds_the_surprises_of_mlx(results):
    for name, (stop, text, found) in results.items():
        ids, model, block_size = stop.tokenizer.encode(text).tolist(), stop.model, stop.model.config.block_size
        tokens = [stop.tokenizer.start_token, *ids]
        assert len(found["surprise"]) == len(ids)
        for place, bits in enumerate(found["surprise"]):
            first = first_in_view(place, block_size, max(block_size // 2, 1))
            predicted = probabilities(model(mx.array([tokens[first : place + 1]]))[0, -1])
            rounding = HALF_ROUNDING if "float16" in name else ROUNDING
            assert bits == pytest.approx(-np.log2(predicted[ids[place]]), abs=rounding), (name, place)


@in_a_browser
def test_the_browser_has_the_guesses_the_lens_and_the_attention_of_mlx(results):
    for name, (stop, text, found) in results.items():
        ids, model, block_size = stop.tokenizer.encode(text).tolist(), stop.model, stop.model.config.block_size
        tokens, rounding = [stop.tokenizer.start_token, *ids], HALF_ROUNDING if "float16" in name else ROUNDING
        for look in found["looks"]:
            place, at_end = look["place"], look["place"] == len(ids)
            first = first_in_view(place, block_size, 1 if at_end else max(block_size // 2, 1))
            lens, shares = look_inside(model, tokens[first : place + 1])
            assert look["first"] == first
            assert np.array(look["attention"]) == pytest.approx(shares.reshape(-1, shares.shape[-1]), abs=rounding), (
                name
            )
            for guesses, predicted in zip([*look["lens"], look["candidates"]], [*lens, lens[-1]]):
                own = np.sort(predicted)[::-1][: len(guesses)]
                assert [p for _, p in guesses] == pytest.approx(own, abs=rounding), name
                assert [predicted[id] for id, _ in guesses] == pytest.approx(own, abs=rounding), name
            if not at_end:
                assert look["actual"] == pytest.approx(lens[:, ids[place]], abs=rounding), name


@in_a_browser
def test_the_browser_writes_what_mlx_writes(results):
    for name, (stop, text, found) in results.items():
        block_size, drawn = stop.model.config.block_size, found["drawn"]
        tokens = [stop.tokenizer.start_token, *stop.tokenizer.encode(text).tolist(), *drawn]
        ends = range(len(tokens) - WRITTEN, len(tokens))
        windows = [tokens[max(0, end - block_size) : end] for end in ends]
        assert len(drawn) == WRITTEN and {len(window) for window in windows} == {block_size}
        logits = np.array(stop.model(mx.array(windows))[:, -1])
        assert (logits.max(-1) - logits[np.arange(WRITTEN), drawn] < TIE).all(), name
        assert found["text"] == stop.tokenizer.decode(drawn), name


@in_a_browser
@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.7}, {"temperature": 2.0, "top_k": 9, "top_p": 0.8}]
)
def test_the_browser_draws_as_often_as_mlx(chromium, settings):
    logits = np.random.default_rng(1).normal(size=12).astype(np.float32)
    Path("page.html").write_text(f"<meta charset=utf-8><script>{read_scripts()}</script>", encoding="utf-8")
    chromium.open(Path("page.html"))
    own = {"temperature": 1, "seed": 7} | {{"top_k": "topK", "top_p": "topP"}.get(k, k): v for k, v in settings.items()}
    draw = f"const draw = makeSampler({as_script(own)}), logits = Float32Array.from({logits.tolist()});"
    drawn = chromium.run(f"(() => {{ {draw} return Array.from({{ length: {DRAWS} }}, () => draw(logits)); }})()")
    chances = probabilities(make_filter(**settings)(mx.array(logits[None])))[0]
    assert np.bincount(drawn, minlength=12) / DRAWS == pytest.approx(chances, abs=0.02)
    assert set(drawn) <= set(np.flatnonzero(chances))


# ---- the screen

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)><!--"
IDLE = "document.body.dataset.milliseconds && !by('text').readOnly"


@pytest.fixture
def screen(chromium):
    """Opens a page on stops, which begins with a text; returns a function that runs a script, and waits until its work is done."""

    def start(*stops: Stop, text: str = "to be", place: str = ""):
        Path("page.html").write_text(model_page(stops, text), encoding="utf-8")
        chromium.open(Path("page.html"), place)
        chromium.wait(IDLE)

        def act(script: str):
            chromium.run("delete document.body.dataset.milliseconds")
            chromium.run(script)
            chromium.wait(IDLE)
            return chromium.run("by('text').value")

        return act

    yield start
    assert not chromium.complaints  # no message, no error, no request


def plain_stop(run: str = "runs/1", seed: int = 3, **changes) -> Stop:
    return Stop(lively_model(tiny_gpt(**changes), seed).eval(), TOKENIZER, run, f"seed {seed}", f"{run}: play.txt")


@in_a_browser
def test_the_screen_shows_the_numbers_of_the_place_of_the_cursor(screen, chromium):
    stop = plain_stop()
    act = screen(stop, text="to be or", place="#3")

    def check(read: str, next_token: str) -> None:
        chromium.wait(f"fresh && look.place === {len(read)}")
        predicted = look_inside(stop.model, [TOKENIZER.start_token, *TOKENIZER.encode(read).tolist()])[0][-1]
        shown = chromium.run("Array.from(document.querySelectorAll('#candidates .number'), e => e.textContent)")
        assert [float(p[:-1]) for p in shown] == pytest.approx(100 * np.sort(predicted)[::-1][:10], abs=0.06)
        p = predicted[TOKENIZER.encode(next_token)[0]] if next_token else None
        said = f"The text has {next_token} next: " if next_token else "What comes next, after all of the text?"
        assert chromium.run("by('said').textContent").startswith(said)
        assert not next_token or f"{-np.log2(p):.2f} bits" in chromium.run("by('said').textContent")

    check("to ", "b")
    chromium.run("by('on').click()")
    check("to b", "e")
    chromium.run("by('text').focus(); by('text').setSelectionRange(1, 1)")
    check("t", "o")
    act("by('text').setSelectionRange(7, 8); document.execCommand('delete')")
    check("to be o", "")


@in_a_browser
def test_it_writes_the_same_with_the_same_seed_goes_another_way_and_takes_it_back(screen, chromium):
    act = screen(plain_stop())
    settings = "by('seed').value = 7; by('count').value = 30; by('temperature').value = 0.8; by('topK').value = 9; by('topP').value = 0.95;"
    first = act(f"{settings} by('write').click()")
    assert first.startswith("to be") and len(first) == 35
    assert act("by('undo').click()") == "to be" and act("by('write').click()") == first
    chromium.run("by('text').focus(); by('text').setSelectionRange(2, 2)")
    chromium.wait("look.place === 2")
    other = chromium.run("look.candidates.find(({ id }) => id !== look.id).text")
    way = act(
        "document.querySelectorAll('#candidates button')[look.candidates.findIndex(({ id }) => id !== look.id)].click()"
    )
    assert way.startswith("to" + other) and len(way) == len(first) and act("by('undo').click()") == first
    assert chromium.run("by('shown').textContent") == first + "\u200b"


@in_a_browser
def test_a_slider_goes_from_one_model_to_the_next_also_of_other_tokens(screen, chromium):
    pairs = byte_pairs()
    other = Stop(
        lively_model(tiny_gpt(vocab_size=pairs.vocab_size, n_layer=1)).eval(), pairs, "runs/2", "new", "runs/2: pairs"
    )
    act = screen(plain_stop(), other, text="to be or not")
    pieces = "Array.from(by('shown').querySelectorAll('span'), e => e.textContent)"
    assert chromium.run(pieces) != list("to be or not") and chromium.run("by('title').textContent") == "runs/2: pairs"
    act("by('stop').value = 0; by('stop').dispatchEvent(new Event('input'))")
    assert (
        chromium.run(pieces) == list("to be or not") and chromium.run("by('title').textContent") == "runs/1: play.txt"
    )
    assert chromium.run("by('heads').querySelectorAll('button').length") == 4


@in_a_browser
def test_undo_takes_back_the_newest_change_also_what_was_typed(screen, chromium):
    act = screen(plain_stop())
    wrote = act("by('count').value = 5; by('write').click()")
    act(
        "by('text').focus(); document.execCommand('insertText', false, ' o'); document.execCommand('insertText', false, 'r')"
    )
    assert act("by('clear').click()") == ""
    assert [act("by('undo').click()") for _ in range(3)] == [wrote + " or", wrote, "to be"]
    assert chromium.run("by('undo').disabled")


@in_a_browser
def test_the_cursor_stays_where_it_is_when_a_button_is_pressed(screen, chromium):
    act = screen(plain_stop(), plain_stop(seed=4), text="to be or not")
    chromium.run("by('text').focus(); by('text').setSelectionRange(5, 5)")
    chromium.wait("look.place === 5")
    chromium.run("by('on').focus(); by('on').click()")
    chromium.wait("look.place === 6")
    act("by('stop').focus(); by('stop').value = 0; by('stop').dispatchEvent(new Event('input'))")
    assert chromium.run("look.place") == 6
    first = act("by('count').value = 4; by('write').focus(); by('write').click()")
    assert first.startswith("to be ") and len(first) == 10
    act("by('stop').value = 1; by('stop').dispatchEvent(new Event('input'))")
    assert chromium.run("look.place") == 10 and act("by('write').click()").startswith(first)


@in_a_browser
def test_play_goes_through_all_stops_once_and_ends_what_is_being_written(screen, chromium):
    act = screen(*(plain_stop(seed=seed) for seed in (3, 4, 5)))
    chromium.run("by('count').value = 3000; by('write').click()")
    chromium.run("by('play').click()")
    chromium.wait("stop === 0 && !writing && !by('text').readOnly")
    chromium.run("by('text').focus(); for (const key of 'or not') document.execCommand('insertText', false, key)")
    seen = "new Promise(done => { const seen = []; const look = () => { if (seen.at(-1) !== stop) seen.push(stop); playing ? setTimeout(look, 20) : done(seen); }; look(); })"
    assert chromium.run(seen) == [0, 1, 2] and chromium.run("by('play').textContent") == "Play"
    act("by('text').focus(); document.execCommand('insertText', false, ' ')")


@in_a_browser
def test_writing_that_is_stopped_at_once_leaves_the_text_that_is_shown(screen, chromium):
    act = screen(plain_stop(), text="to be or not to be")
    chromium.run("by('text').focus(); by('text').setSelectionRange(8, 8)")
    for _ in range(2):
        text = act("by('write').click(); by('write').click()")
        assert chromium.run("by('shown').textContent") == text + "\u200b"
        assert chromium.run("look.place") == len(text)


@in_a_browser
def test_a_head_can_be_chosen_at_any_time(screen, chromium):
    act = screen(plain_stop(n_layer=3), plain_stop(n_layer=1))
    click = "by('heads').querySelectorAll('button')[1].click()"
    act(f"{click}; choose(0); {click}")
    act(f"by('clear').click(); by('count').value = 20; by('write').click(); {click}")
    assert chromium.run("by('heads').querySelector('[aria-pressed=true]').ariaLabel") == "layer 1, head 2"


@in_a_browser
def test_a_paste_of_unknown_characters_leaves_nothing_to_compute(screen, chromium):
    act = screen(plain_stop())
    assert act("by('text').focus(); by('text').select(); document.execCommand('insertText', false, '€€€€')") == "€€€€"
    chromium.wait("fresh && look.place === 0")


@in_a_browser
def test_a_carriage_return_is_shown_and_stays_a_token(screen, chromium):
    tokenizer = gpt.CharTokenizer("\n\rab")
    stop = Stop(lively_model(tiny_gpt(vocab_size=4)).eval(), tokenizer, "runs/1", "", "")
    act = screen(stop, text="ab\r\nb")
    assert act("by('text').focus(); document.execCommand('insertText', false, 'a')") == "ab␍\nba"
    bits = inspect(stop.model, tokenizer.encode("ab\r\nba"), tokenizer.start_token).surprise
    assert chromium.run("bits") == pytest.approx(bits, abs=ROUNDING)


@in_a_browser
def test_a_number_that_a_field_refuses_is_not_used(screen, chromium):
    act = screen(plain_stop())
    settings = "by('seed').value = 7; by('topK').value = '%s'; by('temperature').value = 1; by('count').value = '%s';"
    first = act(settings % ("", "") + "by('write').click()")
    assert len(first) == 5 + 200
    for top_k, count in (("-1", "0"), ("0.5", "-5"), ("1e99", "1e9")):
        assert act("by('undo').click()") == "to be"
        assert act(settings % (top_k, count) + "by('write').click()") == first
    chromium.run("by('text').maxLength = 205; by('write').click()")
    assert chromium.run("by('wrote').textContent") == "There is no room after the cursor."


@in_a_browser
def test_an_error_of_the_worker_is_told(chromium):
    page = model_page([plain_stop()]).replace('"n_layer": ', '"n_layer": 1')
    Path("page.html").write_text(page, encoding="utf-8")
    chromium.open(Path("page.html"))
    chromium.wait("!by('broken').hidden")
    assert chromium.run("by('broken').textContent").startswith("This browser could not compute the model: ")


@in_a_browser
def test_a_text_a_name_and_a_tokenizer_command_no_browser(screen, chromium):
    tokenizer = gpt.CharTokenizer("".join(sorted({*EVIL, "\u2028"})))
    stop = Stop(lively_model(tiny_gpt(vocab_size=tokenizer.vocab_size)).eval(), tokenizer, EVIL, EVIL, EVIL)
    act = screen(stop, stop, text=EVIL)
    assert chromium.run("by('shown').textContent") == EVIL + "\u200b" and chromium.run("document.title") == EVIL
    assert act("by('text').focus(); document.execCommand('insertText', false, '<a>éß')") == EVIL + "<a>éß"
    assert "It has never seen ß, and skips it." in chromium.run("by('cost').textContent")
    assert chromium.run("document.querySelectorAll('img, a').length") == 0


@in_a_browser
def test_a_notebook_shows_it_in_a_cell(chromium):
    shown = gpt.page(trained_run())
    assert shown.text and repr(shown) == "<Page of 0.1 MB>"
    Path("cell.html").write_text(f"<meta charset=utf-8>{shown._repr_html_()}", encoding="utf-8")
    chromium.open(Path("cell.html"))
    chromium.wait("frames[0].document.body.dataset.milliseconds")
    assert chromium.run("frames[0].document.getElementById('text').value") == shown.text
    assert not chromium.complaints


def test_the_page_asks_for_nothing_outside_itself():
    page = model_page([plain_stop()])
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttp|importScripts|src=", page)
    policy = re.search('Content-Security-Policy" content="(.*?)"', page).group(1)
    assert (
        policy
        == "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; worker-src blob:"
    )
    assert page.count("<script") == page.count("</script>") == 4 and "innerHTML" not in page


# ---- what a page holds


def test_many_parameters_are_rounded_and_too_many_are_refused(monkeypatch):
    stop = plain_stop()
    whole = len(pack([stop])[1][0])
    monkeypatch.setattr(pages, "MOST_IN_FLOAT32", stop.model.num_parameters())
    assert len(pack([stop])[1][0]) == whole and len(pack([stop, stop])[1][0]) == pytest.approx(whole / 2, abs=4)
    monkeypatch.setattr(pages, "MOST_PARAMETERS", 2 * stop.model.num_parameters() - 1)
    with pytest.raises(gpt.UserError, match="parameters are too many for a page, which holds .*; name fewer runs"):
        model_page([stop, stop])


def test_weights_that_are_no_numbers_are_refused():
    stop = plain_stop()
    stop.model.ln_f.weight = mx.full(stop.model.ln_f.weight.shape, mx.nan)
    with pytest.raises(gpt.UserError, match="some weights of runs/1 seed 3 are not finite; take another run"):
        model_page([stop])


def test_a_model_of_ones_own_is_refused():
    class OwnGPT(gpt.GPT):
        pass

    stop = Stop(OwnGPT(tiny_gpt()), TOKENIZER, "mine", "", "")
    with pytest.raises(
        gpt.UserError, match="of mine is not the GPT of this library, which a page computes: it has .*OwnGPT"
    ):
        model_page([stop])
