"""Characters as tokens, as in the lecture, where the id of a character is its rank by code point."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import UserError

LISTED = 10  # characters in a message
MARK = "\0"  # before and after a document; a text has none


@dataclass(frozen=True)
class CharTokenizer:
    """`symbols` are the characters that have an id, each once: the id of `symbols[i]` is `i`."""

    symbols: str
    kind = "char"  # a TokenizerName

    @classmethod
    def of(cls, text: str) -> "CharTokenizer":
        """The tokenizer that knows exactly the characters of `text`."""
        return cls("".join(sorted(set(text))))

    @property
    def vocab_size(self) -> int:
        return len(self.symbols)

    @property
    def marks(self) -> bool:
        """Whether its texts are documents, between marks."""
        return MARK in self.symbols

    def with_marks(self) -> "CharTokenizer":
        """The tokenizer itself, if it has the mark. Raises `UserError` if it has none."""
        if not self.marks:
            raise UserError(
                "the model learned from a text without documents, and knows no mark", "give `documents` none"
            )
        return self

    @property
    def start_token(self) -> int:
        """The token of an empty prompt: the mark before a document; or a new line, or in a text without one the first of the symbols."""
        return max(self.symbols.find(MARK if self.marks else "\n"), 0)

    @property
    def end_token(self) -> int | None:
        """The token that ends a text: the mark after a document."""
        return self.start_token if self.marks else None

    def encode(self, text: str) -> np.ndarray:
        """The ids of `text`, (len(text),): uint16, or uint32 where the vocabulary needs it.

        Raises `UserError` for characters without an id, and names them.
        """
        none, own = self.vocab_size, _code_points(self.symbols)
        table = np.full(own.max() + 2, none, id_type(self.vocab_size + 1))
        table[own] = np.arange(self.vocab_size)
        ids = table[np.minimum(_code_points(text), len(table) - 1)]
        if none in ids:
            remedy = f"remove them from the text: it knows {quote_some(self.symbols.replace(MARK, ''))}"
            raise UserError(f"the model has never seen {quote_some(self.unknown(text))}", remedy)
        return ids.astype(id_type(self.vocab_size), copy=False)

    def unknown(self, text: str) -> list[str]:
        """The different characters of `text` that have no id, in code-point order."""
        return sorted(set(text) - set(self.symbols))

    def decode(self, ids) -> str:
        """The text of a sequence of ids."""
        return "".join(self.symbols[i] for i in ids)

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield the text of `ids` as they come."""
        return (self.symbols[i] for i in ids)

    def to_json(self) -> str:
        """JSON for `tokenizer_from_json`."""
        return json.dumps({"symbols": self.symbols}) + "\n"


def id_type(vocab_size: int) -> type[np.unsignedinteger]:
    """The smallest type that holds every id of a vocabulary."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32


def quote_some(symbols: Sequence[str]) -> str:
    """Some of `symbols`, for a message."""
    more = f" and {len(symbols) - LISTED} more" if len(symbols) > LISTED else ""
    return " ".join(map(repr, symbols[:LISTED])) + more


def _code_points(text: str) -> np.ndarray:
    # surrogatepass: a prompt may hold undecodable bytes, and the message names them
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
