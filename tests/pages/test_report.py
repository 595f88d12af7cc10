"""The promises of a report: it needs nothing but itself, shows what the runs recorded, and no damage of a record breaks it."""

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import mlx_nanogpt as gpt
import pytest
from browser import browser, in_a_browser
from conftest import DATA, TEXT, tiny_run, trained_run
from mlx_nanogpt.pages.report import MOST_SAMPLES, Entry, report_page
from mlx_nanogpt.runs.log import to_text

pytest.importorskip("plotly")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A run of 40 steps with a sample every ten."""
    run = trained_run(tmp_path_factory.mktemp("report") / "run", num_iter=40, eval_interval=10, warmup_iters=20)
    write_log(run, [*steps_of(run), *(gpt.Sample(iteration, "to be") for iteration in (10, 20, 30, 40))])
    return run.path


@pytest.fixture
def trained(original):
    """A copy of that run, runs/1."""
    shutil.copytree(original, "runs/1")
    return gpt.open_run(Path("runs/1"))


def write_log(run: gpt.Run, lines: list) -> None:
    (run.path / "log.jsonl").write_text(to_text(lines))


def steps_of(run: gpt.Run) -> list[gpt.Progress]:
    return [line for line in run.log() if isinstance(line, gpt.Progress)]


def figures_of(page: str) -> dict:
    return json.loads(re.search(r'<script id="figures"[^>]*>(.*?)</script>', page, re.DOTALL).group(1))


def page_of(*runs: gpt.Run) -> str:
    return report_page([Entry(run, {"Text": run.corpus.name}) for run in runs])


def without_plotly(page: str) -> str:
    """The page without plotly's script, which is its longest."""
    return page.replace(max(re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL), key=len), "")


def test_the_curves_are_the_records_and_need_no_model(trained, monkeypatch):
    monkeypatch.setattr(gpt.GPT, "__init__", lambda *_: pytest.fail("a model was made"))
    (trained.path / "best.safetensors").unlink()
    figures = figures_of(page_of(trained))
    traces = {trace["name"]: trace for trace in figures["losses"]["data"]}
    history, steps = trained.history(), steps_of(trained)
    assert traces["one batch"]["x"] == [10, 20, 30, 40]
    valid = [evaluation.valid_loss for evaluation in history]
    assert traces["one batch"]["y"] == pytest.approx([step.loss for step in steps], abs=1e-5)
    assert traces["training"]["y"] == pytest.approx([evaluation.train_loss for evaluation in history], abs=1e-5)
    assert traces["validation"]["y"] == pytest.approx(valid, abs=1e-5)
    assert traces["best"]["y"] == pytest.approx([min(valid)], abs=1e-5)
    assert traces["best"]["x"] == [history[valid.index(min(valid))].iteration]
    for trace, name in zip(figures["steps"]["data"], ("learning_rate", "grad_norm", "tokens_per_second")):
        assert trace["y"] == pytest.approx([getattr(step, name) for step in steps], rel=1e-4)


def test_the_buttons_show_tokens_and_time(trained):
    buttons = figures_of(page_of(trained))["losses"]["layout"]["updatemenus"][0]["buttons"]
    assert [button["label"] for button in buttons] == ["Steps", "Tokens", "Seconds of training"]
    validation = [button["args"][0]["x"][2] for button in buttons]
    seconds = [evaluation.train_seconds for evaluation in trained.history()]
    assert validation[0] == [10, 20, 30, 40] and validation[1] == [steps * 4 * 8 for steps in validation[0]]
    assert validation[2] == pytest.approx([sum(seconds[:n]) for n in range(1, 5)], abs=0.01)


def test_a_rate_that_never_changes_is_not_drawn_as_zero(trained):
    write_log(trained, [replace(step, learning_rate=0.001) for step in steps_of(trained)])
    assert figures_of(page_of(trained))["steps"]["layout"]["yaxis"]["range"] == pytest.approx([0, 0.0011])


