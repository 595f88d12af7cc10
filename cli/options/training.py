"""The options of `mlx-gpt train` that are not settings."""

from pathlib import Path
from typing import Annotated

import typer
from mlx_nanogpt.config import MACHINE, TRAINING
from mlx_nanogpt.runs.find import named_run
from mlx_nanogpt.runs.trackers import KINDS

from ..process.retries import MAC_RETRIES
from .settings import RUN
from .shared import NAME, PATH, RUN_PATH, TEXTS

DataOption = Annotated[
    list[str], typer.Option(help=f"{TEXTS} Or one folder of tokens, from mlx-gpt prepare or from nanoGPT.", **NAME)
]
StartOption = Annotated[
    str | None,
    typer.Option(
        help="Start from these weights: a run (its best), a folder in the layout of GPT-2 or Qwen3, or a name on the Hugging Face "
        "hub. The new run has that model and tokenizer; only --dropout may differ, and --block-size may be smaller.",
        show_default="random numbers",
        parser=lambda name: named_run(NAME["parser"](name)),
        metavar="TEXT",
    ),
]
RunDirOption = Annotated[
    Path | None, typer.Option(help="Where to keep the run.", show_default="the next number in runs/", **PATH)
]
ResumeOption = Annotated[
    Path | None,
    typer.Option(
        help="Resume this run; of its settings only --num-iter, --patience, --target-loss, --data, --device and --report-to may change.",
        **RUN_PATH,
    ),
]


def _check_tracker(name: str) -> str:
    if name not in KINDS:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(KINDS)}.")
    return name


ReportToOption = Annotated[
    list[str],
    typer.Option(
        parser=_check_tracker,
        metavar="TRACKER",
        help=f"A tracker that follows the run: {', '.join(KINDS)}; each needs its package. Give it again to add another.",
        show_default="none",
        rich_help_panel=RUN,
    ),
]
CaffeinateOption = Annotated[
    bool,
    typer.Option("--caffeinate/--no-caffeinate", help="Keep a Mac awake while it trains.", rich_help_panel=MACHINE),
]
TeacherOption = Annotated[
    list[str],
    typer.Option(
        help="A trained run on the same tokens, to learn from what it expects; give it again to add another.",
        show_default="none",
        rich_help_panel=TRAINING,
        **NAME | {"metavar": "RUN"},
    ),
]
MinutesOption = Annotated[
    float | None,
    typer.Option(
        help="How long the run may take, from now on: it measures a few steps, and sets --num-iter. A rate that falls until the last "
        "iteration does so then, too.",
        show_default="as long as --num-iter takes",
        metavar="<minutes>",
    ),
]
RetriesOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Resume by itself in a new process after the GPU failed, up to this many times without a new checkpoint.",
        show_default=f"{MAC_RETRIES} on the GPU of a Mac, else 0",
        metavar="<times>",
        rich_help_panel=MACHINE,
    ),
]
