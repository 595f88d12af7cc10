"""Text to token ids and back: characters or byte pairs, with the same methods."""

import json
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from .byte_pairs import BPETokenizer
from .characters import MARK, CharTokenizer

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
    if not isinstance(symbols, str) or not symbols or len(set(symbols)) < len(symbols):
        raise ValueError("its symbols are not characters, each once")
    symbols.encode()  # raises for a surrogate, which is half a character
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


def decode_documents(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of `ids`; where a document ends, the next one begins on a line of its own."""
    return tokenizer.decode(ids).replace(MARK, "\n")


def encode_prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids after which a text goes on that begins with `prompt`; the start token comes first, if the text is a document or the
    prompt is empty. Raises `UserError` for characters without an id, and names them."""
    start = [tokenizer.start_token] if tokenizer.marks or not prompt else []
    return [*start, *tokenizer.encode(known_form(tokenizer, prompt)).tolist()]


def known_form(tokenizer: Tokenizer, text: str) -> str:
    """`text`, or its composed or decomposed form (é as one or two characters) if only that one is known."""
    forms = (text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFD")))
    return next((form for form in forms if not tokenizer.unknown(form)), text)


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