def test_several_runs_stand_beside_each_other_with_a_verdict(trained):
    other = trained_run(num_iter=4, n_layer=2)
    page = page_of(other, trained)
    names = [trace["name"] for trace in figures_of(page)["losses"]["data"]]
    assert names[0] == "runs/2: one batch" and names[-1] == "runs/1: best"
    assert re.findall(r"<td( class=best)?>(runs/\d)</td>", page) == [("", "runs/2"), (" class=best", "runs/1")]
    losses = [min(evaluation.valid_loss for evaluation in run.history()) for run in (trained, other)]
    assert f"The best is runs/1: in text that the model has never seen, a token costs it {losses[0]:.4f} nats" in page
    assert f"runs/2 is {losses[1] - losses[0]:.4f} nats behind." in page
    (differing,) = re.findall("in the order of the table: (.*?)\\.<", page)
    assert sorted(re.split(r"(?<=\)), ", differing)) == [
        "eval_interval (4, 10)",
        "n_layer (2, 1)",
        "num_iter (4, 40)",
        "warmup_iters (0, 20)",
    ]
    assert "At its best: in text" in page_of(trained)


def test_a_run_without_records_has_a_report_too():
    page = report_page([Entry(tiny_run('a<b>"c'), {}), Entry(tiny_run(), {})])
    assert "class=best" not in page and "No evaluation is recorded yet." in page and "kept no samples" in page
    assert figures_of(page)["losses"]["data"][0]["name"] == 'a&lt;b&gt;"c: one batch'  # plotly shows &quot; as it is


def test_a_run_of_the_users_own_model_has_its_curves():
    class OwnGPT(gpt.GPT):
        pass

    run = tiny_run(num_iter=10, backend="eager")
    assert list(gpt.train(run, DATA, model=OwnGPT(run.gpt_config)))
    page = report_page([Entry(run, {})])
    assert [len(trace["x"]) for trace in figures_of(page)["losses"]["data"]] == [1, 3, 3, 1]


def test_runs_on_different_texts_are_not_compared(trained):
    other = gpt.create_run(trained.gpt_config, trained.train_config, gpt.tokenize(gpt.Corpus(("x",), TEXT[::-1])))
    page = page_of(trained, other)
    assert "so their losses do not compare" in page and "class=best" not in page and "The best is" not in page


def test_a_long_run_shows_some_samples_from_its_beginning_to_its_end(trained):
    write_log(trained, [gpt.Sample(iteration, "to be") for iteration in range(1, 41)])
    shown = [int(iteration) for iteration in re.findall(r"after (\d+) steps", page_of(trained))]
    assert len(shown) == MOST_SAMPLES and shown[0] == 1 and shown[-1] == 40


@pytest.mark.parametrize("damage", ["gone", "half", "garbage", "empty"])
def test_a_damaged_log_breaks_nothing(trained, damage):
    file = trained.path / "log.jsonl"
    content = file.read_bytes()
    damaged = {"half": content[:-20], "garbage": b"\xff\0{" * 99, "empty": b""}
    file.unlink() if damage == "gone" else file.write_bytes(damaged[damage])
    page = page_of(trained)
    assert len(figures_of(page)["losses"]["data"][2]["x"]) == 4
    assert ("kept no samples" in page) == (damage != "half")


def test_a_text_commands_no_browser(trained):
    evil = "</script><script>alert(1)</script>"
    write_log(trained, [gpt.Sample(4, evil)])
    page = report_page([Entry(trained, {evil: evil})])
    assert "alert(1)</script>" not in without_plotly(page) and page.count("&lt;/script&gt;") >= 4


def test_the_page_asks_for_nothing_outside_itself(trained):
    page = without_plotly(page_of(trained))
    assert not re.search(r"https?://|@import|url\(|src=(?!doc)", page) and "default-src 'none'" in page


def test_without_plotly_the_extra_is_named(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(gpt.UserError, match=r'plotly.*pip install -e "\.\[report\]"'):
        page_of(trained)


@in_a_browser
def test_a_browser_draws_it_without_a_complaint(trained):
    Path("page.html").write_text(page_of(trained), encoding="utf-8")
    with browser() as chromium:
        chromium.open(Path("page.html"))
        assert chromium.run("document.querySelectorAll('.main-svg').length") >= 2 and not chromium.complaints
