"""The benchmark: NanoLux's protocol and six metrics on this machine, and the measurements that explain them.

`bench()` is a generator like `train()`. It yields the name of each stage, each record of a training run, and at last the whole
result. `NanoLuxMetrics` of a quick benchmark are extrapolated, and marked so.
"""

import statistics
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import get_args

import mlx.core as mx

from ..config import MANY, Backend, GPTConfig, TrainConfig, configurations, tokens_per_step
from ..config_file import lengthen
from ..evaluation import estimate_loss, evaluate
from ..machine import describe_machine, has_tools
from ..model import GPT
from ..presets import PRESETS
from ..records import Evaluation, Record
from ..runs.create import create_run
from ..text.dataset import Dataset, tokenize
from ..text.identity import Corpus
from ..training import check_fits, train
from .length import fit_length
from .notes import make_notes
from .timing import Rounds, Trial, flops_per_token, measure_generation, measure_matrix, time_rounds

NANOLUX_GPT, NANOLUX_TRAIN = configurations(PRESETS["nanolux"].settings)
EVALUATED_WINDOWS = 256
RACE_GPT, RACE_TRAIN = configurations(PRESETS["minute"].settings)
RACE_SECONDS = 120.0


@dataclass(frozen=True)
class NanoLuxMetrics:
    """NanoLux's table. Times in seconds, losses in nats per character; an epoch is 500 steps, its "batches".

    The first epoch includes compilation. The average is over the others, and None if there are none. An estimate is one
    evaluation of both splits. The total is all training and all estimates. A quick benchmark does not train to the end, so
    its losses are None.
    """

    first_epoch: float
    average_epoch: float | None
    estimate: float
    total: float
    train_loss: float | None
    valid_loss: float | None


# rkube/NanoLux, README: a Mac M4 Pro, on its CPU
PUBLISHED = {
    "Reactant": NanoLuxMetrics(86.94, 15, 27, 504, 1.54838, 1.78198),
    "Zygote": NanoLuxMetrics(55.58, 33, 49, 873, 1.54454, 1.78110),
}


@dataclass(frozen=True)
class BackendResult:
    """The results of one backend, in seconds, bytes and tokens per second.

    `step_seconds` is a step in the steady state, `compile_seconds` the extra time of the first step. `matrix_share` is the
    arithmetic of a step (`flops_per_token`) as a share of the rate of a matrix product.
    """

    backend: Backend
    metrics: NanoLuxMetrics
    extrapolated: bool
    step_seconds: Rounds
    tokens_per_second: float
    compile_seconds: float
    matrix_share: float
    evaluation_seconds_per_window: Rounds
    peak_memory: int


@dataclass(frozen=True)
class Race:
    """What the preset `minute` learns in `RACE_SECONDS`, if its rate falls to 0 by then: the exact loss of the validation split, in nats
    per character, after so many steps, which took so many seconds with their evaluation."""

    steps: int
    seconds: float
    valid_loss: float


@dataclass(frozen=True)
class BenchResult:
    """Everything, ready for JSON by `asdict`."""

    machine: dict
    corpus: str
    gpt: GPTConfig
    train: TrainConfig
    matrix_flops: Rounds
    backends: list[BackendResult]
    cached_tokens_per_second: Rounds  # while the text fits the context
    reread_tokens_per_second: Rounds  # beyond it
    race: Race | None  # of a quick benchmark
    notes: list[str]  # what may slow this machine down

    def unsteady(self) -> list[str]:
        """The names of the measurements whose rounds are not steady."""
        measurements = {"matrix product": self.matrix_flops}
        for result in self.backends:
            measurements[f"{result.backend} step"] = result.step_seconds
            measurements[f"{result.backend} evaluation"] = result.evaluation_seconds_per_window
        measurements["generation within the context"] = self.cached_tokens_per_second
        measurements["generation beyond it"] = self.reread_tokens_per_second
        return [name for name, rounds in measurements.items() if not rounds.steady]


def nanolux_metrics(history: Sequence[Evaluation]) -> NanoLuxMetrics:
    """Return the metrics of a run, from at least one evaluation. The steps up to an evaluation are an epoch."""
    first, *others = history
    epochs = [evaluation.train_seconds for evaluation in others]
    return NanoLuxMetrics(
        first_epoch=first.train_seconds,
        average_epoch=statistics.mean(epochs) if epochs else None,
        estimate=statistics.mean(evaluation.eval_seconds for evaluation in history),
        total=sum(evaluation.train_seconds + evaluation.eval_seconds for evaluation in history),
        train_loss=history[-1].train_loss,
        valid_loss=history[-1].valid_loss,
    )


