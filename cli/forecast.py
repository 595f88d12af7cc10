"""How long a training still takes: its steps and its evaluations, each at its own pace, told from the stream's records."""

from collections.abc import Sequence

import mlx_nanogpt as gpt
from mlx_nanogpt import Evaluation, GPTConfig, TrainConfig

from .describe import tokens_per_step

FORWARD = 0.3  # what a token costs an evaluation, as a share of what it costs a step; measured on a CPU


class Pace:
    """Seconds for a unit of some work, from reports on it.

    The first report holds compilation, so it says no more than that a unit takes no longer.
    """

    def __init__(self) -> None:
        self.units, self.seconds = 0, 0.0  # of all reports but the first
        self.first: float | None = None

    def report(self, units: int, seconds: float) -> None:
        if units and self.first is None:
            self.first = seconds / units
        elif units:
            self.units, self.seconds = self.units + units, self.seconds + seconds

    def unit_seconds(self, guess: float | None) -> float | None:
        """What was measured; until then the `guess`, unless the first report is less; None if there is neither."""
        if self.units:
            return self.seconds / self.units
        return min((each for each in (guess, self.first) if each is not None), default=None)


class Forecast:
    """Follows the events of a training that begins at `iteration`, after the evaluations in `history`."""

    def __init__(self, shape: GPTConfig, train: TrainConfig, history: Sequence[Evaluation], iteration: int):
        self.train, self.block_size, self.tokens_per_step = train, shape.block_size, tokens_per_step(shape, train)
        self.iteration = iteration
        self.evaluated = history[-1].iteration if history else 0
        self.windows = 0  # of the evaluation under way
        self.steps, self.evaluation, self.samples = Pace(), Pace(), Pace()  # units: tokens, tokens, samples
        self.step_guess, self.forward = None, FORWARD
        if history:  # as it was before, on this machine or on one like it
            last = history[-1]
            self.step_guess = last.train_seconds / last.train_tokens
            self.forward = last.eval_seconds / (2 * last.eval_tokens) / self.step_guess

    def note(self, event: gpt.Event, seconds: float) -> None:
        """An event came, `seconds` after the one before or after the beginning of the training."""
        match event:
            case gpt.Progress() | gpt.Evaluating(windows=0):
                self.steps.report((event.iteration - self.iteration) * self.tokens_per_step, seconds)
                self.iteration = event.iteration
            case gpt.Evaluating():
                self._note_windows(event.windows, seconds)
            case gpt.Evaluation():
                self._note_windows(self._windows_of_one, seconds)
                self.evaluated, self.windows = event.iteration, 0
            case gpt.Sample():
                self.samples.report(1, seconds)

    def remaining(self) -> float | None:
        """Seconds to the end, if no patience ends it before; None while nothing is known."""
        step = self.steps.unit_seconds(self.step_guess)
        if step is None:
            return None
        steps = (self.train.num_iter - self.iteration) * self.tokens_per_step
        last, interval = self.train.num_iter, self.train.eval_interval
        evaluations = last // interval - self.evaluated // interval
        evaluations += last % interval > 0 and self.evaluated < last  # the end is evaluated, wherever it falls
        windows = evaluations * self._windows_of_one - self.windows
        return (
            steps * step
            + windows * self.block_size * self.evaluation.unit_seconds(self.forward * step)
            + max(evaluations - 1, 0) * self.samples.unit_seconds(0.0)
        )

    @property
    def _windows_of_one(self) -> int:
        return 2 * self.train.eval_iters * self.train.batch_size

    def _note_windows(self, windows: int, seconds: float) -> None:
        self.evaluation.report((windows - self.windows) * self.block_size, seconds)
        self.windows = windows
