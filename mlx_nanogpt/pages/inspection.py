"""A model's expectations at every place of a text, and the surprise of each token."""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..errors import UserError
from ..evaluation import evaluation_mode
from ..machine import machine
from ..model import GPT
from ..runs.find import own_dataset
from ..runs.run import Run

LOGITS_PER_BATCH = 2**24  # float32: 64 MiB
EXCERPT = 300  # tokens


@dataclass(frozen=True)
class Inspection:
    """A model's predictions of N tokens: `surprise`, (N,), is the cost of each token in bits; `expected`, (N, K), are the ids of the
    likeliest tokens, the first one first; `probabilities`, (N, K), are theirs."""

    surprise: np.ndarray
    expected: np.ndarray
    probabilities: np.ndarray

    @property
    def bits(self) -> float:
        """Bits of all tokens together."""
        return float(self.surprise.sum())


def inspect(model: GPT, ids: Sequence[int] | np.ndarray, start_token: int, top: int = 10) -> Inspection:
    """Inspect the tokens `ids`, (N,), after `start_token`, from which the model also starts an empty prompt.

    A token is predicted from all tokens before it, as far as the context reaches. A longer text is read in windows, as on a page. Each
    begins in the middle of the one before, so a token is predicted from at least half a context. The model's mode stays as it is.
    Raises `UserError` for a text without tokens.
    """
    count, top = len(ids), min(top, model.config.vocab_size)
    starts, length = _place_windows(count, model.config.block_size)
    tokens = np.zeros(starts[-1] + length + 1, np.int64)  # what is after the text in the last window changes nothing
    tokens[: count + 1] = [start_token, *ids]
    surprise = np.empty(count)
    expected, probabilities = np.empty((count, top), np.int64), np.empty((count, top))
    done = 0
    machine().prepare(model)
    at_once = max(1, LOGITS_PER_BATCH // (length * model.config.vocab_size))  # windows
    with evaluation_mode(model):
        for batch in np.array_split(starts, -(-len(starts) // at_once)):
            places = batch[:, None] + np.arange(length)  # (B, T)
            logits = model(mx.array(tokens[places])).astype(mx.float32)  # (B, T, vocab_size)
            log_probabilities = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
            for start, window in zip(batch, log_probabilities):
                end = min(start + length, count)
                new = np.arange(done, end)  # the places that no window before has reached
                window, done = window[new - start], end  # (places, vocab_size)
                expected[new] = _find_likeliest(window, top)
                surprise[new] = -np.take_along_axis(window, tokens[new + 1, None], axis=-1)[:, 0] / np.log(2) + 0.0
                probabilities[new] = np.exp(np.take_along_axis(window, expected[new], axis=-1))
    return Inspection(surprise, expected, probabilities)


def _place_windows(count: int, block_size: int) -> tuple[np.ndarray, int]:
    """Return the places where windows over `count` tokens start, (W,), and their length. Each begins in the middle of the one before.
    Raises `UserError` without tokens."""
    if count == 0:
        raise UserError("there is no token to inspect", "give a text")
    length = min(block_size, count)
    half = max(length // 2, 1)
    return half * np.arange(1 - (length - count) // half), length  # rounded up


def _find_likeliest(scores: np.ndarray, top: int) -> np.ndarray:
    """Return the places of the `top` largest numbers of each row of `scores` (N, vocab_size), the largest first: (N, top)."""
    found = np.argpartition(-scores, top - 1, axis=-1)[:, :top]
    order = np.argsort(-np.take_along_axis(scores, found, axis=-1), axis=-1, kind="stable")
    return np.take_along_axis(found, order, axis=-1)


def find_excerpt(run: Run) -> np.ndarray:
    """Return the first tokens of the run's validation split, `EXCERPT` at most, after the mark with which its documents begin.

    Raises `UserError` if the text is not there any more.
    """
    return own_dataset(run).valid_tokens[int(run.tokenizer.marks) :][:EXCERPT]
