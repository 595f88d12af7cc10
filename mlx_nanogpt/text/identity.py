"""A text and its identity."""

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from ..errors import UserError, printable

STANDARD_INPUT = "-"
Floor = Callable[[int, int], float]


@dataclass(frozen=True)
class CorpusIdentity:
    """The sources of a text, the SHA-256 of its UTF-8, and its length if that is known. The text of nanoGPT's tokens is not
    known, so their `sha256` is that of the files."""

    sources: tuple[str, ...]
    sha256: str
    characters: int | None

    @property
    def name(self) -> str:
        return " + ".join(source_name(source) for source in self.sources)

    @classmethod
    def from_json(cls, content: dict) -> "CorpusIdentity":
        """The identity that `dataclasses.asdict` turned into `content`. Raises `ValueError`, `KeyError` or `TypeError` for anything
        else."""
        sources, sha256, characters = content["sources"], content["sha256"], content["characters"]
        if not (sources and all(isinstance(source, str) and source and "\0" not in source for source in sources)):
            raise ValueError(f"{sources!r} does not name texts")
        if not (isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256)):
            raise ValueError(f"{sha256!r} is not a sha256")
        if characters is not None and not (type(characters) is int and characters > 0):
            raise ValueError(f"{characters!r} is not a number of characters")
        return cls(tuple(sources), sha256, characters)


@dataclass(frozen=True)
class Corpus:
    """A text and its sources. `floor(start, stop)`, if known, is the lowest loss that a model can reach on `text[start:stop]`
    except by luck, in nats per character."""

    sources: tuple[str, ...]
    text: str
    floor: Floor | None = None

    @cached_property
    def identity(self) -> CorpusIdentity:
        return CorpusIdentity(tuple(self.sources), hashlib.sha256(self.text.encode()).hexdigest(), len(self.text))


@contextmanager
def explaining_size() -> Iterator[None]:
    """Turn a lack of memory for a text in the body into a `UserError`."""
    try:
        yield
    except MemoryError as error:
        remedy = "tokenize it once with mlx-gpt prepare, which takes little memory, and give the folder as `data`"
        raise UserError("the text does not fit into memory", remedy) from error


def source_name(source: str) -> str:
    """The name of a source in messages."""
    return "standard input" if source == STANDARD_INPUT else printable(source)
