"""The option --json of commands that measure."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from mlx_nanogpt import UserError
from mlx_nanogpt.files import replacing

from .consoles import console
from .options import PATH

JsonOption = Annotated[
    Path | None,
    typer.Option("--json", help="Write all that was found to this file.", show_default="not written", **PATH),
]


def check_replaceable(file: Path | None) -> None:
    """Raise `UserError` if `file` is given and cannot be written."""
    if file is None:
        return
    if os.path.lexists(file) and not file.is_file():
        raise UserError(f"{file} is a folder or a device, not a file", "choose another `json`")
    if not (file.parent.is_dir() and os.access(file.parent, os.W_OK)):
        raise UserError(f"{file} cannot be written (there is no such folder, or no right to)", "choose another `json`")


def write_json(file: Path | None, content: dict) -> None:
    """Replace `file`, if it is given, by `content`, and say so."""
    if file is not None:
        with replacing(file) as opened:
            opened.write((json.dumps(content, indent=2) + "\n").encode())
        console.print(f"\nWritten: {file}")
