"""The promises of a report: it needs nothing but itself, shows what the runs recorded, and no damage of a record breaks it."""

import json
import re
import sys
from dataclasses import replace

import mlx_nanogpt as gpt
import numpy as np
import pytest
from conftest import DATA, TEXT, finish, tiny_run
from mlx_nanogpt.measure.benchmark import PUBLISHED
from mlx_nanogpt.pages.inside import inside_page
from mlx_nanogpt.pages.report import MOST_EXCERPTS, Entry, report_page
from mlx_nanogpt.runs.log import measurements, to_text
from test_inside import CHROMIUM, dom_of

pytest.importorskip("plotly")
INSIDE = "<p>the inside</p>"


@pytest.fixture
def trained():
    run = tiny_run(num_iter=40, eval_interval=10, warmup_iters=20)
    finish(run, sample_tokens=6)
    return run


def figures_of(page: str) -> dict:
    return json.loads(re.search(r'<script id="figures"[^>]*>(.*?)</script>', page, re.DOTALL).group(1))


def page_of(*runs: gpt.Run, published: bool = False, **more) -> str:
    return report_page([Entry(run, {"Text": run.corpus.name}, **more) for run in runs], published, INSIDE)


def without_plotly(page: str) -> str:
    """The page without plotly's script, which is its longest."""
    return page.replace(max(re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL), key=len), "")


def test_the_curves_are_the_records(trained):
    traces = {trace["name"]: trace for trace in figures_of(page_of(trained))["losses"]["data"]}
    history, log = trained.history(), measurements(trained.log())
    assert traces["one batch"]["x"] == [10, 20, 30, 40]
    assert traces["one batch"]["y"] == pytest.approx([line.loss for line in log], abs=1e-5)
    assert traces["training"]["y"] == pytest.approx([each.train_loss for each in history], abs=1e-5)
    assert traces["validation"]["y"] == pytest.approx([each.valid_loss for each in history], abs=1e-5)
    assert traces["best"]["y"] == pytest.approx([min(each.valid_loss for each in history)], abs=1e-5)
    rate, norm, speed = figures_of(page_of(trained))["steps"]["data"]
    assert rate["y"] == pytest.approx([line.learning_rate for line in log], rel=1e-4)
    assert norm["y"] == pytest.approx([line.grad_norm for line in log], rel=1e-4)
    assert speed["y"] == pytest.approx([line.tokens_per_second for line in log], rel=1e-4)


def test_the_buttons_show_tokens_and_time(trained):
    buttons = figures_of(page_of(trained))["losses"]["layout"]["updatemenus"][0]["buttons"]
    assert [button["label"] for button in buttons] == ["Steps", "Tokens", "Seconds of training"]
    validation = [button["args"][0]["x"][2] for button in buttons]
    seconds = [each.train_seconds for each in trained.history()]
    assert validation[0] == [10, 20, 30, 40] and validation[1] == [steps * 4 * 8 for steps in validation[0]]
    assert validation[2] == pytest.approx([sum(seconds[:n]) for n in range(1, 5)], abs=0.01)


def test_between_evaluations_time_passes_as_the_speeds_of_the_log_say():
    run = tiny_run(num_iter=40, eval_interval=40)
    finish(run)
    speeds = [1.0, 10.0, 10.0, 10.0]  # compiling makes the first steps slow
    log = [replace(line, tokens_per_second=speed) for line, speed in zip(run.log(), speeds)]
    (run.path / "log.jsonl").write_text(to_text(log))
    button = figures_of(page_of(run))["losses"]["layout"]["updatemenus"][0]["buttons"][2]
    seconds, whole = button["args"][0]["x"][0], run.history()[0].train_seconds
    # the last ten steps have the mean speed of the lines before
    times = np.cumsum([10, 1, 1, 10 / 7])
    assert seconds == pytest.approx(times / times[-1] * whole, abs=0.01)


def test_a_rate_that_never_changes_is_not_drawn_as_nothing():
    run = tiny_run(num_iter=20)
    finish(run)
    steps = figures_of(page_of(run))["steps"]
    assert steps["data"][0]["y"] == [0.001, 0.001]
    assert steps["layout"]["yaxis"]["range"] == pytest.approx([0, 0.0011])


def test_lines_for_what_others_reached_are_drawn_where_they_are_known(trained):
    assert figures_of(page_of(trained))["losses"]["layout"].get("shapes") is None
    layout = figures_of(page_of(trained, published=True, floor=0.5))["losses"]["layout"]
    assert {shape["y0"] for shape in layout["shapes"]} == {0.5, *(metrics.valid_loss for metrics in PUBLISHED.values())}


