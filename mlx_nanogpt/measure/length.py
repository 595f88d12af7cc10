"""The length of a run that takes a given time: a few steps, an evaluation and a sample are measured."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from mlx.utils import tree_flatten

from ..config import MANY, GPTConfig, TrainConfig
from ..errors import UserError
from ..evaluation import estimate_loss
from ..files import locked
from ..generation import generate
from ..model import GPT
from ..runs.checkpoint import MODEL, Contents, Position, checksum, write_arrays
from ..runs.run import CHECKPOINT
from .timing import ROUND_SECONDS, Trial, random_tokens, time_once, time_rounds

WARM_UP_STEPS = 3  # which `time_rounds` takes before it measures
MEASURED_SHARE, MOST_ROUNDS = 0.05, 40  # of the time, for rounds of steps: a machine's pace goes up and down
EVALUATED_SHARE, EVALUATED_SECONDS = 0.01, 1.0  # the least of both is measured
FEWEST_WINDOWS = 8


@dataclass(frozen=True)
class Pace:
    """Seconds of a step; of an evaluation, with its sample and its checkpoints; and of what comes once: the compilation and the last
    sample."""

    step: float
    evaluation: float
    once: float

    def seconds(self, steps: int, evaluations: int) -> float:
        return self.once + steps * self.step + evaluations * self.evaluation

    def steps_within(self, seconds: float, interval: int) -> int:
        """The most steps that fit into `seconds`, with an evaluation after every `interval` of them and after the last; 0 if none does."""
        whole, rest = divmod(max(seconds - self.once, 0.0), interval * self.step + self.evaluation)
        return int(whole) * interval + int(max(rest - self.evaluation, 0.0) / self.step)


def fit_length(
    gpt: GPTConfig,
    train: TrainConfig,
    seconds: float,
    sample_tokens: int = 0,
    last_sample_tokens: int = 0,
    teachers: Sequence[GPT] = (),
) -> tuple[int, Pace]:
    """Return the number of steps that this machine takes in `seconds`, with the evaluations of `train`, samples of `sample_tokens` tokens,
    a last one of `last_sample_tokens`, and this measurement; and its pace. `preset(..., num_iter=...)` takes the number.

    Seeds MLX's global random state. Raises `UserError` if a step and an evaluation take longer.
    """
    started = time.perf_counter()
    pace = measure_pace(gpt, train, seconds, sample_tokens, last_sample_tokens, teachers)
    left = seconds - (time.perf_counter() - started)
    num_iter = min(pace.steps_within(left, train.eval_interval), MANY)
    if num_iter < 1:
        problem = (
            f"the time is too short: {max(left, 0.0):.2g} s are left after the start and the measurement, a step takes {pace.step:.2g} s, "
            f"an evaluation {pace.evaluation:.2g} s, and {pace.once:.2g} s go for what comes once"
        )
        raise UserError(problem, "give more `minutes`, fewer `eval_iters`, or a smaller model")
    return num_iter, pace


def measure_pace(
    gpt: GPTConfig,
    train: TrainConfig,
    seconds: float,
    sample_tokens: int,
    last_sample_tokens: int,
    teachers: Sequence[GPT],
) -> Pace:
    """Measure what a run of `seconds` does, on random tokens."""
    model, tokens = GPT(gpt), random_tokens(gpt)
    trial = Trial(model, train, tokens, teachers)
    first, second = trial.seconds(), trial.seconds()
    spare = MEASURED_SHARE * seconds - WARM_UP_STEPS * second
    rounds = min(int(spare / max(ROUND_SECONDS, second)), MOST_ROUNDS)
    # the later half, because a machine that was idle is faster in its first seconds
    step = median(time_rounds(trial.work, rounds)[rounds // 2 :]) if rounds > 1 else second
    count, fewer, more = train.eval_iters * train.batch_size, (0, 0.0), (0, 0.0)
    while more[0] == 0 or (more[0] < count and more[1] < min(EVALUATED_SHARE * seconds, EVALUATED_SECONDS)):
        windows = min(count, max(FEWEST_WINDOWS, 4 * more[0]))
        seconds_of_it = time_once(partial(estimate_loss, model, tokens, windows, train.backend))
        fewer, more = more, (windows, seconds_of_it)
    evaluation = evaluation_seconds(train, fewer, more)
    sample = time_once(lambda: list(generate(model, [0], sample_tokens, train.seed))) if sample_tokens else 0.0
    last_sample = sample * last_sample_tokens / max(sample_tokens, 1)
    return Pace(step, evaluation + sample + 2 * _time_checkpoint(trial), max(first - step, 0.0) + last_sample)


def evaluation_seconds(train: TrainConfig, fewer: tuple[int, float], more: tuple[int, float]) -> float:
    """Seconds of an evaluation of both splits, from the windows and the seconds of two shorter ones of one split. Each compiles anew, so
    the time is not in proportion to the windows."""
    windows, seconds = more
    a_window = max(seconds - fewer[1], 0.0) / (windows - fewer[0])
    return 2 * (seconds + (train.eval_iters * train.batch_size - windows) * a_window)


def _time_checkpoint(trial: Trial) -> float:
    """Seconds to write the arrays of a checkpoint."""
    arrays = dict(tree_flatten({MODEL: trial.state[:2]}))  # but for the random state
    contents = Contents(Position(), 0, 0, {MODEL: checksum(arrays)})
    with TemporaryDirectory() as work, locked(Path(work)) as folder:
        return time_once(lambda: write_arrays(folder, CHECKPOINT, {MODEL: arrays}, contents))
