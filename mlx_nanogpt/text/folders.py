"""The texts among the files of a folder."""

import codecs
import os
import re
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from ..errors import UserError
from ..files import explaining_read
from .token_files import holds_tokens

MODEL_FILES = ("config.json", "tokenizer.json")  # of a run or of an exported model
MOST_KINDS = 5  # listed by name
NOTES = re.compile(r"(readme|licen[cs]e)\b.*", re.IGNORECASE)  # files on the others
# a word in a name
SPLIT = re.compile(
    r"(?<![^\W\d_])(train|training|valid|validation|val|dev|eval|test|testing)(?![^\W\d_])", re.IGNORECASE
)
# suffixes of texts; code, such as test_x.py, has others
TEXTS = ("", ".txt", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tokens", ".raw")
PIECE = 2**20  # bytes of a file that are checked
UNREADABLE = "make it readable, or take it out of the folder"


@dataclass(frozen=True)
class FolderFiles:
    """The files below a folder, in the order of their names: texts, and others."""

    taken: list[Path]
    left: list[Path]


def folder_files(path: str) -> FolderFiles:
    """The files below the folder `path`. A file is a text if its first `PIECE` bytes are UTF-8.

    Ignores hidden files, folders of tokens, runs and exported models. Leaves linked folders out. Raises `UserError` if something
    cannot be read, for a pipe, socket or device, and for a `*.txt` file that is not UTF-8.
    """

    def refuse(error: OSError) -> None:
        raise error

    found, links = [], []
    with explaining_read(path, UNREADABLE):
        for folder, below, names in os.walk(path, onerror=refuse):
            links += [link for name in below if not name.startswith(".") and (link := Path(folder, name)).is_symlink()]
            # hidden files are copies of an editor or, on external disks of a Mac, binary "._" files
            below[:] = [name for name in below if not (name.startswith(".") or _is_ours(Path(folder, name)))]
            found += [Path(folder, name) for name in names if not name.startswith(".")]
    files = FolderFiles([], sorted(links))  # a linked folder may lead anywhere
    for file in sorted(found):
        (files.taken if _is_text(file) else files.left).append(file)
    return files


class SplitFolder(NamedTuple):
    """The files or folders in a folder that hold a split each."""

    train: list[str]
    valid: list[str]
    test: list[str]


def find_splits(path: str, files: Sequence[Path]) -> SplitFolder | None:
    """The splits that the names of all texts `files` below the folder `path` tell, such as train.txt and valid.txt, ptb.train.txt and
    ptb.test.txt, or the folders train and test; None if some are of another kind. Notes (README, LICENSE) do not count."""
    tops = {file.relative_to(path).parts[0] for file in files if not NOTES.fullmatch(file.name)}
    found = SplitFolder([], [], [])
    kinds: dict[str, set[str]] = {"train": set(), "others": set()}  # what is left of a name without the word
    for name in sorted(tops):
        words = SPLIT.findall(name)
        if len(words) != 1:
            return None
        word = words[0].lower()
        is_train = word.startswith("train")
        part = found.train if is_train else found.test if word.startswith("test") else found.valid
        part.append(os.path.join(path, name))
        rest = re.sub(r"\d+", "0", normalize("NFC", SPLIT.sub("", name)).lower())  # the numbers of parts differ
        kinds["train" if is_train else "others"].add(rest)
    return found if kinds["others"] and kinds["others"] <= kinds["train"] else None


def find_tests(files: Sequence[Path]) -> list[Path]:
    """The texts among `files` that a test split is made of, as their names say."""
    return [
        file for file in files if file.suffix.lower() in TEXTS and "test" in map(str.lower, SPLIT.findall(file.name))
    ]


def count_kinds(files: Sequence[Path]) -> str:
    """The number of files of each kind, the most frequent first: "12 .md, 2 .py"."""
    counts = Counter(map(_kind, files)).most_common()
    listed = [f"{count:,} {kind}" for kind, count in counts[:MOST_KINDS]]
    if rest := sum(count for _, count in counts[MOST_KINDS:]):
        listed.append(f"{rest:,} of other kinds")
    return ", ".join(listed)


def _kind(file: Path) -> str:
    if file.is_dir():
        return "linked folder"
    return "empty" if file.stat().st_size == 0 else file.suffix.lower() or "without a suffix"


def _is_ours(folder: Path) -> bool:
    return holds_tokens(str(folder)) or all((folder / name).is_file() for name in MODEL_FILES)


def _is_text(file: Path) -> bool:
    """Whether the first piece of a file is text. A `*.txt` file counts as text, so that a wrong encoding is an error."""
    with explaining_read(file, UNREADABLE):
        if not stat.S_ISREG(file.stat().st_mode):  # opening a pipe would wait for a writer
            raise UserError(f"{file} is a pipe, a socket or a device", "take it out of the folder")
        with file.open("rb") as opened:
            piece = opened.read(PIECE)
    if file.suffix.lower() == ".txt":
        return bool(piece)
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(piece, final=len(piece) < PIECE)
    except UnicodeDecodeError:
        return False
    return bool(text) and "\0" not in text
