"""The promises of the benchmark: the seed's six metrics as defined, an honest list of what may not be compared, and
measurements that are made and not made up."""

import shutil
import subprocess
from dataclasses import replace

import mlx_nanogpt as gpt
import mlx.core as mx
import pytest
from mlx_nanogpt import Evaluation, GPTConfig, TrainConfig
from conftest import TEXT
from mlx_nanogpt.measure import benchmark
from mlx_nanogpt.measure.benchmark import PUBLISHED, Rounds, Stage, nanolux_differences, nanolux_metrics


def evaluation(iteration: int, train_seconds: float, eval_seconds: float, loss: float) -> Evaluation:
    return Evaluation(iteration, loss, loss + 0.5, 1000, train_seconds, 100, eval_seconds, "play.txt", "cpu")


def test_the_metrics_are_those_of_the_seed():
    metrics = nanolux_metrics([evaluation(500, 9, 2, 3.0), evaluation(1000, 4, 3, 2.0), evaluation(1500, 6, 4, 1.0)])
    assert (metrics.first_epoch, metrics.average_epoch) == (9, 5)  # the first, which compiles, is not in the average
    assert (metrics.estimate, metrics.total) == (3, 28)
    assert (metrics.train_loss, metrics.valid_loss) == (1.0, 1.5)


def test_a_shorter_stretch_of_a_run_that_was_extended_is_no_epoch():
    last = replace(evaluation(1100, 1, 4, 1.0), train_tokens=200)
    metrics = nanolux_metrics([evaluation(500, 9, 2, 3.0), evaluation(1000, 4, 3, 2.0), last])
    assert (metrics.average_epoch, metrics.total) == (4, 23)


def test_one_epoch_has_no_average():
    assert nanolux_metrics([evaluation(500, 9, 2, 3.0)]).average_epoch is None


def test_the_published_columns_are_the_published_ones():
    assert (PUBLISHED["Reactant"].total, PUBLISHED["Reactant"].valid_loss) == (504, 1.78198)
    assert (PUBLISHED["Zygote"].total, PUBLISHED["Zygote"].valid_loss) == (873, 1.78110)


def test_the_seeds_own_protocol_departs_in_nothing():
    assert nanolux_differences(GPTConfig(vocab_size=99), TrainConfig(eval_iters=1000, seed=3, backend="eager")) == {}


@pytest.mark.parametrize("gpt, train, name", [({"n_layer": 2}, {}, "n_layer"), ({}, {"num_iter": 10}, "num_iter")])
def test_a_departure_is_named_with_both_values(gpt, train, name):
    here, there = (gpt | train)[name], {"n_layer": 6, "num_iter": 5000}[name]
    assert nanolux_differences(GPTConfig(**gpt), TrainConfig(**{"eval_iters": 1000} | train)) == {name: (here, there)}


@pytest.mark.parametrize(
    "values, steady",
    [
        ([1.0], True),
        ([1.0] * 11 + [9.0], True),  # one slow round: the median does not feel it
        ([1.0] * 6 + [1.19] * 6, True),
        ([1.0] * 6 + [1.3] * 6, False),
        ([1.0, 1.1, 1.4, 2.0, 3.0], False),
    ],
)
def test_a_figure_is_steady_if_the_middle_half_of_its_rounds_lies_within_a_fifth(values, steady):
    assert Rounds.of(values).steady is steady
    assert Rounds.of([1000 / value for value in values]).steady is steady  # a rate as well as a time


# ---- the benchmark itself, on a protocol small enough for a test


def events_of(quick: bool) -> list:
    return list(gpt.bench(gpt.Corpus(("play.txt",), TEXT), quick))


def test_the_whole_benchmark_trains_by_the_protocol_on_both_backends(small_protocol):
    *events, result = events_of(quick=False)
    assert [each.backend for each in result.backends] == ["compiled", "eager"]
    evaluations = [event for event in events if isinstance(event, Evaluation)]
    assert [event.iteration for event in evaluations] == [2, 4, 2, 4]
    for each, history in zip(result.backends, (evaluations[:2], evaluations[2:])):
        assert each.metrics == nanolux_metrics(history) and not each.extrapolated
    compiled, eager = (each.metrics.valid_loss for each in result.backends)
    assert compiled == pytest.approx(eager, abs=1e-5)


def test_a_quick_benchmark_trains_nothing_to_the_end_and_says_so(small_protocol):
    *events, result = events_of(quick=True)
    assert all(isinstance(event, Stage) for event in events)
    for each in result.backends:
        assert each.extrapolated and each.metrics.train_loss is None and each.metrics.valid_loss is None
        assert each.metrics.average_epoch == 2 * each.step_seconds.median
        assert each.metrics.estimate == pytest.approx(2 * 4 * each.evaluation_seconds_per_window.median)
        assert each.metrics.total == pytest.approx(
            each.compile_seconds + 2 * (each.metrics.average_epoch + each.metrics.estimate)
        )


def test_compiling_takes_operations_out_of_a_step(small_protocol):
    compiled, eager = events_of(quick=True)[-1].backends
    assert 0 < compiled.operations < eager.operations


def test_a_graphs_operations_are_counted_apart_from_its_views():
    x = mx.array([[1.0, 2.0], [3.0, 4.0]])
    assert benchmark.graph_size((x.T @ x).reshape(4) + mx.exp(x).reshape(4)) == (3, 3)


def test_the_arithmetic_of_a_token_is_six_for_each_weight_and_the_attention():
    model = gpt.GPT(GPTConfig(vocab_size=5, block_size=7, n_layer=1, n_embd=4, head_size=2))
    weights = 4 * 12 + (4 * 4 + 4) + (4 * 16 + 16) + (16 * 4 + 4) + 3 * 2 * 4 + (4 * 5 + 5)
    assert benchmark.flops_per_token(model) == 6 * weights + 12 * 4 * 7
    tied = gpt.GPT(GPTConfig(vocab_size=5, block_size=7, n_layer=1, n_embd=4, head_size=2, tied=True))
    assert benchmark.flops_per_token(tied) == 6 * (weights - 5) + 12 * 4 * 7  # the head has no bias, and is counted


def test_git_is_asked_in_a_checkout_only(monkeypatch, tmp_path):
    """On a Mac without the command line tools, git offers in a dialog to install itself."""
    monkeypatch.setattr(
        benchmark, "__file__", str(tmp_path / "site-packages" / "mlx_nanogpt" / "measure" / "benchmark.py")
    )
    monkeypatch.setattr(benchmark.subprocess, "run", lambda *_, **__: pytest.fail("asked"))
    assert benchmark.describe_measurement()["commit"] is None


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git here")
def test_the_commit_of_another_projects_checkout_is_not_ours(monkeypatch, tmp_path):
    """A wheel may be installed inside it."""
    file = tmp_path / "mlx_nanogpt" / "measure" / "benchmark.py"
    file.parent.mkdir(parents=True)
    file.write_text("")
    author = ["-c", "user.name=A", "-c", "user.email=a@b"]
    for words in (["init", "-q"], [*author, "commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    monkeypatch.setattr(benchmark, "__file__", str(file))
    assert benchmark.describe_measurement()["commit"] is None
    subprocess.run(["git", "-C", str(tmp_path), "add", "."], check=True)
    assert benchmark.describe_measurement()["commit"].endswith("-dirty")
