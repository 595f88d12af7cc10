"""How fast the page of `mlx-gpt page` computes in Chromium, without training a model first: the time of a keystroke and the speed of
writing, within the context and beyond it.

    python benchmarks/page.py
"""

import random
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import mlx_nanogpt as gpt
from mlx_nanogpt.pages.page import Stop, model_page

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "pages"))
from browser import browser

KEYS = 15
LETTERS = "".join(map(chr, range(32, 97)))  # 65 characters, as tiny Shakespeare has
SHAPES = {name: gpt.preset(name)[0] for name in ("minute", "modern", "baby")} | {"default": gpt.GPTConfig()}
TYPE = """
(async () => {
  const times = [];
  for (const key of %r) {
    delete document.body.dataset.milliseconds;
    document.execCommand("insertText", false, key);
    while (!document.body.dataset.milliseconds) await new Promise(requestAnimationFrame);
    times.push(Number(document.body.dataset.milliseconds));
  }
  return times;
})()
"""
WRITE = """
(async () => {
  delete document.body.dataset.rate;
  by("count").value = %d;
  by("write").click();
  while (!document.body.dataset.rate) await new Promise(requestAnimationFrame);
  return Number(document.body.dataset.rate);
})()
"""


def main() -> None:
    with TemporaryDirectory() as work, browser() as chromium:
        for name, config in SHAPES.items():
            model, T = gpt.GPT(config), config.block_size
            text = "".join(random.Random(1).choices(LETTERS, k=T - KEYS - 1))
            page = Path(work, "page.html")
            page.write_text(model_page([Stop(model, gpt.CharTokenizer(LETTERS), name, name)], text), encoding="utf-8")
            chromium.open(page)
            chromium.wait("document.body.dataset.milliseconds")
            chromium.run("by('text').focus()")
            within = median(chromium.run(TYPE % LETTERS[:KEYS]))
            beyond = median(chromium.run(TYPE % LETTERS[: KEYS // 3]))
            chromium.run("by('clear').click()")
            cached = chromium.run(WRITE % (T - 2))
            chromium.run("by('text').setSelectionRange(1e6, 1e6)")
            slow = chromium.run(WRITE % 10)
            print(
                f"{name}: {model.num_parameters():,} parameters, {page.stat().st_size / 1e6:.1f} MB. A keystroke takes {within:.0f} ms "
                f"within the context and {beyond:.0f} ms beyond it; it writes {cached:,.0f} and {slow:,.1f} tokens/s.",
                flush=True,
            )


if __name__ == "__main__":
    main()
