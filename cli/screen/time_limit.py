"""A run that fits the time one has: its length, and whether the machine keeps its pace."""

import time
from collections.abc import Sequence

import mlx_nanogpt as gpt
from mlx_nanogpt import GPTConfig, Run, TrainConfig, UserError
from mlx_nanogpt.measure.length import Pace, fit_length

from .conclusion import SAMPLE_TOKENS
from .consoles import console, make_spinner
from .describe import format_duration
from .training_display import SHORT_SAMPLE_TOKENS

SLOWER = 1.1  # times as long as was measured: the end is late
SURE_SECONDS = 5.0  # after which a pace can be told
LEAST, MOST = 0.01, 1_000_000  # minutes


class TimeLimit:
    """The time that a run may take: `minutes` from now on, or None for any time, of which nothing is told. Raises `UserError` for a
    number out of range."""

    def __init__(self, minutes: float | None):
        if minutes is not None:
            check_minutes(minutes)
        self.minutes, self.started, self.evaluations = minutes, time.perf_counter(), 0
        self.pace: Pace | None = None
        self.ratio, self.untold = 0.0, False  # of the time taken to the time measured, once that is too large

    def choose_length(self, gpt_config: GPTConfig, train_config: TrainConfig, teachers: Sequence[gpt.GPT]) -> int:
        """Measure how many steps fit into the time that is left."""
        with make_spinner() as bar:
            bar.add_task("measuring")
            left = 60 * (self.minutes or 0.0) - (time.perf_counter() - self.started)
            self.num_iter, self.pace = fit_length(
                gpt_config, train_config, left, SHORT_SAMPLE_TOKENS, SAMPLE_TOKENS, teachers
            )
        self.measured = time.perf_counter()
        return self.num_iter

    def describe(self, run: Run) -> str:
        if not self.pace:
            return ""
        steps, interval = run.train_config.num_iter, run.train_config.eval_interval
        evaluations = -(-steps // interval)
        return (
            f"{format_minutes(self.minutes)}: {steps:,} steps of {format_duration(self.pace.step)} and {evaluations:,} "
            f"evaluation{'s' if evaluations > 1 else ''} of {format_duration(self.pace.evaluation)}, as measured"
        )

    def note(self, record: gpt.Record) -> None:
        """Tell once if the machine is slower than it was."""
        match record:
            case gpt.Evaluation() if self.pace and not self.ratio and record.iteration < self.num_iter:
                self.evaluations += 1
                seconds = time.perf_counter() - self.measured
                ratio = seconds / self.pace.seconds(record.iteration, self.evaluations)
                self.ratio = ratio if ratio > SLOWER and seconds > SURE_SECONDS else 0.0
                self.untold = self.ratio > 0
            case gpt.Saved() if self.ratio and self.untold:  # after the sample of that evaluation
                self.untold = False
                console.print(
                    f"The machine takes {self.ratio:.1f} times as long as it did when it was measured. If it stays so, the end comes after "
                    f"some {format_minutes(float(f'{self.ratio * self.minutes:.2g}'))}; the number of steps stays.",
                    style="yellow",
                )

    def conclude(self) -> None:
        if self.pace:
            seconds = time.perf_counter() - self.started
            console.print(f"\nThat took {seconds / 60:.2f} of {format_minutes(self.minutes)}.")


def check_minutes(count: float) -> None:
    """Raise `UserError` for a number of minutes out of range."""
    if not LEAST <= count <= MOST:
        raise UserError(f"`minutes` {count:g} is out of range", f"give a number from {LEAST:g} to {MOST:,}")


def format_minutes(count: float) -> str:
    return f"{count:g} minute{'' if count == 1 else 's'}"
