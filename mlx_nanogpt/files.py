"""Where files go, and how they are written so that nothing the user had is lost."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError


def cache_dir() -> Path:
    """The user's cache for this project: `$XDG_CACHE_HOME/mlx-nanogpt`, by default `~/.cache/mlx-nanogpt`.

    Raises `UserError` if there is no home directory.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlx-nanogpt"
    except RuntimeError as error:
        raise UserError("there is no home directory to keep a cache in; set XDG_CACHE_HOME to a folder") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to, in the folder of `path` and with its suffix; rename it to `path` once all is on disk.

    If the body raises, or the machine stops, whatever `path` held before is still there, whole.
    """
    aside = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield aside
        with aside.open("rb+") as file:
            _sync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def check_name(path: Path, remedy: str) -> None:
    """Raise `UserError`, with a `remedy`, if MLX cannot write to a path of this name."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the name {str(path)!r} is not UTF-8, so MLX cannot write there; {remedy}") from error


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Yield a folder to write files into, beside where `folder` will be; rename it to `folder` once all is on disk.

    If the body raises, or the machine stops, there is no `folder`. Raises `UserError` if there is one already, or if its
    name is one that MLX cannot write to.
    """
    if os.path.lexists(folder):
        raise UserError(f"{folder} exists already, and nothing in it is overwritten; choose another name")
    check_name(folder, "choose another")
    aside = folder.with_name(f".{os.getpid()}-{folder.name}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside.mkdir()
    try:
        yield aside
        for each in aside.iterdir():
            with each.open("rb+") as file:
                _sync(file.fileno())
        os.rename(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of the body for the same `folder`. Raises `UserError` if one is in it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UserError(f"{folder} is being trained by another process; wait for its end, or stop it") from error
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    if hasattr(fcntl, "F_FULLFSYNC"):  # macOS: fsync stops at the drive's own cache
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)
