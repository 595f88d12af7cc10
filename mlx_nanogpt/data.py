"""Tokens to splits, splits to batches of (B, T).

A batch is a function of the seed and the iteration alone, so a resumed run sees the windows that an uninterrupted one
would have seen, and there is no state to save.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .config import TrainConfig
from .corpus import Corpus, CorpusIdentity
from .errors import UserError
from .tokenizer import CharTokenizer, Tokenizer

EVALUATION_SEED = 0  # the windows of an evaluation are the same in every run


@dataclass(frozen=True)
class Dataset:
    """The tokens of the two splits, (N,) each, the tokenizer that they are of, and which text they were.

    `train_fraction` is the share that trains. `floor`, where known, is the loss in nats per character of the validation
    split that no model can beat; for byte pairs it is not.
    """

    corpus: CorpusIdentity
    tokenizer: Tokenizer
    train: np.ndarray
    valid: np.ndarray
    train_fraction: float
    floor: float | None = None


def tokenize(
    corpus: Corpus, tokenizer: Tokenizer | None = None, train_fraction: float = TrainConfig.train_fraction
) -> Dataset:
    """`corpus` as tokens, its first `train_fraction` for training and the rest for validation. The text is split
    before it is encoded.

    Without a `tokenizer` it is that of the corpus' own characters. Raises `UserError` if a given one lacks some of them.
    """
    tokenizer = tokenizer or CharTokenizer.of(corpus.text)
    boundary = int(train_fraction * len(corpus.text))
    train, valid = (tokenizer.encode(part) for part in (corpus.text[:boundary], corpus.text[boundary:]))
    by_character = isinstance(tokenizer, CharTokenizer)
    floor = corpus.floor(boundary, len(corpus.text)) if corpus.floor and by_character else None
    return Dataset(corpus.identity, tokenizer, train, valid, train_fraction, floor)


def check_splits(data: Dataset, block_size: int) -> None:
    """Raise `UserError` unless both splits hold at least one window of `block_size` tokens and its targets."""
    shorter = min(len(data.train), len(data.valid))
    if shorter <= block_size:
        remedy = f"use a block_size of {shorter - 1} or less, or a longer text" if shorter > 1 else "use a longer text"
        raise UserError(
            f"block_size {block_size} does not fit the text: of its {len(data.train) + len(data.valid):,} tokens the "
            f"smaller split has {shorter:,}; {remedy}"
        )


def training_batch(
    tokens: np.ndarray, seed: int, iteration: int, batch_size: int, block_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Random windows for one step: inputs and targets, both (B, T)."""
    rng = np.random.default_rng([seed, iteration])
    return windows(tokens, rng.integers(len(tokens) - block_size, size=batch_size), block_size)


def evaluation_starts(tokens: np.ndarray, count: int, block_size: int) -> np.ndarray:
    """Where the `count` windows of an evaluation begin, (count,): the same for every call."""
    return np.random.default_rng(EVALUATION_SEED).integers(len(tokens) - block_size, size=count)


def windows(tokens: np.ndarray, starts: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The windows of `block_size` tokens that begin at `starts`, and their targets one token later: both (B, T)."""
    rows = tokens[starts[:, None] + np.arange(block_size + 1)]  # (B, T + 1)
    return rows[:, :-1], rows[:, 1:]


def consecutive_windows(
    tokens: np.ndarray, batch_size: int, block_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Windows that follow each other, so that every token but the first is a target once: batches of inputs and targets.

    Both are (B, T) with B up to `batch_size` and T = `block_size`; what is left for a shorter window comes last, (1, T).
    One batch is read at a time, so `tokens` may be an `np.memmap` larger than memory.
    """
    start, last = 0, len(tokens) - 1
    while start < last:
        rows = min(batch_size, (last - start) // block_size)  # 0 when less than a window is left
        stop = start + rows * block_size if rows else last
        part = tokens[start : stop + 1]
        yield part[:-1].reshape(max(rows, 1), -1), part[1:].reshape(max(rows, 1), -1)  # (B, T)
        start = stop
