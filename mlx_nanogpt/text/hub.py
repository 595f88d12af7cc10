"""The Hugging Face hub."""

import textwrap
from pathlib import Path

from ..errors import UserError, import_extra

HUB = "https://huggingface.co"


def fetch(name: str, files: list[str], otherwise: str) -> Path:
    """Download `files` of the model `name` unless they are in the cache of the hub's library; return their folder. Raises
    `UserError` with the remedy `otherwise` if that fails."""
    try:
        hub = import_extra("huggingface_hub", "gpt2")
    except UserError as error:
        raise UserError(f"{error}, to fetch from {HUB}/{name}", f"or {otherwise}") from error
    try:
        return Path(hub.snapshot_download(name, allow_patterns=files))
    except Exception as error:  # its own errors, and those of the libraries that it uses
        reason = textwrap.shorten(str(error) or type(error).__name__, 60, placeholder=" ...")
        problem = f"{HUB}/{name} could not be fetched ({reason})"
        raise UserError(problem, f"connect to the network, or {otherwise}") from error
