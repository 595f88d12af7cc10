"""The cache folder, crash-safe writes, and the errors of reading a damaged file."""

import errno
import fcntl
import math
import os
import platform
import re
import shutil
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .errors import UserError, is_of_device

NOT_THERE = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.ENOLCK}
"""The errors of network and FUSE volumes that lack an operation."""

TAKEN = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}  # the last is that of Linux for SMB
"""The errors of a lock that another process has."""

DAMAGE = (RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
"""The errors that reading a damaged file may raise. A RuntimeError of MLX may also come from the device; see `explaining_damage`."""

LOCK = ".lock"  # the file of a folder's lock: SMB on a Mac locks files, but no folders. It stays, or two could lock two such files


def cache_dir() -> Path:
    """The user's cache for this project: `$XDG_CACHE_HOME/mlx-nanogpt`, by default `~/.cache/mlx-nanogpt`.

    Raises `UserError` if there is no home directory.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlx-nanogpt"
    except RuntimeError as error:
        raise UserError("there is no home directory to keep a cache in", "set XDG_CACHE_HOME to a folder") from error


def read_text(path: Path) -> str:
    """The UTF-8 text of the file `path`."""
    return path.read_text(encoding="utf-8")


@contextmanager
def explaining_damage(
    path: Path,
    problem: str = "is damaged, or was not written by this program",
    remedy: str = "restore it from a copy, name another run, or train a new one",
) -> Iterator[None]:
    """Turn an error of reading `path` in the body into a `UserError`. A lack of memory, or a failure of the GPU, is not damage and
    passes through."""
    try:
        yield
    except OSError as error:
        if is_of_device(error):
            raise
        problem = f"{error.filename or path} cannot be read ({error.strerror or error})"
        raise UserError(problem, f"make it readable, or {remedy}") from error
    except DAMAGE as error:
        if is_of_device(error):
            raise
        raise UserError(f"{path} {problem} ({type(error).__name__}: {error})", remedy) from error


@contextmanager
def explaining_read(path: Path | str, remedy: str) -> Iterator[None]:
    """Turn an `OSError` of reading `path` in the body into a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename or path} cannot be read ({error.strerror})", remedy) from error


@contextmanager
def explaining_write(path: Path, remedy: str, by_mlx: bool = False) -> Iterator[None]:
    """Turn an error of writing `path` in the body into a `UserError`; of MLX, it is a RuntimeError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and (not by_mlx or is_of_device(error)):
            raise
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be written ({reason})", remedy) from error


@dataclass(frozen=True)
class Folder:
    """An open folder. Files go into it even after it was moved."""

    path: Path  # at the time it was opened
    descriptor: int

    def current_path(self) -> Path:
        """`path`, or the absolute path that the folder was moved to. Raises `UserError` if it was deleted."""
        own = os.fstat(self.descriptor)
        for find in (lambda: self.path, lambda: _path_of(self.descriptor)):
            with suppress(OSError):  # macOS does not know the path of a deleted folder
                path = find()
                if os.path.samestat(own, path.stat()):
                    return path
        problem = f"{self.path} was deleted, or moved to another disk"
        raise UserError(problem, "start again, and leave the folder where it is")

    @contextmanager
    def replacing(self, name: str) -> Iterator[BinaryIO]:
        """Yield a file to write to. Once it is on the disk, it replaces the file `name` and takes over its permissions.

        If the body raises, or the machine stops, the older file is still there, whole.
        """
        aside = f".{name}.{os.getpid()}.part"
        self.remove(aside)  # of a process that was killed, and had this number
        try:
            with open(aside, "xb", opener=self._open) as file:
                with suppress(FileNotFoundError):
                    os.fchmod(file.fileno(), stat.S_IMODE(os.stat(name, dir_fd=self.descriptor).st_mode))
                yield file
                file.flush()
                _sync(file.fileno())
            os.replace(aside, name, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
            with _if_supported():
                os.fsync(self.descriptor)  # the new name is on the disk before a later one
        except BaseException:
            self.remove(aside)
            raise

    def write(self, name: str, text: str) -> None:
        """Replace the file `name` by `text` in UTF-8."""
        with self.replacing(name) as file:
            file.write(text.encode())

    def holds(self, name: str) -> bool:
        """Whether there is something called `name`, even a link to nowhere."""
        try:
            os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def remove(self, *names: str) -> None:
        """Remove the files `names`, as far as they are there."""
        for name in names:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self.descriptor)

    def sweep(self, *names: str) -> None:
        """Remove the half-written files `names` of killed processes; a `*` in a name is some number. Hold the lock: other processes
        may be writing."""
        patterns = "|".join(re.escape(name).replace(r"\*", r"\d+") for name in names)
        left = re.compile(rf"\.({patterns})\.\d+\.part")
        self.remove(*filter(left.fullmatch, os.listdir(self.descriptor)))

    def _open(self, name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW, 0o666, dir_fd=self.descriptor)


@contextmanager
def open_folder(path: Path) -> Iterator[Folder]:
    """Yield the folder `path`, open."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield Folder(path, descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[Folder]:
    """Yield the folder `path`, open, with the lock of the file `LOCK` in it. If another process has the lock, wait for it or raise
    `UserError`. A disk without locks, as on some networks, is used with a warning."""
    with open_folder(path) as folder:
        file = _open_lock(folder)
        try:
            for descriptor in (file, folder.descriptor):  # the folder, too: somebody may remove the file
                _lock(descriptor, folder, wait)
            yield folder
        finally:
            os.close(file)


