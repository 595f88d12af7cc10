"""A text, and which text it is."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from ..errors import printable

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class CorpusIdentity:
    """Which text it is, without the text: where it came from, the checksum of its UTF-8, and its length where that is known.

    The tokens that `prepare` wrote are known by the checksum of their text, those of nanoGPT by that of their files.
    """

    sources: tuple[str, ...]
    sha256: str
    characters: int | None

    @property
    def name(self) -> str:
        return " + ".join(source_name(source) for source in self.sources)

    @classmethod
    def from_json(cls, said: dict) -> "CorpusIdentity":
        """What `dataclasses.asdict` made of an identity, and a file kept. Raises `ValueError`, `KeyError` or `TypeError` for
        anything else."""
        sources, sha256, characters = said["sources"], said["sha256"], said["characters"]
        if not (sources and all(isinstance(source, str) and source and "\0" not in source for source in sources)):
            raise ValueError(f"{sources!r} does not name texts")
        if not (isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256)):
            raise ValueError(f"{sha256!r} is no sha256")
        if characters is not None and not (type(characters) is int and characters > 0):
            raise ValueError(f"{characters!r} is no number of characters")
        return cls(tuple(sources), sha256, characters)


@dataclass(frozen=True)
class Corpus:
    """A text and where it came from. `floor(start, stop)`, where known, is the loss in nats per character of
    `text[start:stop]` that no model can beat except by luck."""

    sources: tuple[str, ...]
    text: str
    floor: Callable[[int, int], float] | None = None

    @cached_property
    def identity(self) -> CorpusIdentity:
        return CorpusIdentity(self.sources, hashlib.sha256(self.text.encode()).hexdigest(), len(self.text))


def source_name(source: str) -> str:
    """What a source is called on a screen."""
    return "standard input" if source == STANDARD_INPUT else printable(source)
