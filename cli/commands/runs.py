"""`mlx-gpt runs`: lists what was trained."""

import shlex
from dataclasses import dataclass
from datetime import datetime

import mlx_nanogpt as gpt
from mlx_nanogpt import Evaluation, Run, UserError
from mlx_nanogpt.optimizer import end_of_learning
from mlx_nanogpt.runs.find import run_folders
from mlx_nanogpt.runs.run import RUNS
from mlx_nanogpt.training import reason_to_end

from ..screen.consoles import console, fold
from ..screen.describe import list_settings

TITLES = ("Run", "Written", "Text", "Parameters", "Steps", "Best loss", "Tokens/s")
NAMES = 3  # columns that hold names, and are aligned to the left
LONGEST_TEXT = 15  # characters of the name of a text, so that a row fits 80 columns
INDENT = "     "


@dataclass(frozen=True)
class ListedRun:
    """A run, when it was written (in seconds since 1970), its evaluations, how far it is, and the class of its model if that is the
    user's own."""

    run: Run
    written: float
    history: list[Evaluation]
    iteration: int
    model_class: str | None

    @property
    def end(self) -> str | None:
        """The reason why its training is over; None if it is not."""
        return reason_to_end(self.history, self.run.train_config)


def runs() -> None:
    """List the runs in runs/, newest first, with their non-default settings."""
    listed: list[ListedRun] = []
    damaged = []
    for path, written in run_folders().items():
        try:
            run = gpt.open_run(path)
            listed.append(ListedRun(run, written, run.history(), run.position().iteration, run.model_class()))
        except UserError as error:
            damaged.append(f"{path} cannot be listed: {error.problem}")
    if not listed and not damaged:
        raise UserError(f"there is no run in {RUNS.resolve()}", "train one first, with mlx-gpt train")
    if listed:
        _print_table(listed)
    for sentence in damaged:
        console.print(fold(sentence, "", INDENT), style="yellow")
    if listed and listed[0].model_class is None:  # the commands refuse a model of the user's own
        _print_commands(listed[0])


def _print_table(listed: list[ListedRun]) -> None:
    rows = [TITLES, *map(_make_row, listed)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for i, row in enumerate(rows):
        cells = (f"{cell:{'<' if n < NAMES else '>'}{widths[n]}}" for n, cell in enumerate(row))
        console.print("  ".join(cells), style="bold" if i == 0 else None, soft_wrap=True)
        if i and (remarks := _make_remarks(listed[i - 1])):
            console.print(fold(remarks, INDENT, INDENT), style="dim")


def _make_row(listed: ListedRun) -> tuple[str, ...]:
    run, history = listed.run, listed.history
    seconds, text = sum(line.train_seconds for line in history), run.corpus.name
    return (
        str(run.path),
        f"{datetime.fromtimestamp(listed.written):%Y-%m-%d}",
        text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…",
        "-" if listed.model_class else f"{gpt.GPT(run.gpt_config).num_parameters():,}",
        f"{listed.iteration:,}",
        f"{min(line.valid_loss for line in history):.4f}" if history else "-",
        f"{sum(line.train_tokens for line in history) / seconds:,.0f}" if seconds else "-",
    )


def _make_remarks(listed: ListedRun) -> str:
    """Join how many steps are left, or why training ended before, and the settings that are not defaults."""
    left, end = listed.run.train_config.num_iter - listed.iteration, listed.end
    remarks = [end or f"{left:,} steps left"] if left > 0 else []
    if listed.model_class:
        remarks.append(f"model of your own, {listed.model_class}")
    return ", ".join([*remarks, *list_settings(listed.run)])


def _print_commands(listed: ListedRun) -> None:
    """Print the commands that use a run."""
    name = shlex.quote(str(listed.run.path))
    more = {
        "finished": f" --num-iter {2 * listed.run.train_config.num_iter}",
        "out of patience": " --patience 0",
        "at the target": " --target-loss 0",
    }.get(listed.end, "")
    if listed.iteration < end_of_learning(listed.run.train_config):
        what, option = "Resume the newest", f"--resume {name}{more}"
    else:  # its rate is 0
        what, option = "Start a new run from the newest", f"--init-from {name}"
    console.print(f"\n{what}, let it write, measure it:\n  mlx-gpt train {option}", soft_wrap=True)
    if listed.history:
        console.print(f"  mlx-gpt generate {name}\n  mlx-gpt eval {name}", soft_wrap=True)
