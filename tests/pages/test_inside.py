"""The promises of a page on the inside of a model: it needs nothing but itself, and shows the numbers of the model."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import mlx_nanogpt as gpt
import numpy as np
import pytest
from conftest import TOKENIZER, byte_pairs, lively_model, tiny_gpt
from mlx_nanogpt.pages.inside import MOST_WEIGHTS, inside_page, most_tokens
from mlx_nanogpt.pages.inspection import inspect, look_inside

MODEL = lively_model(tiny_gpt()).eval()
IDS = TOKENIZER.encode("to be or not, question\nthat is")
PAGE = inside_page(MODEL, TOKENIZER, IDS, "runs/1: play.txt")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', page, re.DOTALL).group(1))


def test_the_page_holds_all_predictions_of_the_model():
    data, found, inside = data_of(PAGE), inspect(MODEL, IDS, 0), look_inside(MODEL, IDS, 0)
    assert "".join(data["pieces"]) == "to be or not, question\nthat is"
    assert data["surprise"] == pytest.approx(found.surprise, abs=1e-4)
    assert np.array(data["expected"])[..., 2].astype(float) == pytest.approx(found.probabilities, abs=1e-6)
    assert np.array(data["lens"])[..., 2].astype(float) == pytest.approx(inside.probabilities, abs=1e-6)


def test_the_page_asks_for_nothing_outside_itself():
    assert not re.search(r"https?://|//\w+\.\w+/|@import|url\(", PAGE)
    assert "default-src 'none'" in PAGE  # so that a browser would refuse to


def test_a_text_cannot_end_the_data():
    tokenizer = byte_pairs()
    text = "</script><script>alert(1)</script><!-- déjà 🙂"
    model = lively_model(tiny_gpt(vocab_size=tokenizer.vocab_size, block_size=64))
    page = inside_page(model, tokenizer, tokenizer.encode(text), text)
    assert "".join(data_of(page)["pieces"]) == text == data_of(page)["origin"]
    assert page.count("<script") == 2


@pytest.mark.parametrize("preset", gpt.PRESETS)
def test_a_page_stays_small(preset):
    config, _ = gpt.preset(preset)
    model = type("Model", (), {"config": config})
    tokens = most_tokens(model)
    assert tokens >= 100
    assert config.n_layer * config.n_head * tokens * min(tokens, config.block_size) <= MOST_WEIGHTS


# ---- in a browser


def in_a_browser(test):
    return pytest.mark.programs(pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")(test))


@in_a_browser
@pytest.mark.parametrize("place", [0, 5, 22, 29])
def test_a_browser_shows_the_numbers_of_the_model(place):
    dom = dom_of(PAGE, f"#{place}")
    found, inside = inspect(MODEL, IDS, 0), look_inside(MODEL, IDS, 0)
    token = TOKENIZER.decode([int(IDS[place])]).replace("\n", "⏎").replace(" ", "␣")
    chosen = html.unescape(re.sub("<[^>]+>", "", part(dom, "chosen")))
    assert chosen.startswith(f"{token} cost {found.surprise[place]:.2f} bits")
    expected = list(100 * found.probabilities[place])
    if IDS[place] not in found.expected[place]:  # a row of its own
        expected.append(100 * 2 ** -found.surprise[place])
    assert percents(r'"number">([\d.]+)%', part(dom, "expected")) == pytest.approx(expected, abs=0.06)
    assert part(dom, "expected").count("← the text") == 1
    lens = 100 * inside.probabilities[:, place].reshape(-1)
    assert percents(r"</code>([\d.]+)%", part(dom, "lens")) == pytest.approx(lens, abs=0.06)
    looked = percents(r"\((\d+)%\)", part(dom, "looked"))
    greatest = 100 * np.sort(inside.attention[-1, 0, place])[::-1][: len(looked)]
    assert looked and looked == pytest.approx(greatest, abs=1)


def dom_of(page: str, place: str = "") -> str:
    """The elements that Chromium makes of `page`, opened at a `place`."""
    Path("page.html").write_text(page, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000", "--enable-logging=stderr"]
    address = f"{Path('page.html').absolute().as_uri()}{place}"
    command = [CHROMIUM, *options, "--dump-dom", address]
    result = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    assert "CONSOLE" not in result.stderr  # no error, and no request that was refused
    return result.stdout


def part(dom: str, name: str) -> str:
    """The content of the element that has the id `name`."""
    return re.search(rf'<(\w+)[^>]* id="{name}"[^>]*>(.*?)</\1>', dom, re.DOTALL).group(2)


def percents(pattern: str, dom: str) -> list[float]:
    return [float(percent) for percent in re.findall(pattern, dom)]
