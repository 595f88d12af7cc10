"""Text to token ids and back: one id per character, by rank of code point, as in the lecture."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .errors import UserError


@dataclass(frozen=True)
class CharTokenizer:
    """`symbols` are the characters that have an id, in code-point order: the id of `symbols[i]` is `i`."""

    symbols: str
    start_token = 0  # what an empty prompt stands for, as in the lecture: a new line, in most texts

    @classmethod
    def of(cls, text: str) -> "CharTokenizer":
        """The tokenizer that knows exactly the characters of `text`."""
        return cls("".join(sorted(set(text))))

    @property
    def vocab_size(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> np.ndarray:
        """The ids of `text`, (len(text),): uint16, or uint32 where the vocabulary needs it.

        Raises `UserError` naming the characters that have no id.
        """
        points = _code_points(text)
        ids = np.searchsorted(self._points, points)
        known = self._points[np.minimum(ids, self.vocab_size - 1)] == points
        if not known.all():
            strangers = sorted({text[i] for i in np.flatnonzero(~known)})
            raise UserError(
                f"the model has never seen {_listed(strangers)}; leave them out: it knows {_listed(self.symbols)}"
            )
        return ids.astype(np.uint16 if self.vocab_size <= 2**16 else np.uint32)

    def decode(self, ids) -> str:
        """The text of a sequence of ids."""
        return "".join(self.symbols[i] for i in ids)

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """The text of `ids` as they come, piece by piece."""
        return (self.symbols[i] for i in ids)

    def to_json(self) -> str:
        """What `tokenizer_from_json` reads."""
        return json.dumps({"symbols": self.symbols}) + "\n"

    @cached_property
    def _points(self) -> np.ndarray:
        return _code_points(self.symbols)


def tokenizer_from_json(text: str) -> CharTokenizer:
    """The tokenizer that wrote `text` with `to_json`. Raises `ValueError`, `KeyError` or `TypeError` for any other text."""
    symbols = json.loads(text)["symbols"]
    if not isinstance(symbols, str) or not symbols or list(symbols) != sorted(set(symbols)):
        raise ValueError("the symbols of a tokenizer are characters in code-point order, each once")
    return CharTokenizer(symbols)


def _listed(symbols: Sequence[str]) -> str:
    return " ".join(map(repr, symbols[:100])) + (f" and {len(symbols) - 100} more" if len(symbols) > 100 else "")


def _code_points(text: str) -> np.ndarray:
    # surrogatepass: a prompt from the command line may hold undecodable bytes, which have to be refused by name
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
