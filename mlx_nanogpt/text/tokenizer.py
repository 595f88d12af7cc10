"""Text to token ids and back: characters, or byte pairs. Both kinds answer to the same names."""

import json
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from .byte_pairs import BPETokenizer
from .characters import CharTokenizer

TokenizerName = Literal["char", "bpe", "gpt2"]  # what a setting may call them
Tokenizer = CharTokenizer | BPETokenizer


def tokenizer_from_json(text: str) -> Tokenizer:
    """The tokenizer that wrote `text` with `to_json`. Raises `ValueError`, `KeyError` or `TypeError` for any other
    text, `UserError` if it takes a package that is not installed."""
    described = json.loads(text)
    if "model" in described:
        return BPETokenizer(text)
    symbols = described["symbols"]
    if not isinstance(symbols, str) or not symbols or list(symbols) != sorted(set(symbols)):
        raise ValueError("the symbols of a tokenizer are characters in code-point order, each once")
    return CharTokenizer(symbols)


def token_pieces(tokenizer: Tokenizer, ids: Sequence[int] | np.ndarray) -> list[str]:
    """The text of each of the tokens `ids`, (N,). A character of several tokens is the text of its last."""
    pieces, read = [""] * len(ids), -1

    def tokens() -> Iterator[int]:
        nonlocal read
        for token in ids:
            read += 1
            yield int(token)

    for text in tokenizer.stream(tokens()):
        pieces[read] += text
    return pieces
