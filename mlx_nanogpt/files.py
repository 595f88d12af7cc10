"""Where files go, and how they are written so that nothing the user had is lost."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_dir() -> Path:
    """The user's cache for this project: `$XDG_CACHE_HOME/mlx-nanogpt`, by default `~/.cache/mlx-nanogpt`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlx-nanogpt"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to, in the folder of `path` and with its suffix; rename it to `path` once all is on disk.

    If the body raises, or the machine stops, whatever `path` held before is still there, whole.
    """
    aside = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield aside
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