def test_several_runs_stand_beside_each_other_and_the_best_is_marked(trained):
    other = tiny_run(num_iter=80, eval_interval=20)
    finish(other, sample_tokens=6)
    page = page_of(trained, other)
    names = [trace["name"] for trace in figures_of(page)["losses"]["data"]]
    assert names[0] == "runs/1: one batch" and names[-1] == "runs/2: best"
    assert re.findall(r"<td( class=best)?>(runs/\d)</td>", page) == [("", "runs/1"), (" class=best", "runs/2")]
    assert page.count("<h3>") == 2


def test_the_verdict_names_the_best_run_and_what_differs(trained):
    other = tiny_run(num_iter=4, n_layer=1)
    finish(other)
    losses = [min(each.valid_loss for each in run.history()) for run in (trained, other)]
    page = page_of(other, trained)
    assert f"The best is runs/1: in text that the model has never seen, a token costs it {losses[0]:.4f} nats" in page
    assert f"runs/2 is {losses[1] - losses[0]:.4f} nats behind." in page
    (differing,) = re.findall("in the order of the table: (.*?)\\.<", page)
    assert sorted(re.split(r"(?<=\)), ", differing)) == [
        "eval_interval (4, 10)",
        "n_layer (1, 2)",
        "num_iter (4, 40)",
        "warmup_iters (0, 20)",
    ]
    assert "At its best: in text" in page_of(trained)


def test_without_an_evaluation_no_run_is_the_best():
    assert "class=best" not in page_of(tiny_run(), tiny_run())


def test_the_names_of_runs_are_no_tags():
    names = [trace["name"] for trace in figures_of(page_of(tiny_run('a<b>"c'), tiny_run()))["losses"]["data"]]
    assert names[0] == 'a&lt;b&gt;"c: one batch'  # plotly shows &quot; as it is


def test_runs_on_different_texts_are_not_compared(trained):
    other = gpt.create_run(trained.gpt_config, trained.train_config, gpt.tokenize(gpt.Corpus(("x",), TEXT[::-1])))
    page = page_of(trained, other)
    assert "so their losses do not compare" in page and "class=best" not in page and "The best is" not in page


def test_a_long_training_shows_some_samples_from_its_beginning_to_its_end():
    run = tiny_run(num_iter=30, eval_interval=1, eval_iters=1)
    finish(run, sample_tokens=2)
    shown = [int(each) for each in re.findall(r"after (\d+) steps", page_of(run))]
    assert len(shown) == MOST_EXCERPTS and shown[0] == 1 and shown[-1] == 30


@pytest.mark.parametrize("damage", ["gone", "half", "garbage", "empty"])
def test_a_damaged_log_breaks_nothing(trained, damage):
    file = trained.path / "log.jsonl"
    content = file.read_bytes()
    damaged = {"half": content[: len(content) // 2], "garbage": b"\xff\0{" * 99, "empty": b""}
    file.unlink() if damage == "gone" else file.write_bytes(damaged[damage])
    page = page_of(trained)
    assert len(figures_of(page)["losses"]["data"][2]["x"]) == 4
    assert ("kept no samples" in page) == (damage != "half")


def test_a_run_that_has_just_begun_has_a_report():
    assert "kept no samples" in page_of(tiny_run())


def test_a_text_commands_no_browser():
    evil = "</script><script>alert(1)</script>"
    run = tiny_run(num_iter=4)
    finish(run)
    (run.path / "log.jsonl").write_text(json.dumps({"iteration": 4, "text": evil}) + "\n")
    page = report_page([Entry(run, {evil: evil})], False, evil)
    assert "alert(1)</script>" not in without_plotly(page) and page.count("&lt;/script&gt;") >= 4


def test_the_page_asks_for_nothing_outside_itself(trained):
    page = without_plotly(page_of(trained))
    assert not re.search(r"https?://|@import|url\(|src=(?!doc)", page) and "default-src 'none'" in page


def test_without_plotly_the_extra_is_named(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(gpt.UserError, match=r'plotly.*pip install -e "\.\[report\]"'):
        page_of(trained)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
@pytest.mark.slow
def test_a_browser_draws_it_without_a_complaint(trained):
    inside = inside_page(trained.load_model(), DATA.tokenizer, DATA.valid_tokens[:50], "a run")
    dom = dom_of(report_page([Entry(trained, {})], True, inside))
    assert dom.count('class="main-svg"') >= 2
    assert int(re.search(r'<iframe[^>]*style="height: (\d+)px', dom).group(1)) > 500  # all of the inside
