"""Output files that an option names: --json, --html and --out."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from mlx_nanogpt import UserError
from mlx_nanogpt.files import replacing
from mlx_nanogpt.runs.run import FILES

from ..options.shared import PATH
from .consoles import console

GENERATOR = "mlx-gpt"  # in every page and JSON file that the program writes: it replaces no others
MARKS = f'<meta name="generator" content="{GENERATOR}">', f'"generator": "{GENERATOR}"'
HEAD = 1000  # bytes of a file that may hold the mark

JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Write all results to this file.", show_default="not written", **PATH)
]
OutOption = Annotated[Path, typer.Option(help="The file to write.", **PATH)]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace the file to write, whoever wrote it.")]


def check_replaceable(file: Path | None, option: str, force: bool) -> None:
    """Raise `UserError` if `file`, the value of `option`, cannot be written, or if it holds something else than what this program
    wrote and `force` is not given."""
    if file is None:
        return
    if os.path.lexists(file) and not file.is_file():
        raise UserError(f"{file} is a folder or a device, not a file", f"choose another `{option}`")
    if not (file.parent.is_dir() and os.access(file.parent, os.W_OK)):
        raise UserError(f"{file} cannot be written (its folder is missing or read-only)", f"choose another `{option}`")
    if file.is_file() and not (force or _is_ours(file)):
        problem = f"{file} is there already, and was not written by this program"
        raise UserError(problem, f"choose another `{option}`, or replace it with `force`")


def _is_ours(file: Path) -> bool:
    with file.open("rb") as opened:
        head = opened.read(HEAD)
    # a file of a run may be empty
    return file.name not in FILES and (not head or any(mark.encode() in head for mark in MARKS))


def write_file(file: Path, content: str) -> None:
    """Replace `file` by `content`. Raises `OSError` if that fails."""
    with replacing(file) as opened:
        opened.write(content.encode(errors="backslashreplace"))  # it may hold a file name that is not UTF-8


def write_json(file: Path | None, content: dict) -> None:
    """Replace `file`, if there is one, by `content`, and print its name."""
    if file is not None:
        write_file(file, json.dumps({"generator": GENERATOR} | content, indent=2) + "\n")
        console.print(f"\nWritten: {file}")
