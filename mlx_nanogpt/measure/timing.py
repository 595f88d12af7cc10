"""Timing: rounds of work, and the work of a step, a matrix product and a generated token."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..config import GPTConfig, TrainConfig
from ..generation import generate
from ..machine import machine
from ..model import GPT
from ..text.batches import training_batch
from ..training import start_step

STEADY = 1.2  # the largest ratio of upper to lower quartile: the median is then right within a tenth
ROUNDS = 12  # of each measurement
ROUND_SECONDS = 0.5
MATRIX_SIZE = 1024
GENERATED_TOKENS = 500
GENERATION_ROUNDS = 5


@dataclass(frozen=True)
class Rounds:
    """The rounds of a measurement: their median, the smallest, the largest, and their number.

    They are `steady` if the middle half lies close together. One or two slow rounds do not move the median. If the middle half
    differs by more than `STEADY`, the machine was busy, and the figure means little.
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


def time_rounds(work: Callable[[int], object], number: int | None = None) -> list[float]:
    """Return the seconds of one unit of `work(count)`, which returns when it is done, in ROUNDS rounds, or `number`, after a
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


def time_once(work: Callable[[], object]) -> float:
    """Return the seconds of `work()`."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def random_tokens(gpt: GPTConfig) -> np.ndarray:
    """Return a text of 100 contexts, the same in every call, (N,), uint16."""
    return np.random.default_rng(0).integers(gpt.vocab_size, size=100 * gpt.block_size).astype(np.uint16)


class Trial:
    """A model that trains on one batch of `tokens`, (N,), over and over. Seeds MLX's global random state."""

    def __init__(self, model: GPT, config: TrainConfig, tokens: np.ndarray, teachers: Sequence[GPT] = ()):
        mx.random.seed(config.seed)
        self.step, self.state = start_step(model, config, teachers)
        shape = config.batch_size, model.config.block_size, config.gradient_accumulation_steps
        self.batch = [mx.array(part) for part in training_batch(tokens, config.seed, 0, *shape)]  # 2 x (A * B, T)
        mx.eval(self.state, self.batch)
        mx.reset_peak_memory()

    def work(self, count: int) -> None:
        """Take `count` steps, and wait for the last one."""
        for _ in range(count):
            loss, _ = self.step(*self.batch)
            mx.async_eval(loss, self.state)
        mx.eval(loss, self.state)

    def seconds(self) -> float:
        """Time one step."""
        return time_once(lambda: self.work(1))


def flops_per_token(model: GPT) -> int:
    """Count the floating-point operations of a training step per token: 6 for each weight of a matrix product, and attention.

    The count of the PaLM paper (Chowdhery et al. 2022, appendix B), as in nanoGPT's `estimate_mfu`.
    """
    config = model.config
    tables = ("wpe",) if config.tied else ("wpe", "wte")  # a tied wte is the head, too
    looked_up = sum(model[name].weight.size for name in tables if name in model)
    attention = 12 * config.n_layer * config.n_embd * config.block_size
    return 6 * (model.num_parameters() - looked_up) + attention


def measure_matrix(rounds: int | None = None) -> Rounds:
    """Measure square float32 matrix products on the whole device, in floating-point operations per second."""
    streams = machine().streams()
    a, b = (mx.random.normal((MATRIX_SIZE, MATRIX_SIZE), key=mx.random.key(seed)) for seed in (0, 1))
    mx.eval(a, b)

    def work(count: int) -> None:
        mx.eval([mx.matmul(a, b, stream=stream) for _ in range(count) for stream in streams])

    return Rounds.of([2 * MATRIX_SIZE**3 * len(streams) / seconds for seconds in time_rounds(work, rounds)])


def measure_generation(gpt: GPTConfig, start_token: int, rounds: int | None = None) -> tuple[Rounds, Rounds]:
    """Measure tokens per second from an empty prompt: within the context, and beyond it. Tokens during compilation do not count."""
    model = GPT(gpt)
    mx.eval(model.state)
    cached, reread = [], []
    for seed in range(rounds or GENERATION_ROUNDS):
        times = [time.perf_counter() for _ in generate(model, [start_token], GENERATED_TOKENS, seed)]
        cached.append(_compute_rate(times[3 : gpt.block_size - 1]))
        reread.append(_compute_rate(times[gpt.block_size + 2 :]))
    return Rounds.of(cached), Rounds.of(reread)


def _compute_rate(times: Sequence[float]) -> float:
    return (len(times) - 1) / (times[-1] - times[0])
