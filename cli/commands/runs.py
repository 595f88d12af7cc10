"""`mlx-gpt runs`: lists what was trained."""

import math
import shlex
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import mlx_nanogpt as gpt
import typer
from mlx_nanogpt import Evaluation, Run, UserError
from mlx_nanogpt.optimizer import end_of_learning
from mlx_nanogpt.records import reason_to_end
from mlx_nanogpt.runs.find import run_folders
from mlx_nanogpt.runs.run import RUNS

from ..options.shared import PATH
from ..screen.consoles import console, fold
from ..screen.describe import list_settings

TITLES = ("Run", "Written", "Text", "Params", "Steps", "Loss", "Bits", "Tokens/s")
LEGEND = "Loss: the lowest validation loss, in nats per token. Bits: per character."
NAMES = 3  # columns that hold names, and are aligned to the left
TEXT = 2  # the column of the names of texts
LONGEST_TEXT, SHORTEST_TEXT = 15, 5  # characters of such a name, so that a row fits 80 columns
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
    def loss(self) -> float:
        """The lowest validation loss; infinite before the first evaluation."""
        return min((line.valid_loss for line in self.history), default=math.inf)

    @property
    def speed(self) -> float:
        """Tokens a second of training."""
        seconds = sum(line.train_seconds for line in self.history)
        return sum(line.train_tokens for line in self.history) / seconds if seconds else 0.0

    @property
    def end(self) -> str | None:
        """The reason why its training is over; None if it is not."""
        return reason_to_end(self.history, self.run.train_config)


ORDERS = {  # of --sort
    "written": lambda run: -run.written,
    "loss": lambda run: run.loss,
    "steps": lambda run: -run.iteration,
    "speed": lambda run: -run.speed,
}


def runs(
    folder: Annotated[Path, typer.Argument(help="The folder that holds the runs.", **PATH)] = RUNS,
    sort: Annotated[
        Literal["written", "loss", "steps", "speed"],
        typer.Option(help="What comes first: the newest, the lowest loss, the most steps or the fastest."),
    ] = "written",
) -> None:
    """List runs, the newest first, with the preset each is nearest to and the settings that differ from it."""
    listed: list[ListedRun] = []
    damaged = []
    for path, written in run_folders(folder).items():
        try:
            run = gpt.open_run(path)
            listed.append(ListedRun(run, written, run.history(), run.position().iteration, run.model_class()))
        except UserError as error:
            damaged.append(f"{path} cannot be listed: {error.problem}")
    if not listed and not damaged:
        raise UserError(f"there is no run in {folder.resolve()}", "train one first, with mlx-gpt train")
    if listed:
        _print_table(sorted(listed, key=ORDERS[sort]))
        console.print(LEGEND, style="dim")
    for sentence in damaged:
        console.print(fold(sentence, "", INDENT), style="yellow")
    if listed and listed[0].model_class is None:  # the commands refuse a model of the user's own
        _print_commands(listed[0])


def _print_table(listed: list[ListedRun]) -> None:
    rows = [TITLES, *map(_make_row, listed)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    if console.is_terminal:
        too_wide = sum(widths) + 2 * (len(widths) - 1) - console.width
        widths[TEXT] = max(widths[TEXT] - max(too_wide, 0), SHORTEST_TEXT)
    for i, row in enumerate(rows):
        cells = [f"{cell:{'<' if n < NAMES else '>'}{widths[n]}}" for n, cell in enumerate(row)]
        cells[TEXT] = cells[TEXT] if len(cells[TEXT]) == widths[TEXT] else f"{cells[TEXT][: widths[TEXT] - 1]}…"
        console.print("  ".join(cells), style="bold" if i == 0 else None, soft_wrap=True)
        if i and (remarks := _make_remarks(listed[i - 1])):
            console.print(fold(remarks, INDENT, INDENT), style="dim")


def _make_row(listed: ListedRun) -> tuple[str, ...]:
    run, text, at = listed.run, listed.run.corpus.name, datetime.fromtimestamp(listed.written)
    parameters = gpt.GPT(run.gpt_config).num_parameters()
    by_character = listed.history and run.tokenizer.kind == "char"
    return (
        str(run.path),
        f"{at:%b %d %H:%M}" if at.year == datetime.now().year else f"{at:%b %d  %Y}",
        text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…",
        "-" if listed.model_class else f"{parameters:,}" if parameters < 1e6 else f"{parameters / 1e6:,.1f}M",
        f"{listed.iteration:,}",
        f"{listed.loss:.4f}" if listed.history else "-",
        f"{listed.loss / math.log(2):.4f}" if by_character else "-",
        f"{listed.speed:,.0f}" if listed.speed else "-",
    )


def _make_remarks(listed: ListedRun) -> str:
    """Join how many steps are left, or why training ended before, and the preset and the other settings."""
    left, end = listed.run.train_config.num_iter - listed.iteration, listed.end
    remarks = [end or f"{left:,} steps left"] if left > 0 else []
    if listed.model_class:
        remarks.append(f"model of your own, {listed.model_class}")
    if listed.run.init_from:
        remarks.append(f"from {listed.run.init_from}")
    return ", ".join([*remarks, *list_settings(listed.run)])


def _print_commands(listed: ListedRun) -> None:
    """Print the commands that use a run."""
    name, config = shlex.quote(str(listed.run.path)), listed.run.train_config
    more = {
        "finished": f" --num-iter {2 * config.num_iter}",
        "out of patience": " --patience 0",
        "at the target": " --target-loss 0",
    }.get(listed.end, "")
    is_unevaluated = listed.end is None and listed.iteration == config.num_iter
    if listed.iteration < end_of_learning(config) or is_unevaluated:
        what, option = "Resume the newest", f"--resume {name}{more}"
    else:  # its rate is 0
        what, option = "Start a new run from the newest", f"--init-from {name}"
    console.print(f"\n{what}, let it write, measure it:\n  mlx-gpt train {option}", soft_wrap=True)
    if listed.history:
        console.print(f"  mlx-gpt generate {name}\n  mlx-gpt eval {name}", soft_wrap=True)
