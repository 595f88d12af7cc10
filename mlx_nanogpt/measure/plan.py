"""The plan of a run: its parameters, arithmetic, memory and time. Steps are measured if they fit and do not take too long."""

import statistics
from dataclasses import dataclass

import mlx.core as mx

from ..config import GPTConfig, TrainConfig, tokens_per_step
from ..evaluation import estimate_loss
from ..machine import machine
from ..machine.memory import estimated_memory, memory_limit, memory_problem, memory_warning
from ..model import GPT
from .timing import Rounds, Trial, flops_per_token, measure_matrix, random_tokens, time_once

MOST_STEPS = 10  # that are timed
BUDGET = 20.0  # seconds for them; at least one is timed
LONGEST_STEP = 30.0  # seconds, at the rate of a matrix product; a longer step is not measured


@dataclass(frozen=True)
class Measured:
    """Seconds of a step and of a window of an evaluation, seconds of the first step beyond a later one, bytes at the peak."""

    step_seconds: Rounds
    window_seconds: float
    compile_seconds: float
    peak_memory: int


@dataclass(frozen=True)
class Plan:
    """The cost of a run. `measured` is None if the run does not fit or a step takes too long. `memory` is the measured peak, or an
    estimate, in bytes, and `memory_there` what this machine has for it.

    `problem` is the reason why it does not fit, with the remedy; `train` raises the same one, and gives the same `warning`.
    `least_step_seconds` is the time of a step if all its arithmetic ran at the rate of a matrix product.
    """

    gpt: GPTConfig
    train: TrainConfig
    flops_per_token: int
    memory: int
    memory_there: int
    problem: str | None
    warning: str | None
    least_step_seconds: float
    measured: Measured | None

    @property
    def tokens(self) -> int:
        """Tokens that the run reads, with repetitions."""
        return self.train.num_iter * tokens_per_step(self.gpt, self.train)

    @property
    def evaluations(self) -> int:
        return -(-self.train.num_iter // self.train.eval_interval)

    @property
    def training_seconds(self) -> float:
        """Seconds of all steps. If none was measured, this is the least that they take."""
        if self.measured is None:
            return self.train.num_iter * self.least_step_seconds
        return self.measured.compile_seconds + self.train.num_iter * self.measured.step_seconds.median

    @property
    def evaluation_seconds(self) -> float:
        """Seconds of all evaluations; 0 if none was measured."""
        if self.measured is None:
            return 0.0
        windows = 2 * self.train.eval_iters * self.train.batch_size
        return self.evaluations * windows * self.measured.window_seconds

    @property
    def total_seconds(self) -> float:
        return self.training_seconds + self.evaluation_seconds


def make_plan(gpt: GPTConfig, train: TrainConfig) -> Plan:
    """Measure the cost of a run. Seeds MLX's global random state."""
    model = GPT(gpt)
    flops = flops_per_token(model)
    least = flops * tokens_per_step(gpt, train) / measure_matrix(rounds=3).median
    problem = memory_problem(gpt, train)
    measured = measure(model, train) if problem is None and least <= LONGEST_STEP else None
    estimate = estimated_memory(gpt, train, machine().fuses_attention(gpt.head_size))
    return Plan(
        gpt,
        train,
        flops_per_token=flops,
        memory=measured.peak_memory if measured else estimate,
        memory_there=memory_limit(),
        problem=str(problem) if problem else None,
        warning=memory_warning(gpt, train),
        least_step_seconds=least,
        measured=measured,
    )


def measure(model: GPT, train: TrainConfig) -> Measured:
    """Time steps and windows of an evaluation, on random tokens."""
    block_size = model.config.block_size
    tokens = random_tokens(model.config)
    trial = Trial(model, train, tokens)
    first = trial.seconds()
    later = [trial.seconds() for _ in range(max(1, min(MOST_STEPS, int(BUDGET / first))))]
    peak_memory = mx.get_peak_memory()
    batches = 2 * len(machine().streams())  # so that none of them waits
    windows = min(train.batch_size * train.eval_iters, batches * max(machine().eval_tokens // block_size, 1))
    if first < 1:
        estimate_loss(model, tokens, windows, train.backend)  # the first time compiles, which counts where all is fast
    evaluation_seconds = time_once(lambda: estimate_loss(model, tokens, windows, train.backend))
    return Measured(
        step_seconds=Rounds.of(later),
        window_seconds=evaluation_seconds / windows,
        compile_seconds=max(first - statistics.median(later), 0.0),
        peak_memory=peak_memory,
    )
