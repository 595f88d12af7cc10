"""Text to token ids and back: characters or byte pairs, with the same methods."""

import json
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from .byte_pairs import BPETokenizer
from .characters import CharTokenizer

TokenizerName = Literal["char", "bpe", "gpt2"]  # in settings
Tokenizer = CharTokenizer | BPETokenizer
# curly quotes and dashes, as a keyboard has them
TYPED = str.maketrans("\u2018\u2019\u201c\u201d\u2013\u2014", "''\"\"--")


def tokenizer_from_json(text: str) -> Tokenizer:
    """The tokenizer that wrote `text` with `to_json`. Raises `ValueError`, `KeyError` or `TypeError` for any other text,
    `UserError` if it takes a package that is not installed."""
    content = json.loads(text)
    if "model" in content:
        return BPETokenizer(text)
    symbols = content["symbols"]
    if not isinstance(symbols, str) or not symbols or list(symbols) != sorted(set(symbols)):
        raise ValueError("its symbols are not characters in code-point order, each once")
    return CharTokenizer(symbols)


def known_text(tokenizer: Tokenizer, text: str, replace: bool) -> str:
    """`text` without the characters that `tokenizer` does not know. To `replace` one takes what is known of its parts (e of é) or
    of its straight form (a plain quote), or else a space if that is known."""
    if replace:
        text = unicodedata.normalize("NFC", text)  # an accent of its own would become a space
    replaced = dict.fromkeys(tokenizer.unknown(text), "")
    for character in replaced if replace else ():
        parts = unicodedata.normalize("NFKD", character.translate(TYPED))
        strange = dict.fromkeys(map(ord, tokenizer.unknown(parts + " ")))
        replaced[character] = parts.translate(strange) or " ".translate(strange)
    return text.translate({ord(character): known for character, known in replaced.items()})


def token_pieces(tokenizer: Tokenizer, ids: Sequence[int] | np.ndarray) -> list[str]:
    """The text of each token of `ids`, (N,). A character of several tokens is the text of the last one."""
    pieces, read = [""] * len(ids), -1

    def tokens() -> Iterator[int]:
        nonlocal read
        for token in ids:
            read += 1
            yield int(token)

    for text in tokenizer.stream(tokens()):
        pieces[read] += text
    return pieces
