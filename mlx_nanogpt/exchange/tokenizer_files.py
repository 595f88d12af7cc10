"""Tokenizers in the files of GPT-2's layout: tokenizer.json, or vocab.json and merges.txt."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError
from ..files import DAMAGE, cache_dir
from ..text.byte_pairs import BYTE_LEVEL, END_OF_TEXT, BPETokenizer
from ..text.characters import CharTokenizer
from ..text.tokenizer import Tokenizer
from .hub import fetched

TOKENIZER, VOCAB, MERGES = "tokenizer.json", "vocab.json", "merges.txt"
GPT2 = "openai-community/gpt2"


def tokenizer_of_folder(folder: Path) -> Tokenizer:
    """The tokenizer of a folder in the layout of GPT-2: byte pairs, or the characters of a model exported here.

    Raises `UserError` if there is none, or if it is damaged or of another kind.
    """
    with explaining_damage(folder):
        if (folder / TOKENIZER).is_file():
            text = read_text(folder / TOKENIZER)
            return _characters_of(text) or BPETokenizer(text)
        if (folder / VOCAB).is_file() and (folder / MERGES).is_file():
            return BPETokenizer(_byte_pair_json(read_text(folder / VOCAB), read_text(folder / MERGES)))
    raise UserError(
        f"{folder} holds no tokenizer (neither {TOKENIZER} nor {VOCAB} and {MERGES})", "put that of the model there"
    )


def gpt2_tokenizer() -> Tokenizer:
    """GPT-2's own byte pairs: from the folder `gpt2` in `cache_dir()`, or else from the Hugging Face hub.

    Raises `UserError` if they are in neither place; it names the file to add and where to put it.
    """
    own = cache_dir() / "gpt2"
    if not os.path.isdir(own):
        own = fetched(GPT2, [TOKENIZER], f"put its {TOKENIZER} at {own / TOKENIZER}")
    return tokenizer_of_folder(own)


def tokenizer_json(tokenizer: Tokenizer) -> str:
    """The tokenizer.json of `tokenizer`, which transformers reads, too."""
    return tokenizer.to_json() if isinstance(tokenizer, BPETokenizer) else as_json(_words_of_one(tokenizer.symbols))


def _words_of_one(symbols: str) -> dict:
    """The tokenizer.json in which every character is a word. Other characters are errors, as in `CharTokenizer`."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False},
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "WordLevel",
            "vocab": {symbol: i for i, symbol in enumerate(symbols)},
            "unk_token": "[UNK]",  # the format needs one; it is in no vocabulary
        },
    }


def _characters_of(text: str) -> CharTokenizer | None:
    """The `CharTokenizer` that `text` describes, as `_words_of_one` writes it; None for another kind."""
    described = json.loads(text)
    if described["model"].get("type") != "WordLevel":
        return None
    symbols = "".join(sorted(described["model"]["vocab"]))
    if described != _words_of_one(symbols):
        raise ValueError("its words are not the characters of a model that was exported here")
    return CharTokenizer(symbols)


def _byte_pair_json(vocab: str, merges: str) -> str:
    """The tokenizer.json that is equal to GPT-2's vocab.json and merges.txt."""
    ids = json.loads(vocab)
    pairs = [line for line in merges.splitlines() if line]  # the library ignores "#version"
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": ids[END_OF_TEXT], "content": END_OF_TEXT} | special] if END_OF_TEXT in ids else [],
            "normalizer": None,
            "pre_tokenizer": BYTE_LEVEL,
            "post_processor": None,
            "decoder": BYTE_LEVEL,
            "model": {"type": "BPE", "vocab": ids, "merges": pairs},
        },
        ensure_ascii=False,
    )


@contextmanager
def explaining_damage(folder: Path) -> Iterator[None]:
    """Turn an error of reading `folder` in the body into a `UserError`."""
    try:
        yield
    except OSError as error:
        name = error.filename or folder
        raise UserError(
            f"{name} cannot be read ({error.strerror or error})", "complete the folder, or name another"
        ) from error
    except DAMAGE as error:
        raise UserError(
            f"{folder} is damaged, incomplete or of another kind ({type(error).__name__}: {error})",
            "fetch or export it anew, or name another",
        ) from error


def as_json(content: dict) -> str:
    """`content` as the text of a file."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def read_text(file: Path) -> str:
    """The UTF-8 text of `file`."""
    return file.read_text(encoding="utf-8")
