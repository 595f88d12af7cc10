"""The Hugging Face hub, and the optional packages that reach it."""

import importlib
import textwrap
from pathlib import Path
from types import ModuleType

from ..errors import UserError

HUB = "https://huggingface.co"


def import_extra(package: str, extra: str = "gpt2") -> ModuleType:
    """`package`, of the optional `extra`. Raises `UserError` if it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"this takes the package {package}, which cannot be imported ({error})",
            f'install it with pip install -e ".[{extra}]" in the folder of mlx-nanogpt',
        ) from error


def fetched(name: str, files: list[str], otherwise: str) -> Path:
    """The folder in the cache of the hub's library with `files` of the model `name`, downloaded if necessary. Raises `UserError`,
    which says what to do `otherwise`, if that fails."""
    try:
        hub = import_extra("huggingface_hub")
    except UserError as error:
        raise UserError(f"{error}, to fetch from {HUB}/{name}", f"or {otherwise}") from error
    try:
        return Path(hub.snapshot_download(name, allow_patterns=files))
    except Exception as error:  # its own errors, and those of the libraries that it uses
        reason = textwrap.shorten(str(error) or type(error).__name__, 60, placeholder=" ...")
        raise UserError(
            f"{HUB}/{name} could not be fetched ({reason})", f"connect to the network, or {otherwise}"
        ) from error
