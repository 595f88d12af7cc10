"""The promises of a page with a model inside: a browser computes what MLX computes, and needs nothing but the page."""

import json
import re
from dataclasses import replace
from pathlib import Path

import mlx_nanogpt as gpt
import mlx.core as mx
import numpy as np
import pytest
from browser import CHROMIUM, browser
from conftest import ARCHITECTURES, TEXT, TOKENIZER, byte_pairs, lively_model, tiny_gpt
from mlx.utils import tree_map
from mlx_nanogpt.model import GPT
from mlx_nanogpt.pages import page as pages
from mlx_nanogpt.pages.page import HERE, SCRIPTS, Stop, as_script, model_page, pack

PLACES = (
    0,
    3,
    8,
    17,
)  # where all numbers are compared: in the first window, at its end, in a later one, and after all of the text
WRITTEN = 200
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
        name: (Stop(lively_model(tiny_gpt(**changes)).eval(), TOKENIZER, name, ""), text)
        for name, changes in CASES.items()
    }
    for name, tokenizer in tokenizers.items():
        config = tiny_gpt(vocab_size=tokenizer.vocab_size)
        cases[name] = (
            Stop(lively_model(config).eval(), tokenizer, name, ""),
            "the question, slings and arrows; nobler?\nto be or not to be",
        )
    return cases


@pytest.fixture(scope="module")
def results(tmp_path_factory):
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
                    "texts": [text, STRANGE, TEXT], "places": PLACES, "written": WRITTEN,
                }  # fmt: skip
                model = lively_model(stop.model.config).eval()
                if half:
                    model.update(tree_map(lambda p: p.astype(mx.float16).astype(mx.float32), model.parameters()))
                models[title] = replace(stop, model=model), text
    page = tmp_path_factory.mktemp("page") / "page.html"
    scripts = "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    page.write_text(
        f"<meta charset=utf-8><script>{scripts}{DRIVER}const cases = {as_script(orders)};</script>", encoding="utf-8"
    )
    with browser() as chromium:
        chromium.open(page)
        script = "(async () => { const all = {}; for (const name in cases) all[name] = await compute(cases[name]); return JSON.stringify(all); })()"
        found = json.loads(chromium.run(script))
        assert not chromium.complaints
    return {title: (*models[title], found[title]) for title in orders}


def in_a_browser(test):
    return pytest.mark.programs(pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")(test))


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
