"""Tokenizers in the files of other programs: tokenizer.json, or vocab.json and merges.txt."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..files import cache_dir, explaining_damage, read_text
from .byte_pairs import BYTE_LEVEL, END_OF_TEXT, BPETokenizer, OtherTokens, begin_with_mark, spell, unspell
from .characters import MARK, CharTokenizer
from .hub import fetch
from .tokenizer import Tokenizer

TOKENIZER, VOCAB, MERGES = "tokenizer.json", "vocab.json", "merges.txt"
GPT2 = "openai-community/gpt2"
# the problem and the remedy of a damaged folder, for `explaining_damage`
DAMAGED = "is damaged, incomplete or of another kind", "fetch or export it again, or name another"
SPECIAL = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def tokenizer_of_folder(folder: Path) -> Tokenizer:
    """Read the tokenizer of a model's folder: byte pairs, or the characters of a model exported here.

    Raises `UserError` if there is none, or if it is damaged or of another kind.
    """
    with explaining_damage(folder, *DAMAGED):
        if (folder / TOKENIZER).is_file():
            text = read_text(folder / TOKENIZER)
            try:
                return _characters_of(text) or BPETokenizer(text)
            except OtherTokens as error:
                problem = f"{folder} holds a tokenizer that cannot be used here: {error}"
                raise UserError(problem, "name a model with GPT-2's tokens, or one that was exported here") from error
        if (folder / VOCAB).is_file() and (folder / MERGES).is_file():
            # the library ignores "#version"
            merges = [line for line in read_text(folder / MERGES).splitlines() if line]
            return BPETokenizer(_byte_pair_json(json.loads(read_text(folder / VOCAB)), merges))
    problem = f"{folder} holds no tokenizer (neither {TOKENIZER} nor {VOCAB} and {MERGES})"
    raise UserError(problem, "put that of the model there")


def gpt2_tokenizer() -> Tokenizer:
    """Load GPT-2's byte pairs from the folder `gpt2` in `cache_dir()`, or else from the Hugging Face hub.

    Raises `UserError` if they are in neither place; it names the file to add.
    """
    own = cache_dir() / "gpt2"
    if not os.path.isdir(own):
        own = fetch(GPT2, [TOKENIZER], f"put its {TOKENIZER} at {own / TOKENIZER}")
    return tokenizer_of_folder(own)


@dataclass(frozen=True)
class StoredTokens:
    """A tokenizer for other programs: its tokenizer.json, its number of tokens, the ids that start and end a text, and whether every
    text begins with a mark. `end` is END_OF_TEXT."""

    json: str
    size: int
    start: int
    end: int
    marks: bool


def store_tokens(tokenizer: Tokenizer) -> StoredTokens:
    """Convert `tokenizer` to byte pairs, which all programs read. A character becomes its bytes, which are merged into the
    character's own id."""
    start = tokenizer.start_token
    if isinstance(tokenizer, CharTokenizer):
        vocab, merges = _as_byte_pairs(tokenizer.symbols)
        described = _byte_pair_json(vocab, merges, unknown=END_OF_TEXT, marks=tokenizer.marks)
        return StoredTokens(described, len(vocab), start, vocab[END_OF_TEXT], tokenizer.marks)
    end = tokenizer.token_id(END_OF_TEXT)
    if end is not None:
        return StoredTokens(tokenizer.to_json(), tokenizer.vocab_size, start, end, tokenizer.marks)
    described, end = json.loads(tokenizer.to_json()), tokenizer.vocab_size
    described["added_tokens"].append({"id": end, "content": END_OF_TEXT} | SPECIAL)
    return StoredTokens(json.dumps(described), end + 1, start, end, False)


def _as_byte_pairs(symbols: str) -> tuple[dict[str, int], list[list[str]]]:
    """The vocabulary and the merges in which each character is a token with its own id. After them come the bytes and parts of
    characters that merges need, and the end of a text, unless it is the mark, a character; it also stands for an unknown byte."""
    vocab = {END_OF_TEXT if symbol == MARK else spell(symbol): i for i, symbol in enumerate(symbols)}
    merges: dict[tuple[str, str], None] = {}  # in order, each once
    for piece in [piece for piece in vocab if piece != END_OF_TEXT]:
        for end in range(2, len(piece) + 1):
            pair = piece[: end - 1], piece[end - 1]
            for part in pair:
                vocab.setdefault(part, len(vocab))
            merges[pair] = None
    vocab.setdefault(END_OF_TEXT, len(vocab))
    return vocab, [list(pair) for pair in merges]


def _characters_of(text: str) -> CharTokenizer | None:
    """The `CharTokenizer` that `text` describes in the form of `_as_byte_pairs`; None for another kind."""
    described = json.loads(text)
    model, before = described["model"], described.get("pre_tokenizer") or {}
    if model.get("type", "BPE") != "BPE" or described.get("normalizer") or before.get("type") != "ByteLevel":
        return None
    vocab = model["vocab"]
    marks = described.get("post_processor") == begin_with_mark(vocab.get(END_OF_TEXT))
    symbols = ""
    for piece in sorted(vocab, key=vocab.get):
        symbol = MARK if marks and piece == END_OF_TEXT else unspell(piece)
        if symbol is None or len(symbol) != 1:
            break
        symbols += symbol
    own_vocab, own_merges = _as_byte_pairs(symbols)
    merges = [pair.split() if isinstance(pair, str) else pair for pair in model["merges"]]
    same = vocab | {END_OF_TEXT: own_vocab[END_OF_TEXT]} == own_vocab and merges == own_merges
    return CharTokenizer(symbols) if symbols and same else None


def _byte_pair_json(vocab: dict[str, int], merges: list, unknown: str | None = None, marks: bool = False) -> str:
    """The tokenizer.json of byte pairs; `unknown` is the token of an unknown byte, `marks` begins a text with END_OF_TEXT."""
    end = [{"id": vocab[END_OF_TEXT], "content": END_OF_TEXT} | SPECIAL] if END_OF_TEXT in vocab else []
    return as_json(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": end,
            "normalizer": None,
            "pre_tokenizer": BYTE_LEVEL,
            "post_processor": begin_with_mark(vocab[END_OF_TEXT]) if marks else None,
            "decoder": BYTE_LEVEL,
            "model": {"type": "BPE", "unk_token": unknown, "vocab": vocab, "merges": merges},
        }
    )


def as_json(content: dict) -> str:
    """`content` as the text of a file."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
