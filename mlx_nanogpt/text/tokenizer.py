"""Text to token ids and back: characters or byte pairs, with the same methods."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Literal
from unicodedata import normalize

import numpy as np

from ..errors import UserError
from .byte_pairs import BPETokenizer
from .characters import CharTokenizer

TokenizerName = Literal["char", "bpe", "gpt2"]  # in settings
Tokenizer = CharTokenizer | BPETokenizer


def tokenizer_from_json(text: str) -> Tokenizer:
    """The tokenizer that wrote `text` with `to_json`. Raises `ValueError`, `KeyError` or `TypeError` for any other text,
    `UserError` if it takes a package that is not installed."""
    content = json.loads(text)
    if "model" in content:
        return BPETokenizer(text)
    symbols = content["symbols"]
    if not isinstance(symbols, str) or not symbols or len(set(symbols)) < len(symbols):
        raise ValueError("its symbols are not characters, each once")
    symbols.encode()  # raises for a surrogate, which is half a character
    return CharTokenizer(symbols)


def encode_prompt(tokenizer: Tokenizer, prompt: str) -> np.ndarray:
    """The ids of `prompt`, (N,), or of its composed or decomposed form (é as one or two characters) if only that one is known. Raises
    `UserError` for characters without an id, and names them."""
    for form in (prompt, normalize("NFC", prompt), normalize("NFD", prompt)):
        with suppress(UserError):
            return tokenizer.encode(form)
    return tokenizer.encode(prompt)  # names its characters


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
