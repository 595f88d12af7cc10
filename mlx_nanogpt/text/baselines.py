"""The losses of simple methods on the tokens that a model predicts, as a scale for its loss.

`uniform`, `unigram` and `bigram` predict the same tokens as `evaluate_split`, all but the first, in nats; `xz` compresses
the text itself. All read a split in parts, so it may be an `np.memmap` larger than memory.
"""

import lzma
import math
from collections.abc import Iterator
from itertools import islice

import numpy as np

from .loss import SplitLoss
from .tokenizer import Tokenizer

CHUNK = 2**20  # tokens read at a time
REMEMBERED = 2**26  # bytes: xz -9e finds repetitions in the last 64 MiB only


def uniform(tokens: np.ndarray, vocab_size: int) -> SplitLoss:
    """The loss if every token of the vocabulary is equally likely."""
    predicted = len(tokens) - 1
    return SplitLoss(predicted, predicted * math.log(vocab_size))


def unigram(train: np.ndarray, tokens: np.ndarray, vocab_size: int) -> SplitLoss:
    """The loss on `tokens` if each token is as likely as in `train`; one is added to every count (Laplace's rule)."""
    times = _counts(tokens[1:], vocab_size)
    return SplitLoss(len(tokens) - 1, -float(times @ np.log(_frequencies(train, vocab_size))))


def bigram(train: np.ndarray, tokens: np.ndarray, vocab_size: int) -> SplitLoss:
    """The loss on `tokens` of the pairs of tokens in `train`, interpolated with the unigram (Witten & Bell 1991, as
    written by Chen & Goodman 1998).

    After h the next token is w with probability (c(hw) + d(h) p(w)) / (c(h) + d(h)). Here c counts in `train`, d(h) is
    the number of different tokens after h there, and p is the unigram's probability. If nothing followed h, it is p(w).
    """
    seen, counts = _pair_counts(train, vocab_size)
    before = seen // vocab_size
    followed = np.bincount(before, weights=counts, minlength=vocab_size)  # c(h)
    different = np.maximum(np.bincount(before, minlength=vocab_size), 1)  # d(h); 1 where c(h) = 0 leaves p(w)

    pairs, times = _pair_counts(tokens, vocab_size)
    seen, counts = np.append(seen, vocab_size**2), np.append(counts, 0)  # a last pair, where every search ends
    index = np.searchsorted(seen, pairs)
    h, w = np.divmod(pairs, vocab_size)
    count = np.where(seen[index] == pairs, counts[index], 0)  # c(hw)
    probabilities = (count + different[h] * _frequencies(train, vocab_size)[w]) / (followed[h] + different[h])
    return SplitLoss(len(tokens) - 1, -float(times @ np.log(probabilities)))


def xz_bits_per_character(tokenizer: Tokenizer, tokens: np.ndarray, train: np.ndarray | None = None) -> float:
    """Bits per character that `xz -9e` needs for the text of `tokens`. With `train`, xz reads the end of that text
    first (`REMEMBERED` bytes), and only the additional bits count."""
    before = () if train is None else (_end(tokenizer, train),)
    size = _xz_size(tokenizer, *before, tokens) - (_xz_size(tokenizer, *before) if before else 0)
    return 8 * size / count_characters(tokenizer, tokens)


def count_characters(tokenizer: Tokenizer, tokens: np.ndarray) -> int:
    """The number of characters in the text of `tokens`."""
    return sum(map(len, _text(tokenizer, tokens)))


def _frequencies(train: np.ndarray, vocab_size: int) -> np.ndarray:
    """The probability of every token, (V,)."""
    return (_counts(train, vocab_size) + 1) / (len(train) + vocab_size)


def _counts(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """The count of every token, (V,)."""
    total = np.zeros(vocab_size, np.int64)
    for start in range(0, len(tokens), CHUNK):
        total += np.bincount(tokens[start : start + CHUNK], minlength=vocab_size)
    return total


def _pair_counts(tokens: np.ndarray, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of neighbours h, w, as h * V + w in rising order, and their counts: both (P,), P at most V * V."""
    parts = [(np.empty(0, np.int64), np.empty(0))]
    for start in range(0, len(tokens) - 1, CHUNK):
        part = tokens[start : start + CHUNK + 1].astype(np.int64)
        parts.append(np.unique(part[:-1] * vocab_size + part[1:], return_counts=True))
        if sum(len(pairs) for pairs, _ in parts[1:]) > len(parts[0][0]):  # rarely, because this sorts all pairs again
            parts = [_merge(parts)]
    return _merge(parts)


def _merge(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    pairs, where = np.unique(np.concatenate([pairs for pairs, _ in parts]), return_inverse=True)
    counts = np.concatenate([counts for _, counts in parts])
    return pairs, np.bincount(where, weights=counts, minlength=len(pairs))


def _xz_size(tokenizer: Tokenizer, *splits: np.ndarray) -> int:
    """Bytes of the text of `splits`, one after the other, in xz's format."""
    compressor = lzma.LZMACompressor(preset=9 | lzma.PRESET_EXTREME)
    text, size = _text(tokenizer, *splits), 0
    while pieces := list(islice(text, CHUNK)):
        size += len(compressor.compress("".join(pieces).encode()))
    return size + len(compressor.flush())


def _end(tokenizer: Tokenizer, tokens: np.ndarray) -> np.ndarray:
    """The last of `tokens`: `REMEMBERED` bytes of text or all of it, and up to `CHUNK` tokens more."""
    start, size = len(tokens), 0
    while start > 0 and size < REMEMBERED:
        stop, start = start, max(start - CHUNK, 0)
        size += len("".join(_text(tokenizer, tokens[start:stop])).encode())
    return tokens[start:]


def _text(tokenizer: Tokenizer, *splits: np.ndarray) -> Iterator[str]:
    """Yield the text of `splits`, one after the other, piece by piece."""
    starts = ((tokens, start) for tokens in splits for start in range(0, len(tokens), CHUNK))
    return tokenizer.stream(i for tokens, start in starts for i in tokens[start : start + CHUNK].tolist())