def bench(corpus: Corpus, quick: bool) -> Iterator[str | Record | BenchResult]:
    """Measure MLX's default device on NanoLux's protocol, with both backends; yield the name of each stage, the records of each
    training run, and the result.

    A quick benchmark times a sample of steps and of evaluation windows, and extrapolates the times of the protocol. Then it runs a
    `Race`, which ranks machines, and is too short to slow down a fanless one.
    """
    data = tokenize(corpus)
    gpt = replace(NANOLUX_GPT, vocab_size=data.tokenizer.vocab_size)
    check_fits(gpt, NANOLUX_TRAIN, data)

    yield "matrix product"
    matrix_flops = measure_matrix()
    results = []
    for backend in get_args(Backend):
        train_config = replace(NANOLUX_TRAIN, backend=backend)
        yield f"{backend} step and evaluation"
        result = _measure_backend(gpt, train_config, data, matrix_flops.median)
        if not quick:
            yield f"{backend} training by the protocol"
            history = []
            with tempfile.TemporaryDirectory() as folder:
                run = create_run(gpt, train_config, data, Path(folder) / "run")
                for record in train(run, data):
                    if isinstance(record, Evaluation):
                        history.append(record)
                    yield record
            result = replace(result, metrics=nanolux_metrics(history), extrapolated=False)
        results.append(result)
    yield "generation"
    cached, reread = measure_generation(gpt, data.tokenizer.start_token)
    race = (yield from _race(data)) if quick else None
    rates = matrix_flops, results, cached, reread
    yield BenchResult(describe_measurement(), data.corpus.name, gpt, NANOLUX_TRAIN, *rates, race, make_notes())


def _race(data: Dataset) -> Generator[str | Record, None, Race]:
    yield f"race of {RACE_SECONDS:g} seconds"
    started = time.perf_counter()
    gpt = replace(RACE_GPT, vocab_size=data.tokenizer.vocab_size)
    config = replace(RACE_TRAIN, eval_interval=MANY)  # one evaluation, after the last step
    steps, _ = fit_length(gpt, config, RACE_SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        run = create_run(gpt, lengthen(config, steps), data, Path(folder) / "run")
        yield from train(run, data)
        seconds = time.perf_counter() - started
        return Race(steps, seconds, evaluate(run.load_model(), data.valid_tokens))


def describe_measurement() -> dict:
    """Return the machine, the commit of this code (None outside a checkout) and the time."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return describe_machine() | {"commit": _commit(), "date": now}


def _commit() -> str | None:
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists() or not has_tools():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _measure_backend(gpt: GPTConfig, config: TrainConfig, data: Dataset, matrix_flops: float) -> BackendResult:
    model = GPT(gpt)
    trial = Trial(model, config, data.train_tokens)
    first = trial.seconds()
    steady = Rounds.of(time_rounds(trial.work))
    compile_seconds = max(first - steady.median, 0.0)  # an eager step is not compiled, and noise may be negative
    peak_memory = mx.get_peak_memory()

    def evaluate(count: int) -> float:
        return estimate_loss(model, data.valid_tokens, count * EVALUATED_WINDOWS, config.backend)

    window = Rounds.of([seconds / EVALUATED_WINDOWS for seconds in time_rounds(evaluate)])

    step_tokens = tokens_per_step(gpt, config)
    return BackendResult(
        backend=config.backend,
        metrics=_extrapolate(config, compile_seconds, steady.median, window.median),
        extrapolated=True,
        step_seconds=steady,
        tokens_per_second=step_tokens / steady.median,
        compile_seconds=compile_seconds,
        matrix_share=flops_per_token(model) * step_tokens / steady.median / matrix_flops,
        evaluation_seconds_per_window=window,
        peak_memory=peak_memory,
    )


def _extrapolate(
    config: TrainConfig, compile_seconds: float, step_seconds: float, window_seconds: float
) -> NanoLuxMetrics:
    """Return the metrics of a whole run, from the times of a step and of an evaluation's window."""
    epochs = config.num_iter // config.eval_interval
    epoch = config.eval_interval * step_seconds
    estimate = 2 * config.eval_iters * config.batch_size * window_seconds
    return NanoLuxMetrics(
        first_epoch=compile_seconds + epoch,
        average_epoch=epoch,
        estimate=estimate,
        total=compile_seconds + epochs * (epoch + estimate),
        train_loss=None,
        valid_loss=None,
    )
