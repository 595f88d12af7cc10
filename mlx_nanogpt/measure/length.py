"""The length of a run that takes a given time: a few steps, an evaluation and a sample are measured."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from ..config import GPTConfig, TrainConfig
from ..errors import UserError
from ..evaluation import estimate_loss
from ..generation import generate
from ..model import GPT
from .timing import ROUND_SECONDS, Trial, time_rounds

SHARE = 0.01  # of the time, that a step may take if several are measured
MEASURED_SHARE, FEWEST_ROUNDS, MOST_ROUNDS = (
    0.03,
    5,
    40,
)  # of the time, for rounds of steps: a machine's pace goes up and down
EVALUATED_SECONDS = 1.0
FEWEST_WINDOWS = 64


@dataclass(frozen=True)
class Pace:
    """Seconds of a step, of the compilation before it, and of an evaluation with its sample and its checkpoint."""

    step: float
    compilation: float
    evaluation: float

    def seconds(self, steps: int, evaluations: int) -> float:
        return self.compilation + steps * self.step + evaluations * self.evaluation

    def steps_within(self, seconds: float, interval: int) -> int:
        """The most steps that fit into `seconds`, with an evaluation after every `interval` of them and after the last; 0 if none does."""
        seconds -= self.compilation
        whole, rest = divmod(seconds, interval * self.step + self.evaluation)
        return int(whole) * interval + int(max(rest - self.evaluation, 0.0) / self.step)


def fit_length(
    gpt: GPTConfig, train: TrainConfig, seconds: float, sample_tokens: int = 0, teachers: Sequence[GPT] = ()
) -> tuple[int, Pace]:
    """Return the number of steps that this machine takes in `seconds`, with the evaluations of `train`, their samples of
    `sample_tokens` tokens, and this measurement; and its pace. `preset(..., num_iter=...)` takes the number.

    Seeds MLX's global random state. Raises `UserError` if a step and an evaluation take longer.
    """
    started = time.perf_counter()
    pace = measure_pace(gpt, train, seconds, sample_tokens, teachers)
    num_iter = pace.steps_within(seconds - (time.perf_counter() - started), train.eval_interval)
    if num_iter < 1:
        problem = f"a step takes {pace.step:.3g} s here, and an evaluation {pace.evaluation:.3g} s, which is too long for {seconds / 60:g} minutes"
        raise UserError(problem, "give more `minutes`, fewer `eval_iters`, or a smaller model")
    return num_iter, pace


def measure_pace(
    gpt: GPTConfig, train: TrainConfig, seconds: float, sample_tokens: int, teachers: Sequence[GPT]
) -> Pace:
    """Measure what a run of `seconds` does, on random tokens."""
    tokens = np.random.default_rng(0).integers(gpt.vocab_size, size=100 * gpt.block_size).astype(np.uint16)
    model = GPT(gpt)
    trial = Trial(model, train, tokens, teachers)
    first, second = trial.seconds(), trial.seconds()
    step = second if second > SHARE * seconds else median(time_rounds(trial.work, _rounds(seconds)))
    count, windows, before, now = train.eval_iters * train.batch_size, 0, 0.0, 0.0
    while windows < count and now < EVALUATED_SECONDS:
        fewer, windows, before = windows, min(count, max(FEWEST_WINDOWS, 4 * windows)), now
        began = time.perf_counter()
        estimate_loss(model, tokens, windows, train.backend)
        now = time.perf_counter() - began
    # each compiles anew, so the time is not in proportion to the windows
    evaluation = 2 * (now + (count - windows) * max(now - before, 0.0) / (windows - fewer))
    began = time.perf_counter()
    for _ in generate(model, [0], sample_tokens, train.seed) if sample_tokens else ():
        pass
    return Pace(step, max(first - step, 0.0), evaluation + time.perf_counter() - began)


def _rounds(seconds: float) -> int:
    return min(max(int(MEASURED_SHARE * seconds / ROUND_SECONDS), FEWEST_ROUNDS), MOST_ROUNDS)
