"""What a model expects at every place of a text, and how much each token surprises it."""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..errors import UserError
from ..layers import causal_mask
from ..machine import machine
from ..model import GPT, Attention

LOGITS_PER_BATCH = 2**24  # float32: 64 MiB


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
    tokens = np.concatenate([[start_token], np.asarray(ids)]).astype(np.int64)  # (N + 1,)
    count, top = len(ids), min(top, model.config.vocab_size)
    starts, length = _windows(count, model.config.block_size)
    surprise = np.empty(count)
    expected, probabilities = np.empty((count, top), np.int64), np.empty((count, top))
    done = 0
    machine().prepare(model)
    was_training = model.training
    model.eval()
    try:
        at_once = max(1, LOGITS_PER_BATCH // (length * model.config.vocab_size))  # windows
        for batch in np.array_split(starts, -(-len(starts) // at_once)):
            places = batch[:, None] + np.arange(length)  # (B, T)
            logits = model(mx.array(tokens[places])).astype(mx.float32)  # (B, T, vocab_size)
            logs = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
            for start, said in zip(batch, logs):
                new = np.arange(done, start + length)  # the places that no window before has reached
                said, done = said[new - start], start + length  # (places, vocab_size)
                likeliest = _likeliest(said, top)
                surprise[new] = -np.take_along_axis(said, tokens[new + 1, None], axis=-1)[:, 0] / np.log(2)
                expected[new] = likeliest
                probabilities[new] = np.exp(np.take_along_axis(said, likeliest, axis=-1))
    finally:
        model.train(was_training)
    return Inspection(surprise, expected, probabilities)


def _windows(count: int, block_size: int) -> tuple[np.ndarray, int]:
    """Where the windows over `count` tokens start, (W,), and their length. Each begins in the middle of the one before. Raises
    `UserError` without tokens."""
    if count == 0:
        raise UserError("there is no token to inspect", "give a text")
    length = min(block_size, count)
    return np.array([*range(0, count - length, max(length // 2, 1)), count - length]), length


@dataclass(frozen=True)
class Inside:
    """What happened inside a model before each of N tokens, in L layers of H heads. What it saw are the start token and then the
    tokens: the place 0 is the start token, the place i the token i - 1.

    `first`, (N,), is the first place that it saw, of T. `attention`, (L, H, N, T), says how much of its answer came from each of
    these places; a row adds up to 1. `lens`, (L, N, K), are the likeliest tokens if its head had read after each layer (the "logit
    lens", nostalgebraist 2020), and `probabilities`, (L, N, K), are theirs.
    """

    first: np.ndarray
    attention: np.ndarray
    lens: np.ndarray
    probabilities: np.ndarray


def look_inside(model: GPT, ids: Sequence[int] | np.ndarray, start_token: int, top: int = 3) -> Inside:
    """Look inside a model while it reads `start_token` and the tokens `ids`, (N,), in the windows of `inspect`. Raises `UserError`
    for a text without tokens."""
    plain = GPT(model.config)  # `model` may have the layers of a machine, which read rows
    plain.update(model.parameters())
    plain.eval()
    tokens, (starts, length) = np.array([start_token, *ids], np.int64), _windows(len(ids), model.config.block_size)
    first: list[int] = []
    parts = []
    for start in starts:
        new = slice(len(first) - start, length)  # the places that no window before has reached
        first += [int(start)] * (length - len(first) + int(start))
        parts.append(_layers(plain, mx.array(tokens[start : start + length]), new, top))
    attentions, lenses, probabilities = zip(*parts)
    return Inside(
        np.array(first),
        np.concatenate(attentions, axis=2),
        np.concatenate(lenses, axis=1),
        np.concatenate(probabilities, axis=1),
    )


def _layers(plain: GPT, idx: mx.array, new: slice, top: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At the places `new` of the tokens `idx`, (T,), in each layer: the weights of attention, (L, H, places, T), the likeliest tokens
    if the head read there, (L, places, top), and their probabilities."""
    x, weights, lens, probabilities = plain.embed(idx[None]), [], [], []  # x is (1, T, C)
    for block in plain.h:
        weights.append(np.array(_attention_weights(block.attn, block.ln_1(x))[0, :, new]))
        x = block(x)
        said = np.array(mx.softmax(plain.logits(x[0, new]).astype(mx.float32), axis=-1))  # (places, vocab_size)
        lens.append(_likeliest(said, top))
        probabilities.append(np.take_along_axis(said, lens[-1], axis=-1))
    return np.stack(weights), np.stack(lens), np.stack(probabilities)


def _likeliest(said: np.ndarray, top: int) -> np.ndarray:
    """Where the `top` largest numbers of each row of `said` (N, vocab_size) are, the largest first: (N, top)."""
    top = min(top, said.shape[-1])
    found = np.argpartition(-said, top - 1, axis=-1)[:, :top]
    order = np.argsort(-np.take_along_axis(said, found, axis=-1), axis=-1, kind="stable")
    return np.take_along_axis(found, order, axis=-1)


def _attention_weights(attn: Attention, x: mx.array) -> mx.array:
    """What each token of x (B, T, C) takes from each: (B, nh, T, T), float32."""
    B, T, C = x.shape
    heads = attn.c_attn(x).reshape(B, T, 3 * attn.n_head, C // attn.n_head).swapaxes(1, 2)  # (B, 3 nh, T, hs)
    q, k, _ = mx.split(heads, 3, axis=1)  # (B, nh, T, hs) each
    q, k = attn.locate(q, k)
    scores = attn.scale * q @ k.swapaxes(-1, -2) + causal_mask(T, q.dtype)  # (B, nh, T, T)
    return mx.softmax(scores.astype(mx.float32), axis=-1)
