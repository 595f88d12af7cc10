"""The time that a training still needs. It is computed from the events of the training: steps, evaluations and samples
each have their own pace."""

from collections.abc import Sequence

import mlx_nanogpt as gpt
from mlx_nanogpt import Evaluation, GPTConfig, TrainConfig
from mlx_nanogpt.config import tokens_per_step

FORWARD = 0.3  # the cost of a token in an evaluation, divided by its cost in a step; measured on a CPU


class Pace:
    """The seconds that a unit of some work takes, from reports on that work.

    The first report includes compilation, so it is only an upper bound.
    """

    def __init__(self) -> None:
        self.units, self.seconds = 0, 0.0  # of all reports after the first
        self.first: float | None = None  # seconds for a unit in the first report

    def report(self, units: int, seconds: float) -> None:
        if units and self.first is None:
            self.first = seconds / units
        elif units:
            self.units, self.seconds = self.units + units, self.seconds + seconds

    def unit_seconds(self, guess: float | None) -> float | None:
        """The measured pace. Before there is one, the smaller of `guess` and the first report; None without both."""
        if self.units:
            return self.seconds / self.units
        return min((each for each in (guess, self.first) if each is not None), default=None)


class Forecast:
    """Follows the events of a training that begins at `iteration`, after the evaluations in `history`."""

    def __init__(self, gpt_config: GPTConfig, train_config: TrainConfig, history: Sequence[Evaluation], iteration: int):
        self.train_config, self.block_size = train_config, gpt_config.block_size
        self.tokens_per_step = tokens_per_step(gpt_config, train_config)
        self.iteration = iteration
        self.evaluated = history[-1].iteration if history else 0  # the iteration of the last evaluation
        self.windows = 0  # that the current evaluation has read
        self.steps, self.evaluation, self.samples = Pace(), Pace(), Pace()  # units: tokens, tokens, samples
        self.step_guess, self.forward = None, FORWARD
        if history:  # the pace so far, on this machine or a similar one
            last = history[-1]
            self.step_guess = last.train_seconds / last.train_tokens
            self.forward = last.eval_seconds / (2 * last.eval_tokens) / self.step_guess

    def note(self, event: gpt.Event, seconds: float) -> None:
        """Take note of an event that came `seconds` after the event before it, or after the beginning."""
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
        """Seconds to the end, if patience does not end the training before; None while nothing is known."""
        step = self.steps.unit_seconds(self.step_guess)
        if step is None:
            return None
        steps = (self.train_config.num_iter - self.iteration) * self.tokens_per_step
        last, interval = self.train_config.num_iter, self.train_config.eval_interval
        evaluations = last // interval - self.evaluated // interval
        evaluations += last % interval > 0 and self.evaluated < last  # the last iteration is always evaluated
        windows = evaluations * self._windows_of_one - self.windows
        return (
            steps * step
            + windows * self.block_size * self.evaluation.unit_seconds(self.forward * step)
            + max(evaluations - 1, 0) * self.samples.unit_seconds(0.0)
        )

    @property
    def _windows_of_one(self) -> int:
        return 2 * self.train_config.eval_iters * self.train_config.batch_size

    def _note_windows(self, windows: int, seconds: float) -> None:
        self.evaluation.report((windows - self.windows) * self.block_size, seconds)
        self.windows = windows
