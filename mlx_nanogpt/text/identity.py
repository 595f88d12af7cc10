"""A text and its identity."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, get_args

from ..errors import UserError, printable
from .documents import Documents

STANDARD_INPUT = "-"
Floor = Callable[[int, int], float]
BETWEEN = b"\0\0"  # a text and its validation text; no text has it


@dataclass(frozen=True)
class CorpusIdentity:
    """The sources of a text, the SHA-256 of its UTF-8, its length if that is known, what a document is, and the sources of a
    validation text of its own. The text of nanoGPT's tokens is not known, so their `sha256` is that of the files."""

    sources: tuple[str, ...]
    sha256: str
    characters: int | None
    documents: Documents = "none"
    valid: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return " + ".join(source_name(source) for source in self.sources)

    @property
    def is_piped(self) -> bool:
        """Whether a part of it came from standard input."""
        return STANDARD_INPUT in (*self.sources, *self.valid)

    @classmethod
    def from_json(cls, content: dict) -> "CorpusIdentity":
        """The identity that `dataclasses.asdict` turned into `content`. Raises `ValueError`, `KeyError` or `TypeError` for anything
        else."""
        sources, sha256, characters = content["sources"], content["sha256"], content["characters"]
        documents, valid = content["documents"], content["valid"]
        names = [*sources, *valid]
        if not (sources and all(isinstance(name, str) and name and "\0" not in name for name in names)):
            raise ValueError(f"{names!r} does not name texts")
        if documents not in get_args(Documents):
            raise ValueError(f"{documents!r} are no documents")
        "".join(names).encode(errors="surrogateescape")  # raises for half a character that is in no name of a file
        if not (isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256)):
            raise ValueError(f"{sha256!r} is not a sha256")
        if characters is not None and not (type(characters) is int and characters > 0):
            raise ValueError(f"{characters!r} is not a number of characters")
        return cls(tuple(sources), sha256, characters, documents, tuple(valid))


class Texts(NamedTuple):
    """What to read: texts, what a document is, and the texts that validate; without any, a part of the text does."""

    sources: tuple[str, ...]
    documents: Documents = "none"
    valid: tuple[str, ...] = ()


@dataclass(frozen=True)
class Corpus:
    """A text, a marked one if it is made of documents, and where it is from; also the validation text, if it has one of its own.
    `floor(start, stop)`, if known, is the lowest loss that a model can reach on `text[start:stop]` except by luck, in nats per
    character."""

    sources: tuple[str, ...]
    text: str
    floor: Floor | None = None
    documents: Documents = "none"
    valid: tuple[str, ...] = ()
    valid_text: str = ""

    def __repr__(self) -> str:
        return f"<Corpus {self.identity.name}: {len(self.text):,} characters>"

    @cached_property
    def identity(self) -> CorpusIdentity:
        checksum = TextChecksum()
        characters = sum(len(text) for _, text in checksum.of(enumerate((self.text, self.valid_text))))
        return CorpusIdentity(tuple(self.sources), checksum.hexdigest(), characters, self.documents, tuple(self.valid))


class TextChecksum:
    """The SHA-256 of the UTF-8 of a text, and of the validation text of its own, if there is one."""

    def __init__(self) -> None:
        self._hash, self._split = hashlib.sha256(), 0

    def of(self, pieces: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
        """Yield `pieces` of the text and, with the number 1, of the validation text, and add them."""
        for split, piece in pieces:
            if split != self._split and piece:
                self._split = split
                self._hash.update(BETWEEN)
            self._hash.update(piece.encode())
            yield split, piece

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


@contextmanager
def explaining_size() -> Iterator[None]:
    """Turn a lack of memory for a text in the body into a `UserError`."""
    try:
        yield
    except MemoryError as error:
        remedy = "tokenize it once with mlx-gpt prepare, which takes little memory, and give the folder as `data`"
        raise UserError("the text does not fit into memory", remedy) from error


def names_of(sources: Iterable[Path | str] | Path | str) -> list[str]:
    """`sources`, one or several, as strings."""
    return [str(sources)] if isinstance(sources, str | Path) else list(map(str, sources))


def source_name(source: str) -> str:
    """The name of a source in messages."""
    return "standard input" if source == STANDARD_INPUT else printable(source)
