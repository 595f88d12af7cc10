"""`mlx-gpt export`: write a run as a GPT-2, which transformers, mlx_lm and `--init-from` read."""

import shlex
from pathlib import Path
from typing import Annotated

import mlx_nanogpt as gpt
import typer
from mlx_nanogpt.sources import chosen_run

from .consoles import console
from .options import PATH, BestOption, RunOption


def export(
    out: Annotated[Path, typer.Option(help="The folder to write; it must not exist yet.", **PATH)],
    run: RunOption = None,
    best: BestOption = False,
) -> None:
    """Write a run as a folder that transformers and mlx_lm open as a GPT-2.

    The model must have been trained with --tied --activation gelu.
    """
    source = chosen_run(run)
    gpt.export_gpt2(source, out, best)
    console.print(f"Written: {out}, from {source.path} at iteration {source.position(best).iteration:,}. Try it with:")
    console.print(f"  mlx-gpt generate --init-from {shlex.quote(str(out))}", soft_wrap=True)
