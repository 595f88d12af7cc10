"""The benchmark: NanoLux's protocol and six metrics on this machine, and what explains them.

`bench()` is a generator like `train()`. It yields each stage and each record of a training; the last record is the whole
result. `NanoLuxMetrics` of a quick benchmark are extrapolated, and marked so.
"""

import re
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import get_args

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from ..config import Backend, GPTConfig, TrainConfig, configurations
from ..evaluation import estimate_loss
from ..generation import generate
from ..machine import describe_machine, machine
from ..model import GPT
from ..presets import PRESETS
from ..records import REPORT_INTERVAL, Evaluation, Record
from ..runs.run import create_run
from ..text.batches import training_batch
from ..text.dataset import Dataset, tokenize
from ..text.identity import Corpus
from ..training import check_fits, start_step, train

NANOLUX_GPT, NANOLUX_TRAIN = configurations(PRESETS["nanolux"].settings)
NANOLUX_LEAVES_OPEN = (
    "vocab_size",
    "seed",
    "backend",
    "dropout",
)  # may differ: NanoLux drops 0.1, in its MLP only
EVALUATED_WINDOWS = 256
GENERATED_TOKENS = 500
GENERATION_ROUNDS = 5
STEADY = 1.2  # the largest ratio of upper to lower quartile: the median is then right within a tenth
ROUNDS = 12  # of each measurement
ROUND_SECONDS = 0.5
MATRIX_SIZE = 1024
# Operations that move no data. `Contiguous` is among them: here it is applied only to contiguous arrays.
VIEWS = set(
    "AsStrided Broadcast Contiguous ExpandDims Flatten Reshape Slice Split Squeeze StopGradient Transpose Unflatten "
    "View".split()
)


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
class Rounds:
    """The rounds of a measurement: their median, the smallest, the largest, and their number.

    `steady` tells whether the middle half lies close together. One or two slow rounds do not move the median. If the middle
    half differs by more than `STEADY`, the machine was busy, and the figure says little.
    """

    median: float
    min: float
    max: float
    rounds: int
    steady: bool

    @classmethod
    def of(cls, values: Sequence[float]) -> "Rounds":
        lower, upper = np.quantile(values, (0.25, 0.75))
        return cls(statistics.median(values), min(values), max(values), len(values), bool(upper <= STEADY * lower))


@dataclass(frozen=True)
class BackendResult:
    """The results of one backend, in seconds, bytes and tokens per second.

    `step_seconds` is a step in the steady state, `compile_seconds` the extra time of the first step, `host_seconds` the time
    in which the host builds the graph of a step. `matrix_share` is the arithmetic of a step (`flops_per_token`) as a share of
    the rate of a matrix product. `operations` counts the nodes of the graph that compute, each a kernel on a GPU, and `views`
    the others. `synchronisations` counts how often the host waits for a loss in 500 steps.
    """

    backend: Backend
    metrics: NanoLuxMetrics
    extrapolated: bool
    step_seconds: Rounds
    tokens_per_second: float
    compile_seconds: float
    host_seconds: float
    matrix_share: float
    operations: int
    views: int
    synchronisations: int
    evaluation_seconds_per_window: Rounds
    peak_memory: int


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

    def unsteady(self) -> list[str]:
        """The measurements whose rounds are not steady, in words."""
        rounds = {"matrix product": self.matrix_flops}
        for each in self.backends:
            rounds[f"{each.backend} step"] = each.step_seconds
            rounds[f"{each.backend} evaluation"] = each.evaluation_seconds_per_window
        rounds["generation within the context"] = self.cached_tokens_per_second
        rounds["generation beyond it"] = self.reread_tokens_per_second
        return [name for name, each in rounds.items() if not each.steady]


@dataclass(frozen=True)
class Stage:
    """A part of the benchmark begins."""

    description: str


