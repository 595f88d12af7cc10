"""How fast the page of `mlx-gpt page` computes in Chromium, and how far it is from MLX: the time of a keystroke and the speed of
writing, within the context and beyond it, and the largest difference of a token's surprise, in bits.

    python benchmarks/page.py              # untrained models of several presets
    python benchmarks/page.py runs/1 ...   # or runs
"""

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import mlx_nanogpt as gpt
import numpy as np
from mlx_nanogpt.pages.inspection import find_excerpt, inspect
from mlx_nanogpt.pages.page import Stop, model_page

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "pages"))
from browser import browser

KEYS = 15
LETTERS = "".join(map(chr, range(32, 97)))  # 65 characters, as tiny Shakespeare has
PRESETS = ("nanolux", "minute", "modern", "baby")
TYPE = """
(async () => {
  const times = [];
  for (const key of %s) {
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


def open_stop(name: str) -> tuple[Stop, str]:
    """Return the run at the path `name`, or an untrained model of that preset, and a text of nearly a context."""
    if name in PRESETS:
        config = gpt.preset(name)[0]
        text = "".join(random.Random(1).choices(LETTERS, k=config.block_size - KEYS - 1))
        return Stop(gpt.GPT(config), gpt.CharTokenizer(LETTERS), name, "", ""), text
    run = gpt.open_run(name)
    text = run.tokenizer.decode(find_excerpt(run)[: run.gpt_config.block_size - KEYS - 1])
    return Stop(run.load_model(), run.tokenizer, name, "", ""), text


def main(names: Sequence[str]) -> None:
    with TemporaryDirectory() as work, browser() as chromium:
        for name in names:
            stop, text = open_stop(name)
            page = Path(work, "page.html")
            page.write_text(model_page([stop], text), encoding="utf-8")
            chromium.open(page)
            chromium.wait("document.body.dataset.milliseconds")
            chromium.run("by('text').focus()")
            keys = TYPE % json.dumps(list(text[:KEYS]))
            within = median(chromium.run(keys))
            ids = stop.tokenizer.encode(text + text[:KEYS])
            bits = inspect(stop.model, ids, stop.tokenizer.start_token).surprise
            difference = np.abs(np.array(chromium.run("bits")) - bits).max()
            chromium.run(TYPE % json.dumps([text]))
            beyond = median(chromium.run(keys))
            chromium.run("by('clear').click()")
            cached = chromium.run(WRITE % (stop.model.config.block_size - 2))
            chromium.run("by('text').setSelectionRange(1e6, 1e6)")
            slow = chromium.run(WRITE % 10)
            print(
                f"{name}: {stop.model.num_parameters():,} parameters, {page.stat().st_size / 1e6:.1f} MB. A keystroke takes {within:.0f} ms "
                f"within the context and {beyond:.0f} ms beyond it; it writes {cached:,.0f} and {slow:,.1f} tokens/s. "
                f"Largest difference from MLX: {difference:.1g} bits.",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:] or PRESETS)
