"""`mlx-gpt export`: a run as a GPT-2, for transformers, for mlx_lm and for `--init-from`."""

import shlex
from pathlib import Path
from typing import Annotated

import mlx_nanogpt as gpt
import typer

from .screen import PATH, BestOption, RunOption, chosen_run, console


def export(
    out: Annotated[Path, typer.Option(help="The folder to write; it must not exist yet.", **PATH)],
    run: RunOption = None,
    best: BestOption = False,
) -> None:
    """Write a run as a folder that transformers and mlx_lm open as a GPT-2.

    That takes a model trained with --tied --activation gelu.
    """
    source = chosen_run(run)
    gpt.export_gpt2(source, out, best)
    console.print(f"Written: {out}, from {source.path} at iteration {source.position(best).iteration:,}. Try it with:")
    console.print(f"  mlx-gpt generate --init-from {shlex.quote(str(out))}", soft_wrap=True)
