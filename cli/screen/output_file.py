"""The file that an option names and a command writes: --json, --html and --out."""

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
    Path | None,
    typer.Option("--json", help="Write all that was found to this file.", show_default="not written", **PATH),
]


def check_replaceable(file: Path | None, option: str) -> None:
    """Raise `UserError` if `file`, which the `option` names, is given and cannot be written."""
    if file is None:
        return
    if os.path.lexists(file) and not file.is_file():
        raise UserError(f"{file} is a folder or a device, not a file", f"choose another `{option}`")
    if not (file.parent.is_dir() and os.access(file.parent, os.W_OK)):
        raise UserError(
            f"{file} cannot be written (there is no such folder, or no right to)", f"choose another `{option}`"
        )


def write_page(file: Path, page: str, option: str) -> None:
    """Replace `file`, which the `option` names, by `page`. Raises `UserError` if that fails."""
    try:
        with replacing(file) as opened:
            opened.write(page.encode(errors="backslashreplace"))  # the name of a file may be no UTF-8
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror})", f"choose another `{option}`") from error


def write_json(file: Path | None, content: dict) -> None:
    """Replace `file`, if it is given, by `content`, and say so."""
    if file is not None:
        with replacing(file) as opened:
            opened.write((json.dumps(content, indent=2) + "\n").encode())
        console.print(f"\nWritten: {file}")
