"""`mlx-gpt runs`: what was trained, at a glance."""

import shlex
from collections.abc import Sequence
from datetime import datetime

import mlx_nanogpt as gpt
from mlx_nanogpt import Evaluation, Run, UserError
from mlx_nanogpt.checkpoint import Position
from mlx_nanogpt.run import RUNS, run_folders

from .consoles import console, folded
from .describe import chosen_settings

TITLES = ("Run", "Written", "Text", "Parameters", "Steps", "Best loss", "Tokens/s")
NAMES = 3  # columns that hold names, and are aligned to the left
LONGEST_TEXT = 14  # characters of the name of a text, so that a row fits 80 columns
INDENT = "     "


def runs() -> None:
    """List the runs in runs/, the one that was written last first, and below each the settings that are no defaults."""
    listed: list[tuple[Run, list[Evaluation], Position]] = []
    damaged = []
    for path in run_folders():
        try:
            run = gpt.open_run(path)
            listed.append((run, run.history(), run.position()))
        except UserError as error:
            damaged.append(f"{path} cannot be listed: {error.problem}")
    if not listed and not damaged:
        raise UserError(f"there is no run in {RUNS.resolve()}", "train one first, with mlx-gpt train")
    rows = [TITLES, *(_row(*each) for each in listed)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for i, row in enumerate(rows if listed else []):
        cells = (f"{cell:{'<' if n < NAMES else '>'}{widths[n]}}" for n, cell in enumerate(row))
        console.print("  ".join(cells), style="bold" if i == 0 else None, soft_wrap=True)
        if i and (remarks := _remarks(*listed[i - 1])):
            console.print(folded(remarks, INDENT, INDENT), style="dim")
    for sentence in damaged:
        console.print(sentence, style="yellow", soft_wrap=True)
    if listed:
        _print_commands(*listed[0])


def _row(run: Run, history: Sequence[Evaluation], position: Position) -> tuple[str, ...]:
    seconds, text = sum(each.train_seconds for each in history), run.corpus.name
    return (
        run.path.name,
        f"{datetime.fromtimestamp(max(file.stat().st_mtime for file in run.path.iterdir())):%Y-%m-%d}",
        text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…",
        f"{gpt.GPT(run.gpt_config).num_parameters():,}",
        f"{position.iteration:,}",
        f"{min(each.valid_loss for each in history):.4f}" if history else "-",
        f"{sum(each.train_tokens for each in history) / seconds:,.0f}" if seconds else "-",
    )


def _remarks(run: Run, history: Sequence[Evaluation], position: Position) -> str:
    """How many steps are left, and what the user chose."""
    left = run.train_config.num_iter - position.iteration
    remarks = [f"{left:,} steps left"] if left > 0 else []
    return ", ".join([*remarks, *chosen_settings(run)])


def _print_commands(run: Run, history: Sequence[Evaluation], position: Position) -> None:
    """The commands that use `run`, the newest."""
    name = shlex.quote(str(run.path))
    longer = "" if position.iteration < run.train_config.num_iter else f" --num-iter {2 * run.train_config.num_iter}"
    console.print(
        f"\nGo on with the newest, let it write, measure it:\n  mlx-gpt train --resume {name}{longer}", soft_wrap=True
    )
    if history:
        console.print(f"  mlx-gpt generate --run {name}\n  mlx-gpt eval --run {name}", soft_wrap=True)
