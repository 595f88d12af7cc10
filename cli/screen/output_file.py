"""Output files that an option names: --json, --html and --out."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from mlx_nanogpt import UserError
from mlx_nanogpt.files import replacing

from ..options.shared import PATH
from .consoles import console

JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Write all results to this file.", show_default="not written", **PATH)
]


def check_replaceable(file: Path | None, option: str) -> None:
    """Raise `UserError` if `file`, the value of `option`, cannot be written."""
    if file is None:
        return
    if os.path.lexists(file) and not file.is_file():
        raise UserError(f"{file} is a folder or a device, not a file", f"choose another `{option}`")
    if not (file.parent.is_dir() and os.access(file.parent, os.W_OK)):
        raise UserError(f"{file} cannot be written (its folder is missing or read-only)", f"choose another `{option}`")


def write_file(file: Path, content: str) -> None:
    """Replace `file` by `content`. Raises `OSError` if that fails."""
    with replacing(file) as opened:
        opened.write(content.encode(errors="backslashreplace"))  # it may hold a file name that is not UTF-8


def write_json(file: Path | None, content: dict) -> None:
    """Replace `file`, if there is one, by `content`, and print its name."""
    if file is not None:
        write_file(file, json.dumps(content, indent=2) + "\n")
        console.print(f"\nWritten: {file}")
