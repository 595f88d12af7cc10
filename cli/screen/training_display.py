"""The screen during training: a row for each evaluation, a short sample below it, a bar with the time left, and a curve."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NoReturn

import mlx_nanogpt as gpt
from mlx_nanogpt import Dataset, Run
from mlx_nanogpt.errors import printable
from mlx_nanogpt.ranks import Ranks
from mlx_nanogpt.records import reason_to_end
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from ..process.ranks import INTERRUPTED
from ..process.stop_request import STOPPING, stop_request
from .consoles import console, errors, make_progress
from .curve import draw_curve
from .work import count_work

ROW = "{:>9}  {:>10}  {:>10}  {:>10}  {:>10}  {:>10}"
SHORT_SAMPLE_TOKENS = 60  # fewer than a context, where tokens are cheap, and fewer than a line has characters
INDENT = " " * 11  # of a short sample, which stands below the losses of its row
ECHO = len("^C")  # which a terminal writes behind the curve; if it wrapped to a new line, the bar would be drawn twice
MOST_LOSSES = 4000  # points of the curve, which is drawn ten times a second


def follow_silently(run: Run, dataset: Dataset, ranks: Ranks) -> None:
    """Train as a rank other than 0, which shows what happens."""
    with stop_request(lambda: os._exit(INTERRUPTED), silent=True) as should_stop:
        for _ in gpt.train(run, dataset, should_stop, ranks=ranks):
            pass


def follow(
    run: Run, dataset: Dataset, ranks: Ranks, observers: Sequence[Callable[[gpt.Record], None]]
) -> tuple[Run, gpt.Done]:
    """Train, and pass each record to the screen and to the observers. Return the run, with the path it has by then, and its last
    record."""
    titles = ROW.format("iteration", "train loss", "valid loss", "training", "evaluation", "tokens/s")
    console.print(f"\n{titles}", style="bold")
    # a terminal has the answer to Ctrl-C below the bar; printed, it would displace the bar
    with stop_request(lambda: _quit(run), silent=console.is_terminal) as should_stop:
        display = _Display(run, should_stop)
        with display.bar:
            for record in gpt.train(run, dataset, should_stop, SHORT_SAMPLE_TOKENS, ranks=ranks):
                display.show(record)
                for observe in observers:
                    observe(record)
    if console.is_terminal:
        console.print(display.curve())
    return replace(run, path=display.path), record


def _quit(run: Run) -> NoReturn:
    """End this process at once. Its main thread may wait for MLX."""
    try:
        if console.is_terminal:
            console.show_cursor()
            os.write(1, b"\n")  # below the bar, above which the console prints
        if not run.checkpoint.exists():
            errors.print(f"Stopped. {run.path} has no checkpoint; --resume starts it over.", soft_wrap=True)
    finally:  # also if the streams are gone
        os._exit(INTERRUPTED)


class _Display:
    """Shows the records of a run, and first its evaluations so far."""

    def __init__(self, run: Run, should_stop: Callable[[], bool]):
        self.run, self.should_stop, self.path = run, should_stop, run.path
        self.history = run.history()
        for evaluation in self.history:
            console.print(_format_row(evaluation))
        self.losses = [(line.iteration, line.loss) for line in run.log() if isinstance(line, gpt.Progress)]
        description, status, left = map(TextColumn, ("{task.description}", "{task.fields[status]}", "left"))
        columns = description, BarColumn(bar_width=12), status, TimeElapsedColumn(), TimeRemainingColumn(), left
        self.bar = make_progress(*columns, below=self._below)
        last = run.train_config.num_iter
        self.task = self.bar.add_task("", total=count_work(run.gpt_config, run.train_config, last, last))
        self._update(run.position().iteration, "starting")

    def show(self, record: gpt.Record) -> None:
        match record:
            case gpt.Progress():
                self._add_loss(record)
                self._update(record.iteration, f"loss {record.loss:.3f}, {record.tokens_per_second:,.0f} tokens/s")
            case gpt.Evaluating():
                share = record.windows / record.total
                self._update(record.iteration, f"evaluating: {share:.0%}", share)
            case gpt.Evaluation():
                self.history.append(record)
                console.print(_format_row(record))
            case gpt.Sample() if reason_to_end(self.history, self.run.train_config) is None:  # the last one is longer
                console.print(shorten_sample(record.text))
            case gpt.Saved():
                self.path = record.path

    def curve(self) -> Text:
        return draw_curve(self.losses, self.run.train_config.num_iter, console.width - ECHO)

    def _below(self) -> Text:
        answer = Text(STOPPING if self.should_stop() else "")
        return Text("\n").join(text for text in (answer, self.curve()) if text)

    def _add_loss(self, record: gpt.Progress) -> None:
        self.losses.append((record.iteration, record.loss))
        if len(self.losses) > MOST_LOSSES:
            del self.losses[::2]

    def _update(self, iteration: int, status: str, share: float = 0.0) -> None:
        """Show `status` at an iteration, with a `share` of its evaluation done."""
        evaluated = self.history[-1].iteration if self.history else 0
        done = count_work(self.run.gpt_config, self.run.train_config, iteration, evaluated, share)
        description = f"Step {iteration:,}/{self.run.train_config.num_iter:,}"
        self.bar.update(self.task, description=description, status=status, completed=done)


def shorten_sample(text: str) -> Text:
    """A sample as one line that fits the screen."""
    line = Text(INDENT + printable(" / ".join(text.strip().split("\n"))), style="dim")
    line.truncate(console.width, overflow="ellipsis")
    return line


def _format_row(evaluation: gpt.Evaluation) -> str:
    return ROW.format(
        evaluation.iteration,
        f"{evaluation.train_loss:.4f}",
        f"{evaluation.valid_loss:.4f}",
        f"{evaluation.train_seconds:.2f} s",
        f"{evaluation.eval_seconds:.2f} s",
        f"{evaluation.train_tokens / evaluation.train_seconds:,.0f}",
    )
