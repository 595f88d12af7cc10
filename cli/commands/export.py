"""`mlx-gpt export`: writes a run for other programs, and for `--init-from`."""

import shlex
from pathlib import Path
from typing import Annotated

import mlx_nanogpt as gpt
import typer
from mlx_nanogpt import UserError
from mlx_nanogpt.runs.find import find_run

from ..options.shared import PATH, BestOption, RunOption
from ..screen.consoles import console


def export(
    out: Annotated[Path, typer.Option(help="The folder or the file to write; it must not exist yet.", **PATH)],
    run: RunOption = None,
    best: BestOption = False,
    gguf: Annotated[
        bool, typer.Option("--gguf", help="Write one GGUF file, for llama.cpp, Ollama and LM Studio.")
    ] = False,
) -> None:
    """Write a run as a folder that transformers and mlx_lm open, or as a GGUF file for llama.cpp.

    A model of --preset modern becomes a Qwen3, one with --tied --activation gelu a GPT-2. Other models fit neither.
    """
    if out.suffix == ".gguf" and not gguf:
        raise UserError(f"{out} is the name of a GGUF file, and without `gguf` a folder is written", "give `gguf`, too")
    source = find_run(run)
    write = gpt.export_gguf if gguf else gpt.export_run
    write(source, out, best)
    path = shlex.quote(str(out))
    console.print(f"Written: {out}, from {source.path} at iteration {source.position(best).iteration:,}. Try it with:")
    console.print(
        f"  llama-completion -m {path} -n 200" if gguf else f"  mlx-gpt generate --init-from {path}", soft_wrap=True
    )
