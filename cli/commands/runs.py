"""`mlx-gpt runs`: what was trained, at a glance."""

import shlex
from dataclasses import dataclass
from datetime import datetime

import mlx_nanogpt as gpt
from mlx_nanogpt import Evaluation, Run, UserError
from mlx_nanogpt.runs.run import RUNS, run_folders
from mlx_nanogpt.training import end_of

from ..screen.consoles import console, folded
from ..screen.describe import chosen_settings

TITLES = ("Run", "Written", "Text", "Parameters", "Steps", "Best loss", "Tokens/s")
NAMES = 3  # columns that hold names, and are aligned to the left
LONGEST_TEXT = 15  # characters of the name of a text, so that a row fits 80 columns
INDENT = "     "


@dataclass(frozen=True)
class ListedRun:
    """A run, when it was written, and what it came to."""

    run: Run
    written: float  # seconds since 1970
    history: list[Evaluation]
    iteration: int

    @property
    def end(self) -> str | None:
        """Why its training is over; None if it is not."""
        return end_of(self.history, self.run.train_config)

    @property
    def more(self) -> str:
        """The option that lets it go on, if it takes one."""
        longer = f" --num-iter {2 * self.run.train_config.num_iter}"
        return {"finished": longer, "out of patience": " --patience 0", "at the target": " --target-loss 0"}.get(
            self.end, ""
        )


def runs() -> None:
    """List the runs in runs/, the one that was written last first, and below each the settings that are no defaults."""
    listed: list[ListedRun] = []
    damaged = []
    for path, written in run_folders().items():
        try:
            run = gpt.open_run(path)
            listed.append(ListedRun(run, written, run.history(), run.position().iteration))
        except UserError as error:
            damaged.append(f"{path} cannot be listed: {error.problem}")
    if not listed and not damaged:
        raise UserError(f"there is no run in {RUNS.resolve()}", "train one first, with mlx-gpt train")
    rows = [TITLES, *map(_row, listed)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for i, row in enumerate(rows if listed else []):
        cells = (f"{cell:{'<' if n < NAMES else '>'}{widths[n]}}" for n, cell in enumerate(row))
        console.print("  ".join(cells), style="bold" if i == 0 else None, soft_wrap=True)
        if i and (remarks := _remarks(listed[i - 1])):
            console.print(folded(remarks, INDENT, INDENT), style="dim")
    for sentence in damaged:
        console.print(folded(sentence, "", INDENT), style="yellow")
    if listed:
        _print_commands(listed[0])


def _row(listed: ListedRun) -> tuple[str, ...]:
    run, history = listed.run, listed.history
    seconds, text = sum(each.train_seconds for each in history), run.corpus.name
    return (
        str(run.path),
        f"{datetime.fromtimestamp(listed.written):%Y-%m-%d}",
        text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…",
        f"{gpt.GPT(run.gpt_config).num_parameters():,}",
        f"{listed.iteration:,}",
        f"{min(each.valid_loss for each in history):.4f}" if history else "-",
        f"{sum(each.train_tokens for each in history) / seconds:,.0f}" if seconds else "-",
    )


def _remarks(listed: ListedRun) -> str:
    """How many steps are left, or why the training stopped before, and what the user chose."""
    left, end = listed.run.train_config.num_iter - listed.iteration, listed.end
    remarks = [end if end and end != "finished" else f"{left:,} steps left"] if left > 0 else []
    return ", ".join([*remarks, *chosen_settings(listed.run)])


def _print_commands(listed: ListedRun) -> None:
    """The commands that use the newest run."""
    name = shlex.quote(str(listed.run.path))
    console.print(
        f"\nGo on with the newest, let it write, measure it:\n  mlx-gpt train --resume {name}{listed.more}",
        soft_wrap=True,
    )
    if listed.history:
        console.print(f"  mlx-gpt generate --run {name}\n  mlx-gpt eval --run {name}", soft_wrap=True)