def nanolux_metrics(history: Sequence[Evaluation]) -> NanoLuxMetrics:
    """The metrics of a run, from at least one evaluation. The steps up to the first evaluation are an epoch; a shorter one,
    where a run was stopped or extended, counts in the total alone."""
    train_seconds = [each.train_seconds for each in history]
    epochs = [each.train_seconds for each in history[1:] if each.train_tokens == history[0].train_tokens]
    estimates = [each.eval_seconds for each in history]
    return NanoLuxMetrics(
        first_epoch=train_seconds[0],
        average_epoch=statistics.mean(epochs) if epochs else None,
        estimate=statistics.mean(estimates),
        total=sum(train_seconds) + sum(estimates),
        train_loss=history[-1].train_loss,
        valid_loss=history[-1].valid_loss,
    )


def nanolux_differences(gpt: GPTConfig, train: TrainConfig) -> dict[str, tuple[object, object]]:
    """The settings in which a run differs from the published table: name -> (value of the run, published value)."""
    here = asdict(gpt) | asdict(train)
    published = asdict(NANOLUX_GPT) | asdict(NANOLUX_TRAIN)
    return {
        name: (here[name], value)
        for name, value in published.items()
        if name not in NANOLUX_LEAVES_OPEN and here[name] != value
    }


def flops_per_token(model: GPT) -> int:
    """Floating-point operations of a training step, per token: 6 for each weight of a matrix product, and attention.

    The count of the PaLM paper (Chowdhery et al. 2022, appendix B), as in nanoGPT's `estimate_mfu`.
    """
    config = model.config
    tables = [model[name].weight for name in ("wpe", "wte") if name in model]
    looked_up = sum(table.size for table in tables) - (
        model.wte.weight.size if config.tied else 0
    )  # it is the head, too
    attention = 12 * config.n_layer * config.n_embd * config.block_size
    return 6 * (model.num_parameters() - looked_up) + attention


def bench(
    corpus: Corpus, quick: bool, backends: Sequence[Backend] = get_args(Backend)
) -> Iterator[Stage | Record | BenchResult]:
    """Measure MLX's default device on NanoLux's protocol; yield stages, the events of each training, the result.

    A quick benchmark times a sample of steps and of evaluation windows, and extrapolates the times of the protocol.
    """
    data = tokenize(corpus)
    gpt = replace(NANOLUX_GPT, vocab_size=data.tokenizer.vocab_size)
    check_fits(gpt, NANOLUX_TRAIN, data)

    yield Stage("matrix product")
    matrix_flops = measure_matrix()
    results = []
    for backend in backends:
        train_config = replace(NANOLUX_TRAIN, backend=backend)
        yield Stage(f"{backend} step and evaluation")
        result = _measure_backend(gpt, train_config, data, matrix_flops.median)
        if not quick:
            yield Stage(f"{backend} training by the protocol")
            history = []
            with tempfile.TemporaryDirectory() as folder:
                run = create_run(gpt, train_config, data, Path(folder) / "run")
                for event in train(run, data):
                    if isinstance(event, Evaluation):
                        history.append(event)
                    yield event
            result = replace(result, metrics=nanolux_metrics(history), extrapolated=False)
        results.append(result)
    yield Stage("generation")
    cached, reread = measure_generation(gpt, data.tokenizer.start_token)
    yield BenchResult(
        describe_measurement(), data.corpus.name, gpt, NANOLUX_TRAIN, matrix_flops, results, cached, reread
    )


