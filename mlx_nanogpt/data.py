"""Tokens to splits, splits to batches of (B, T).

A batch is a function of the seed and the iteration alone, so a resumed run sees the windows that an uninterrupted one
would have seen, and there is no state to save.
"""

import numpy as np

from .errors import UserError

TRAIN_FRACTION = 0.8  # NanoLux's split: the first 80% trains, the rest validates
EVALUATION_SEED = 0  # the windows of an evaluation are the same in every run


def split(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The training and the validation part of `tokens`, as views."""
    boundary = split_boundary(len(tokens))
    return tokens[:boundary], tokens[boundary:]


def split_boundary(length: int) -> int:
    """Where validation begins in a text of `length` tokens."""
    return int(TRAIN_FRACTION * length)


def check_splits(tokens: np.ndarray, block_size: int) -> None:
    """Raise `UserError` unless both splits hold at least one window of `block_size` tokens and its targets."""
    shorter = min(map(len, split(tokens)))
    if shorter <= block_size:
        remedy = f"use a block_size of {shorter - 1} or less, or a longer text" if shorter > 1 else "use a longer text"
        raise UserError(
            f"block_size {block_size} does not fit the text: of its {len(tokens):,} tokens the smaller split has "
            f"{shorter:,}; {remedy}"
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
