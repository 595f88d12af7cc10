"""A training on the screen: a row for each evaluation, a short sample below it, and a bar with the time that is left."""

import time
from collections.abc import Iterable, Sequence
from datetime import timedelta

import mlx_nanogpt as gpt
from mlx_nanogpt import Dataset, Run
from mlx_nanogpt.config import tokens_per_step
from mlx_nanogpt.errors import printable
from mlx_nanogpt.ranks import Ranks
from mlx_nanogpt.runs.log import measurements
from mlx_nanogpt.runs.trackers import Trackers
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from ..process.stop_request import STOPPING, stop_request
from .consoles import console, progress
from .curve import loss_curve
from .forecast import Forecast
from .slowdown import Slowdown

ROW = "{:>9}  {:>10}  {:>10}  {:>10}  {:>10}  {:>10}"
SHORT_SAMPLE_TOKENS = 60  # fewer than a context, where tokens are cheap, and fewer than a line has characters
ECHO = len("^C")  # which a terminal writes behind the curve; if it wrapped to a new line, the bar would be drawn twice
INDENT = " " * 11  # of a short sample, which stands below the losses of its row


def follow_silently(run: Run, dataset: Dataset, ranks: Ranks) -> None:
    """Train as a rank whose first rank shows what happens."""
    with stop_request(silent=True) as should_stop:
        for _ in gpt.train(run, dataset, should_stop, ranks=ranks):
            pass


def follow(run: Run, dataset: Dataset, ranks: Ranks, trackers: Trackers) -> gpt.Done:
    """Train, show what happens, and tell the trackers. Return how the training ended."""
    history = run.history()
    titles = ROW.format("iteration", "train loss", "valid loss", "training", "evaluation", "tokens/s")
    console.print(f"\n{titles}", style="bold")
    for evaluation in history:
        console.print(_row(evaluation))
    losses = [(line.iteration, line.loss) for line in measurements(run.log())]

    def curve() -> Text:
        return loss_curve(losses, run.train_config.num_iter, console.width - ECHO)

    def below() -> Text:
        return Text("\n").join(each for each in (Text(STOPPING if should_stop() else ""), curve()) if each)

    # a terminal has the answer to Ctrl-C below the bar; printed, it would displace the bar
    with stop_request(silent=console.is_terminal) as should_stop, progress(*_columns(), below=below) as bar:
        display = _Display(run, history, losses, bar)
        for event in gpt.train(run, dataset, should_stop, SHORT_SAMPLE_TOKENS, ranks):
            display.show(event)
            trackers.note(event)
            if isinstance(event, gpt.Done):
                break
    if console.is_terminal:
        console.print(curve())
    return event


class _Display:
    """Shows the events of a training that goes on after the evaluations in `history`, and adds to its `losses`."""

    def __init__(self, run: Run, history: Sequence[gpt.Evaluation], losses: list[tuple[int, float]], bar: Progress):
        position = run.position()
        self.run, self.losses, self.bar = run, losses, bar
        self.tokens_per_step = tokens_per_step(run.gpt_config, run.train_config)
        self.task = bar.add_task("Starting", total=None, status="", end=None)
        self.forecast = Forecast(run.gpt_config, run.train_config, history, position.iteration)
        self.evaluated = history[-1].iteration if history else 0  # the iteration of the last evaluation
        self.slowdown, self.reported = Slowdown(), (position.iteration, position.train_seconds)
        self.earlier_seconds = position.train_seconds + sum(each.train_seconds + each.eval_seconds for each in history)
        self.started = self.last_event = time.monotonic()

    def show(self, event: gpt.Event) -> None:
        if isinstance(event, gpt.Measurement):
            self.losses.append((event.iteration, event.loss))
            return
        now = time.monotonic()
        self.forecast.note(event, now - self.last_event)
        self.last_event = now
        match event:
            case gpt.Progress():
                status = f"loss {event.loss:.3f}, {self._tokens_per_second(event):,.0f} tokens/s"
                self._update(event.iteration, status)
                self._tell_slowdown(event)
            case gpt.Evaluating():
                self._update(event.iteration, f"evaluating: {event.windows / event.total:.0%}")
            case gpt.Evaluation():
                self.evaluated, self.reported = event.iteration, (event.iteration, 0.0)
                console.print(_row(event))
            case gpt.Sample():
                console.print(short_sample(self.run.tokenizer.stream(event.tokens)))
            case gpt.Done():
                return
        self._update_time(now)

    def _tokens_per_second(self, event: gpt.Progress) -> float:
        """The speed since the last evaluation."""
        return (event.iteration - self.evaluated) * self.tokens_per_step / event.train_seconds

    def _tell_slowdown(self, event: gpt.Progress) -> None:
        iteration, seconds = self.reported
        self.reported = event.iteration, event.train_seconds
        slower = self.slowdown.note((event.iteration - iteration) * self.tokens_per_step, event.train_seconds - seconds)
        if slower:
            fastest, last = slower
            console.print(
                f"The training has become slower: {last:,.0f} tokens/s in the last minute, {fastest:,.0f} in the fastest "
                "one. Heat may be the reason, or another program.",
                style="yellow",
            )

    def _update(self, iteration: int, status: str) -> None:
        description = f"Step {iteration:,}/{self.run.train_config.num_iter:,}"
        self.bar.update(self.task, description=description, status=status)

    def _update_time(self, now: float) -> None:
        remaining = self.forecast.remaining()
        if remaining is not None:
            elapsed = self.earlier_seconds + now - self.started
            self.bar.update(self.task, completed=elapsed, total=elapsed + remaining, end=now + remaining)


def _columns() -> list[ProgressColumn]:
    return [
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
        TimeLeftColumn(),
    ]


class TimeLeftColumn(ProgressColumn):
    """Counts down to the task's field `end`, in seconds of the monotonic clock."""

    def render(self, task: Task) -> Text:
        end = task.fields["end"]
        left = "-:--:--" if end is None else timedelta(seconds=round(max(end - time.monotonic(), 0)))
        return Text(f"{left} left", style="progress.remaining")


def short_sample(pieces: Iterable[str]) -> Text:
    """A sample as one line that fits the screen."""
    line = Text(INDENT + printable(" / ".join("".join(pieces).strip().split("\n"))), style="dim")
    line.truncate(console.width, overflow="ellipsis")
    return line


def _row(evaluation: gpt.Evaluation) -> str:
    return ROW.format(
        evaluation.iteration,
        f"{evaluation.train_loss:.4f}",
        f"{evaluation.valid_loss:.4f}",
        f"{evaluation.train_seconds:.2f} s",
        f"{evaluation.eval_seconds:.2f} s",
        f"{evaluation.train_tokens / evaluation.train_seconds:,.0f}",
    )
