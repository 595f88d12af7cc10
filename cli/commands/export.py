"""`mlx-gpt export`: writes a run for other programs, and for `--init-from`."""

import shlex
from pathlib import Path
from typing import Annotated

import mlx_nanogpt as gpt
import typer
from mlx_nanogpt import UserError
from mlx_nanogpt.exchange.layouts import best_layout
from mlx_nanogpt.runs.find import find_run

from ..options.shared import PATH, LastOption, RunArgument
from ..screen.consoles import console
from ..screen.describe import describe_weights


def export(
    out: Annotated[Path, typer.Option(help="The folder or the file to write; it must not exist yet.", **PATH)],
    run: RunArgument = None,
    last: LastOption = False,
    gguf: Annotated[
        bool, typer.Option("--gguf", help="Write one GGUF file, for llama.cpp, Ollama and LM Studio.")
    ] = False,
) -> None:
    """Write a run as a folder that transformers and mlx_lm open, or as a GGUF file for llama.cpp.

    A model of --preset modern becomes a Qwen3, one with --tied --activation gelu a GPT-2. Other models fit neither.
    """
    if out.suffix == ".gguf" and not gguf:
        raise UserError(f"{out} is the name of a GGUF file, and without `gguf` a folder is written", "give `gguf`, too")
    source, write = find_run(run), gpt.export_gguf if gguf else gpt.export_run
    write(source, out, last)
    kind = f"{'a GGUF file of ' if gguf else ''}a {best_layout(source.gpt_config)[0].name}"
    console.print(f"Written: {out}, {kind} in float32, from {describe_weights(source, last)}.", soft_wrap=True)
    path = shlex.quote(str(out))
    console.print("Try it with:")
    console.print(
        f"  llama-completion -m {path} -n 200" if gguf else f"  mlx-gpt generate --init-from {path}", soft_wrap=True
    )
