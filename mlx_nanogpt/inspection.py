"""What a model expects at every place of a text, and how much each token surprises it."""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from .errors import UserError
from .machine import machine
from .model import GPT

WINDOWS_PER_BATCH = 16


@dataclass(frozen=True)
class Inspection:
    """What a model said of each of N tokens before it saw it: `surprise`, (N,), in bits, is what the token cost; `expected`, (N, K),
    are the ids of the likeliest tokens, the first one first; `probabilities`, (N, K), are theirs."""

    surprise: np.ndarray
    expected: np.ndarray
    probabilities: np.ndarray

    @property
    def bits(self) -> float:
        """Bits of all tokens together."""
        return float(self.surprise.sum())


def inspect(model: GPT, ids: Sequence[int] | np.ndarray, start_token: int, top: int = 10) -> Inspection:
    """Inspect the tokens `ids`, (N,), after `start_token`, from which the model also starts an empty prompt.

    A token is predicted from all tokens before it, as far as the context reaches: in a text longer than that, from at least half a
    context. The model's mode stays as it is. Raises `UserError` for a text without tokens.
    """
    if len(ids) == 0:
        raise UserError("there is no token to inspect", "give a text")
    tokens = np.concatenate([[start_token], np.asarray(ids)]).astype(np.int64)  # (N + 1,)
    count, top = len(ids), min(top, model.config.vocab_size)
    length = min(model.config.block_size, count)
    starts = np.array([*range(0, count - length, max(length // 2, 1)), count - length])
    surprise = np.empty(count)
    expected, probabilities = np.empty((count, top), np.int64), np.empty((count, top))
    done = 0
    machine().prepare(model)
    was_training = model.training
    model.eval()
    try:
        for batch in np.array_split(starts, -(-len(starts) // WINDOWS_PER_BATCH)):
            places = batch[:, None] + np.arange(length)  # (B, T)
            logits = model(mx.array(tokens[places])).astype(mx.float32)  # (B, T, vocab_size)
            logs = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True), np.float64)
            for start, said in zip(batch, logs):
                new = np.arange(done, start + length)  # the places that no window before has reached
                said, done = said[new - start], start + length  # (places, vocab_size)
                likeliest = np.argsort(-said, axis=-1, kind="stable")[:, :top]
                surprise[new] = -np.take_along_axis(said, tokens[new + 1, None], axis=-1)[:, 0] / np.log(2)
                expected[new] = likeliest
                probabilities[new] = np.exp(np.take_along_axis(said, likeliest, axis=-1))
    finally:
        model.train(was_training)
    return Inspection(surprise, expected, probabilities)
