"""Folders of texts: which of their files are text."""

import codecs
import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .token_files import holds_tokens

MODEL_FILES = ("config.json", "tokenizer.json")  # of a folder of a run or of an exported model
MOST_KINDS = 5  # listed by name
PIECE = 2**20  # bytes of a file that are looked at


@dataclass(frozen=True)
class FolderFiles:
    """The files below a folder, in the order of their names: texts, and others."""

    taken: tuple[Path, ...]
    left: tuple[Path, ...]


def folder_files(path: str) -> FolderFiles:
    """The files below the folder `path`. A file is a text if its first `PIECE` bytes are UTF-8.

    Hidden files are ignored, and so are folders of tokens, runs and exported models. Raises `UserError` if something cannot be
    read, for a pipe, socket or device, and for a `*.txt` file that is not UTF-8.
    """

    def refuse(error: OSError) -> None:
        raise _unreadable(Path(error.filename), error)

    found = []
    for folder, below, names in os.walk(path, onerror=refuse):
        # hidden files are copies of an editor or, on external disks of a Mac, binary "._" files
        below[:] = [each for each in below if not (each.startswith(".") or _is_ours(Path(folder, each)))]
        found += [Path(folder, each) for each in names if not each.startswith(".")]
    taken: list[Path] = []
    left: list[Path] = []
    for file in sorted(found):
        (taken if _is_text(file) else left).append(file)
    return FolderFiles(tuple(taken), tuple(left))


def count_kinds(files: Sequence[Path]) -> str:
    """How many there are of each kind, the most frequent first: "12 .md, 2 .py"."""
    counts = Counter(_kind(file) for file in files).most_common()
    listed = [f"{count} {kind}" for kind, count in counts[:MOST_KINDS]]
    if rest := sum(count for _, count in counts[MOST_KINDS:]):
        listed.append(f"{rest} of other kinds")
    return ", ".join(listed)


def _kind(file: Path) -> str:
    if file.stat().st_size == 0:
        return "empty"
    return file.suffix.lower() or "without a suffix"


def _is_ours(folder: Path) -> bool:
    return holds_tokens(str(folder)) or all((folder / name).is_file() for name in MODEL_FILES)


def _is_text(file: Path) -> bool:
    """Whether the first piece of a file is text. A `*.txt` file counts as text, so that a wrong encoding is an error."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # opening a pipe would wait for a writer
            raise UserError(f"{file} is no file but a pipe, a socket or a device", "take it out of the folder")
        with file.open("rb") as opened:
            piece = opened.read(PIECE)
            whole = len(piece) < PIECE
    except OSError as error:
        raise _unreadable(file, error) from error
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(piece, final=whole)
        is_text = bool(text) and "\0" not in text
    except UnicodeDecodeError:
        is_text = False
    return is_text or (file.suffix.lower() == ".txt" and bool(piece))


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be read ({error.strerror})", "make it readable, or take it out of the folder")
