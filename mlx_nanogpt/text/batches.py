"""Tokens to batches of (B, T).

A batch depends on the seed and the iteration alone. So a resumed run sees the same windows, and there is no state to save.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from ..config import Order

EVALUATION_SEED = 0  # the windows of an evaluation are the same in every run
ALL = slice(None)


def training_batch(
    tokens: np.ndarray,
    seed: int,
    iteration: int,
    batch_size: int,
    block_size: int,
    batches: int = 1,
    share: slice = ALL,
    beginnings: np.ndarray | None = None,
    order: Order = "random",
) -> tuple[np.ndarray, np.ndarray]:
    """The windows for one step of `batches` batches: inputs and targets, both (A * B, T), batch after batch. Reads only the
    rows `share` of each batch. Windows begin anywhere; in the `order` "passes" no part of the text comes again before all have
    come. If documents have their `beginnings` in rising order, (N,), every second window begins with one instead: a text is
    written from there, and few other windows show it."""
    rng = np.random.default_rng([seed, iteration])
    starts = rng.integers(len(tokens) - block_size, size=(batches, batch_size))
    if order == "passes":
        anywhere = starts[:, :: 1 if beginnings is None else 2]
        following = _starts_in_passes(len(tokens), seed, iteration * anywhere.size, anywhere.size, block_size)
        anywhere[:] = following.reshape(anywhere.shape)
    if beginnings is not None:
        whole = beginnings[: np.searchsorted(beginnings, len(tokens) - block_size)]  # that have a whole window
        starts[:, 1::2] = rng.choice(whole, starts[:, 1::2].shape)
    return windows(tokens, starts[:, share].reshape(-1), block_size)  # (A * B,) windows


def _starts_in_passes(length: int, seed: int, done: int, count: int, block_size: int) -> np.ndarray:
    """The starts of the next `count` windows after `done` others, (count,). The windows of a pass lie side by side and come in
    random order. They leave out less than two windows' tokens, at the ends of the text, other ones in each pass."""
    size = max(1, (length - 1) // block_size - 1)  # windows of a pass
    starts = []
    for number in range(done // size, (done + count - 1) // size + 1):
        before = number * size
        of_pass = _starts_of_pass(seed, number, size, length, block_size)
        starts.append(of_pass[max(0, done - before) : done + count - before])
    return np.concatenate(starts)


@lru_cache(maxsize=1)  # for a text of billions of tokens it takes a second
def _starts_of_pass(seed: int, number: int, size: int, length: int, block_size: int) -> np.ndarray:
    rng = np.random.default_rng([seed, number])
    return rng.integers(length - size * block_size) + block_size * rng.permutation(size)


def evaluation_starts(tokens: np.ndarray, count: int, block_size: int) -> np.ndarray:
    """The starts of the `count` windows of an evaluation, (count,): the same in every call."""
    return np.random.default_rng(EVALUATION_SEED).integers(len(tokens) - block_size, size=count)


def windows(tokens: np.ndarray, starts: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The windows of `block_size` tokens that begin at `starts`, and their targets one token later: both (B, T)."""
    rows = tokens[starts[:, None] + np.arange(block_size + 1)]  # (B, T + 1)
    return rows[:, :-1], rows[:, 1:]


def consecutive_windows(
    tokens: np.ndarray, batch_size: int, block_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches of inputs and targets from windows that follow each other: every token but the first is a target once.

    Both are (B, T) with B up to `batch_size` and T = `block_size`. A shorter last window is a batch of its own, (1, T). Reads
    one batch at a time, so `tokens` may be an `np.memmap` larger than memory.
    """
    start, last = 0, len(tokens) - 1
    while start < last:
        rows = min(batch_size, (last - start) // block_size)  # 0 when less than a window is left
        stop = start + rows * block_size if rows else last
        part = tokens[start : stop + 1]
        yield part[:-1].reshape(max(rows, 1), -1), part[1:].reshape(max(rows, 1), -1)  # (B, T)
        start = stop
