"""The promises of mlx_nanogpt/examples: each runs from top to bottom, and the numbers that the notebook shows are those that it computes."""

import json
import re
import runpy
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import mlx_nanogpt as gpt
import pytest
from conftest import arrays, same

EXAMPLES = Path(gpt.__file__).parent / "examples"
CELLS = json.loads((EXAMPLES / "lecture.ipynb").read_text(encoding="utf-8"))["cells"]
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def check_same(computed: str, shown: str) -> None:
    """Two texts are the same, but for two units in the last place of a number with decimals: sums in another order round otherwise."""
    assert NUMBER.sub("#", computed) == NUMBER.sub("#", shown)
    for found, expected in zip(NUMBER.findall(computed), NUMBER.findall(shown)):
        decimals = len(expected.partition(".")[2])
        difference = abs(float(found.replace(",", "")) - float(expected.replace(",", "")))
        assert difference <= (2.01 * 10**-decimals if decimals else 0), (found, expected)


@pytest.mark.parametrize("found, is_same", [("2.33 of 16", True), ("2.34 of 16", False), ("2.31 of 15", False)])
def test_another_number_is_noticed(found, is_same):
    with pytest.raises(AssertionError) if not is_same else redirect_stdout(None):
        check_same(found, "2.31 of 16")


def test_the_notebook_has_eight_steps_and_each_asks_before_it_shows():
    steps: list[list[str]] = []
    for cell in CELLS:
        source = "".join(cell["source"])
        if re.search(r"^## \d\. ", source, re.M):
            steps.append([])
        if steps:
            steps[-1].append("ask" if "**Predict:**" in source else cell["cell_type"])
    assert len(steps) == 8 and all(step[:2] == ["ask", "code"] for step in steps)


@pytest.mark.slow
def test_the_notebook_computes_what_it_shows():
    pictures: list[str] = []

    def show(value) -> None:
        pictures.append(value._repr_html_())

    def display(value, display_id: bool) -> SimpleNamespace:  # Jupyter's
        show(value)
        return SimpleNamespace(update=show)

    names: dict = {"display": display}
    for i, cell in enumerate(CELLS):
        if cell["cell_type"] != "code":
            continue
        with redirect_stdout(StringIO()) as output:
            exec(compile("".join(cell["source"]), f"cell {i}", "exec"), names)
        shown = "".join(line for each in cell["outputs"] for line in each["text"])
        if "varies" not in cell["metadata"].get("tags", ()):
            check_same(output.getvalue(), shown)
    counts = [picture.count("<circle") for picture in pictures]
    assert counts[0] == 0 and sorted(counts) == counts and counts[-1] == 3
    ElementTree.fromstring(pictures[-1].partition("<div>")[0])


@pytest.mark.slow
def test_the_loop_in_the_open_learns_what_train_learns():
    names = runpy.run_path(str(EXAMPLES / "own_loop.py"))
    run = gpt.create_run(names["gpt_config"], replace(names["train_config"], eval_iters=1), names["data"])
    list(gpt.train(run, names["data"]))
    assert same(*(arrays(model.parameters()) for model in (names["model"], run.load_model(last=True))))