def describe_measurement() -> dict:
    """The machine, the commit of this code (None outside a checkout) and the time."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return describe_machine() | {"commit": _commit(), "date": now}


def _commit() -> str | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    if not (Path(__file__).parents[2] / ".git").exists():
        return None  # without asking git, which on a Mac may offer in a dialog to install itself
    try:
        # else: a wheel may be installed inside the checkout of another project
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("describe", "--always", "--dirty", "--abbrev=12")
    except (OSError, subprocess.SubprocessError):
        return None


def measure_matrix(rounds: int | None = None) -> Rounds:
    """The rate of square float32 matrix products on the whole device, in floating-point operations per second."""
    streams = machine().streams()
    a, b = (mx.random.normal((MATRIX_SIZE, MATRIX_SIZE), key=mx.random.key(seed)) for seed in (0, 1))
    mx.eval(a, b)

    def work(count: int) -> None:
        mx.eval([mx.matmul(a, b, stream=stream) for _ in range(count) for stream in streams])

    return Rounds.of([2 * MATRIX_SIZE**3 * len(streams) / seconds for seconds in _rounds(work, rounds)])


def _measure_backend(gpt: GPTConfig, config: TrainConfig, data: Dataset, matrix_flops: float) -> BackendResult:
    mx.random.seed(config.seed)
    model = GPT(gpt)
    step, state = start_step(model, config)
    mx.eval(state)
    mx.reset_peak_memory()
    batch = [
        mx.array(each) for each in training_batch(data.train_tokens, config.seed, 0, config.batch_size, gpt.block_size)
    ]
    building = []

    def train_steps(count: int) -> None:
        for _ in range(count):
            started = time.perf_counter()
            loss, _ = step(*batch)
            building.append(time.perf_counter() - started)
            mx.async_eval(loss, state)
        mx.eval(loss, state)

    started = time.perf_counter()
    train_steps(1)
    first = time.perf_counter() - started
    steady = Rounds.of(_rounds(train_steps))
    compile_seconds = max(first - steady.median, 0.0)  # an eager step is not compiled, and noise may be negative
    peak_memory = mx.get_peak_memory()
    operations, views = graph_size(step(*batch)[0], *(array for _, array in tree_flatten(state[:2])))
    mx.eval(state)

    evaluate_rounds = _rounds(
        lambda count: [estimate_loss(model, data.valid_tokens, EVALUATED_WINDOWS, config.backend) for _ in range(count)]
    )
    window = Rounds.of([seconds / EVALUATED_WINDOWS for seconds in evaluate_rounds])

    tokens_per_step = config.batch_size * gpt.block_size
    return BackendResult(
        backend=config.backend,
        metrics=_extrapolated(config, compile_seconds, steady.median, window.median),
        extrapolated=True,
        step_seconds=steady,
        tokens_per_second=tokens_per_step / steady.median,
        compile_seconds=compile_seconds,
        host_seconds=statistics.median(building),
        matrix_share=flops_per_token(model) * tokens_per_step / steady.median / matrix_flops,
        operations=operations,
        views=views,
        synchronisations=config.eval_interval // REPORT_INTERVAL,
        evaluation_seconds_per_window=window,
        peak_memory=peak_memory,
    )


def _extrapolated(
    config: TrainConfig, compile_seconds: float, step_seconds: float, window_seconds: float
) -> NanoLuxMetrics:
    """The metrics of a whole training, from the times of a step and of an evaluation's window."""
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


def measure_generation(gpt: GPTConfig, start_token: int, rounds: int | None = None) -> tuple[Rounds, Rounds]:
    """Tokens per second from an empty prompt: within the context, and beyond it. Tokens during compilation do not count."""
    model = GPT(gpt)
    mx.eval(model.state)
    cached, reread = [], []
    for seed in range(rounds or GENERATION_ROUNDS):
        times = [time.perf_counter() for _ in generate(model, [start_token], GENERATED_TOKENS, seed)]
        cached.append(_rate(times[3 : gpt.block_size - 1]))
        reread.append(_rate(times[gpt.block_size + 2 :]))
    return Rounds.of(cached), Rounds.of(reread)


def _rate(times: Sequence[float]) -> float:
    return (len(times) - 1) / (times[-1] - times[0])


def _rounds(work: Callable[[int], object], number: int | None = None) -> list[float]:
    """Seconds for one unit of `work(count)`, which must return when it is done, in ROUNDS rounds, or `number`, after a
    warm-up."""
    started = time.perf_counter()
    work(3)
    count = max(1, round(3 * ROUND_SECONDS / (time.perf_counter() - started)))
    rounds = []
    for _ in range(number or ROUNDS):
        started = time.perf_counter()
        work(count)
        rounds.append((time.perf_counter() - started) / count)
    return rounds


def graph_size(*outputs: mx.array) -> tuple[int, int]:
    """The numbers of operations and of views in a graph that is not yet computed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graph.dot"
        mx.export_to_dot(str(file), *outputs)
        names = Counter(re.findall(r'\[label ?="(\w+)', file.read_text()))
    views = sum(count for name, count in names.items() if name in VIEWS)
    return names.total() - views, views
