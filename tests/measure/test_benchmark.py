"""The promises of the benchmark: the seed's six metrics as defined, and measurements that are made and not made up."""

import mlx_nanogpt as gpt
import pytest
from mlx_nanogpt import Evaluation, GPTConfig
from conftest import TEXT
from mlx_nanogpt.measure import benchmark, timing
from mlx_nanogpt.measure.benchmark import PUBLISHED, nanolux_metrics
from mlx_nanogpt.measure.timing import Rounds


def evaluation(iteration: int, train_seconds: float, eval_seconds: float, loss: float) -> Evaluation:
    return Evaluation(iteration, loss, loss + 0.5, 1000, train_seconds, 100, eval_seconds, "play.txt", "cpu")


FIRST, SECOND, THIRD = evaluation(500, 9, 2, 3.0), evaluation(1000, 4, 3, 2.0), evaluation(1500, 6, 4, 1.0)


@pytest.mark.parametrize("history, average", [([FIRST], None), ([FIRST, SECOND, THIRD], 5)])
def test_the_metrics_are_those_of_the_seed(history, average):
    metrics, last = nanolux_metrics(history), history[-1]
    assert metrics.first_epoch == 9 and metrics.average_epoch == average  # the first, which compiles, is not in it
    assert (metrics.estimate, metrics.total) == ((2, 11) if last is FIRST else (3, 28))
    assert (metrics.train_loss, metrics.valid_loss) == (last.train_loss, last.valid_loss)


def test_the_published_columns_are_the_published_ones():
    assert (PUBLISHED["Reactant"].total, PUBLISHED["Reactant"].valid_loss) == (504, 1.78198)
    assert (PUBLISHED["Zygote"].total, PUBLISHED["Zygote"].valid_loss) == (873, 1.78110)


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


def run_benchmark(quick: bool) -> list:
    return list(gpt.bench(gpt.Corpus(("play.txt",), TEXT), quick))


def test_the_whole_benchmark_trains_by_the_protocol_on_both_backends(small_protocol):
    *records, result = run_benchmark(quick=False)
    assert [backend.backend for backend in result.backends] == ["compiled", "eager"]
    evaluations = [record for record in records if isinstance(record, Evaluation)]
    assert [evaluation.iteration for evaluation in evaluations] == [2, 4, 2, 4]
    for backend, history in zip(result.backends, (evaluations[:2], evaluations[2:])):
        assert backend.metrics == nanolux_metrics(history) and not backend.extrapolated
    compiled, eager = result.backends
    assert compiled.metrics.valid_loss == pytest.approx(eager.metrics.valid_loss, abs=1e-5)


def test_a_quick_benchmark_extrapolates_is_marked_and_ends_with_a_race(small_protocol):
    *records, result = run_benchmark(quick=True)
    race = records.index("race of 0.5 seconds")
    before, after = records[:race], records[race + 1 :]
    assert all(isinstance(record, str) for record in before) and after[-1].iteration == result.race.steps > 8
    assert [record.iteration for record in after if isinstance(record, Evaluation)] == [result.race.steps]
    assert 0 < result.race.valid_loss < 3.5
    for backend in result.backends:
        metrics = backend.metrics
        assert backend.extrapolated and metrics.train_loss is None and metrics.valid_loss is None
        assert metrics.average_epoch == 2 * backend.step_seconds.median
        assert metrics.estimate == pytest.approx(2 * 4 * backend.evaluation_seconds_per_window.median)
        assert metrics.total == pytest.approx(backend.compile_seconds + 2 * (metrics.average_epoch + metrics.estimate))


def test_the_arithmetic_of_a_token_is_six_for_each_weight_and_the_attention():
    model = gpt.GPT(GPTConfig(vocab_size=5, block_size=7, n_layer=1, n_embd=4, head_size=2))
    weights = 4 * 12 + (4 * 4 + 4) + (4 * 16 + 16) + (16 * 4 + 4) + 3 * 2 * 4 + (4 * 5 + 5)
    assert timing.flops_per_token(model) == 6 * weights + 12 * 4 * 7
    tied = gpt.GPT(GPTConfig(vocab_size=5, block_size=7, n_layer=1, n_embd=4, head_size=2, tied=True))
    assert timing.flops_per_token(tied) == 6 * (weights - 5) + 12 * 4 * 7  # the head has no bias, and is counted


def test_git_is_asked_in_a_checkout_only(monkeypatch, tmp_path):
    """On a Mac without the command line tools, git offers in a dialog to install itself."""
    monkeypatch.setattr(
        benchmark, "__file__", str(tmp_path / "site-packages" / "mlx_nanogpt" / "measure" / "benchmark.py")
    )
    run = benchmark.subprocess.run

    def refuse_git(command, *more, **settings):  # platform.platform() may ask uname
        return pytest.fail("asked") if command[0] == "git" else run(command, *more, **settings)

    monkeypatch.setattr(benchmark.subprocess, "run", refuse_git)
    assert benchmark.describe_measurement()["commit"] is None
