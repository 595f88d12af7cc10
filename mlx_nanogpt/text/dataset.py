"""A text as tokens, in two splits: one to train on, one to validate."""

from dataclasses import dataclass

import numpy as np

from ..config import TrainConfig
from ..errors import UserError
from .byte_pairs import BPETokenizer, pieces_of
from .characters import CharTokenizer
from .identity import Corpus, CorpusIdentity, explaining_size
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class Dataset:
    """The tokens of the two splits, (N,) each, their tokenizer, and the identity of the text. `floor` is the lowest loss that a
    model can reach on the validation split, in nats per character, if that is known; for byte pairs it is not."""

    corpus: CorpusIdentity
    tokenizer: Tokenizer
    train_tokens: np.ndarray
    valid_tokens: np.ndarray
    train_fraction: float
    floor: float | None = None


@explaining_size()
def tokenize(
    corpus: Corpus,
    tokenizer: Tokenizer | None = None,
    train_fraction: float = TrainConfig.train_fraction,
    vocab_size: int | None = None,
) -> Dataset:
    """Split `corpus`, its first `train_fraction` for training and the rest for validation, then encode both parts.

    The default `tokenizer` has one token for each character of the corpus; or, with a `vocab_size`, that many byte pairs
    learned from the part for training. Raises `UserError` if both are given, or if a given tokenizer lacks a character.
    """
    boundary = int(train_fraction * len(corpus.text))
    check_one_kind(tokenizer, vocab_size)
    if vocab_size is not None:
        tokenizer = BPETokenizer.learn(pieces_of(corpus.text[:boundary]), vocab_size)
    tokenizer = tokenizer or CharTokenizer.of(corpus.text)
    train, valid = (tokenizer.encode(part) for part in (corpus.text[:boundary], corpus.text[boundary:]))
    by_character = isinstance(tokenizer, CharTokenizer)
    floor = corpus.floor(boundary, len(corpus.text)) if corpus.floor and by_character else None
    return Dataset(corpus.identity, tokenizer, train, valid, train_fraction, floor)


def check_one_kind(tokenizer: Tokenizer | None, vocab_size: int | None) -> None:
    """Raise `UserError` if both are given."""
    if tokenizer is not None and vocab_size is not None:
        raise UserError("`tokenizer` and `vocab_size` exclude each other", "leave out one of them")


def check_splits(data: Dataset, block_size: int) -> None:
    """Raise `UserError` unless both splits hold at least one window of `block_size` tokens and its targets."""
    shorter = min(len(data.train_tokens), len(data.valid_tokens))
    if shorter <= block_size:
        remedy = f"use a block_size of {shorter - 1} or less, or a longer text" if shorter > 1 else "use a longer text"
        tokens = f"{len(data.train_tokens) + len(data.valid_tokens):,} tokens the smaller split has {shorter:,}"
        raise UserError(f"block_size {block_size} does not fit the text: of its {tokens}", remedy)