def _open_lock(folder: Folder) -> int:
    flags, remedy = os.O_NOFOLLOW | os.O_NONBLOCK, "make it writable, or remove it if no process uses the folder"
    with explaining_write(folder.path / LOCK, remedy):
        try:
            return os.open(LOCK, flags | os.O_RDWR | os.O_CREAT, 0o666, dir_fd=folder.descriptor)
        except PermissionError:  # of another user, and a local disk locks what can only be read
            with suppress(OSError):
                return os.open(LOCK, flags | os.O_RDONLY, dir_fd=folder.descriptor)
            raise


def _lock(descriptor: int, folder: Folder, wait: bool) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in TAKEN:
            raise UserError(f"{folder.path} is in use by another process", "wait until it ends, or stop it") from error
        if descriptor == folder.descriptor:
            return  # the lock of the file counts
        if error.errno not in NOT_THERE:
            raise
        warn_of_disk(f"the disk of {folder.path} has no locks ({error.strerror})")


def warn_of_disk(problem: str) -> None:
    """Warn that nothing keeps two processes apart."""
    # of this line, wherever the lock is taken: Python shows the same text of the same line once
    warnings.warn(f"{problem}; let no two processes write there at once", RuntimeWarning, stacklevel=1)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write to, which then replaces the file `path`; see `Folder.replacing`."""
    with open_folder(path.parent) as folder, folder.replacing(path.name) as file:
        yield file


def check_name(path: Path, remedy: str) -> None:
    """Raise `UserError`, with a `remedy`, if MLX cannot open a path of this name."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the name {str(path)!r} is not UTF-8, so MLX cannot open files there", remedy) from error


def check_free(path: Path) -> None:
    """Raise `UserError` if `path` exists, if nothing can be written there, or if MLX cannot write to a path of its name."""
    if os.path.lexists(path):
        raise UserError(f"{path} exists already", "choose another name")
    above = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise UserError(f"{path} cannot be written ({above} is no folder, or is read-only)", "choose another name")
    check_name(path, "choose another")


@contextmanager
def create_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to write files into. Once they are on the disk, it is renamed to `path`.

    If the body raises, or the machine stops, there is no `path`. The next call removes the files of a killed process. Raises
    `UserError` if `path` exists, or if MLX cannot write to a path of its name.
    """
    check_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    here = f".{path.name}.{platform.node()}"  # another machine may have the same process numbers
    left = re.compile(rf"{re.escape(here)}\.(\d+)\.part")
    for folder in path.parent.iterdir():
        if (match := left.fullmatch(folder.name)) and not _is_another(int(match[1])):
            shutil.rmtree(folder, ignore_errors=True)
    aside = path.with_name(f"{here}.{os.getpid()}.part")
    aside.mkdir()
    try:
        yield aside
        for written in aside.iterdir():
            with written.open("rb+") as file:
                _sync(file.fileno())
        os.rename(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _is_another(process: int) -> bool:
    """Whether `process` is the number of another process that runs."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        return True
    return process != os.getpid()


def check_counts(*values: Any) -> None:
    """Raise `ValueError` unless all `values` are whole numbers from 0 on."""
    if not all(type(value) is int and 0 <= value < 2**63 for value in values):
        raise ValueError(f"not all of {values} are whole numbers from 0 on")


def check_measures(*values: Any) -> None:
    """Raise `ValueError` unless all `values` are finite numbers from 0 on."""
    if not all(type(value) in (int, float) and math.isfinite(value) and value >= 0 for value in values):
        raise ValueError(f"not all of {values} are finite numbers from 0 on")


def _path_of(descriptor: int) -> Path:
    """The path of an open folder. If it was deleted, nothing is at that path."""
    if hasattr(fcntl, "F_GETPATH"):  # macOS
        return Path(os.fsdecode(fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0")))
    return Path(os.readlink(f"/proc/self/fd/{descriptor}"))


def _sync(descriptor: int) -> None:
    if hasattr(fcntl, "F_FULLFSYNC"):  # macOS, where fsync does not reach beyond the cache of the drive
        with _if_supported():
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


@contextmanager
def _if_supported() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_THERE:
            raise


def newest_files(folder: Path, *names: str) -> dict[Path, float]:
    """The files of `names` in the folders of `folder`, and when each was written (seconds since 1970), the newest first."""
    found = {}
    for file in (file for name in names for file in folder.glob(f"*/{name}")):
        with suppress(FileNotFoundError):  # another process may have removed it meanwhile
            found[file] = file.stat().st_mtime
    return dict(sorted(found.items(), key=lambda item: item[1], reverse=True))
