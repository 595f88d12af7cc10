"""A model's expectations at every place of a text, the surprise of each token, and the inside of its layers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..errors import UserError
from ..layers import causal_mask
from ..machine import machine
from ..model import GPT, Attention, Block

LOGITS_PER_BATCH = 2**24  # float32: 64 MiB


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

    A token is predicted from all tokens before it, as far as the context reaches: in a text longer than that, from at least half a
    context. The model's mode stays as it is. Raises `UserError` for a text without tokens.
    """
    tokens = np.array([start_token, *ids], np.int64)  # (N + 1,)
    count, top = len(ids), min(top, model.config.vocab_size)
    starts, length = _place_windows(count, model.config.block_size)
    surprise = np.empty(count)
    expected, probabilities = np.empty((count, top), np.int64), np.empty((count, top))
    done = 0
    machine().prepare(model)
    at_once = max(1, LOGITS_PER_BATCH // (length * model.config.vocab_size))  # windows
    with _evaluation_mode(model):
        for batch in np.array_split(starts, -(-len(starts) // at_once)):
            places = batch[:, None] + np.arange(length)  # (B, T)
            logits = model(mx.array(tokens[places])).astype(mx.float32)  # (B, T, vocab_size)
            log_probabilities = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
            for start, window in zip(batch, log_probabilities):
                new = np.arange(done, start + length)  # the places that no window before has reached
                window, done = window[new - start], start + length  # (places, vocab_size)
                expected[new] = _find_likeliest(window, top)
                surprise[new] = -np.take_along_axis(window, tokens[new + 1, None], axis=-1)[:, 0] / np.log(2)
                probabilities[new] = np.exp(np.take_along_axis(window, expected[new], axis=-1))
    return Inspection(surprise, expected, probabilities)


def _place_windows(count: int, block_size: int) -> tuple[np.ndarray, int]:
    """Return the places where windows over `count` tokens start, (W,), and their length. Each begins in the middle of the one before.
    Raises `UserError` without tokens."""
    if count == 0:
        raise UserError("there is no token to inspect", "give a text")
    length = min(block_size, count)
    return np.array([*range(0, count - length, max(length // 2, 1)), count - length]), length


@contextmanager
def _evaluation_mode(model: GPT) -> Iterator[None]:
    """Turn dropout off, and restore the model's mode at the end."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@dataclass(frozen=True)
class Inside:
    """The inside of L layers of H heads before each of N tokens. The model reads the start token, at place 0, and then the tokens:
    the token i - 1 is at place i.

    `first`, (N,), is the first of T places in view. `attention`, (L, H, N, T), is the share of each of these places in a head's
    answer; a row adds up to 1. `lens`, (L, N, K), are the likeliest tokens if the model's head reads after each layer (the "logit
    lens", nostalgebraist 2020), and `probabilities`, (L, N, K), are theirs.
    """

    first: np.ndarray
    attention: np.ndarray
    lens: np.ndarray
    probabilities: np.ndarray


def look_inside(model: GPT, ids: Sequence[int] | np.ndarray, start_token: int, top: int = 3) -> Inside:
    """Look inside a model while it reads `start_token` and the tokens `ids`, (N,), in the windows of `inspect`. The model's mode
    stays as it is. Raises `UserError` for a text without tokens, and for a model whose blocks are not those of `model.py`."""
    check_blocks(model)
    tokens = np.array([start_token, *ids], np.int64)  # (N + 1,)
    starts, length = _place_windows(len(ids), model.config.block_size)
    first: list[int] = []
    parts = []
    with _evaluation_mode(model):
        for start in starts:
            new = slice(len(first) - start, length)  # the places that no window before has reached
            first += [int(start)] * (length - len(first) + int(start))
            parts.append(_inspect_layers(model, mx.array(tokens[start : start + length]), new, top))
    attentions, lenses, probabilities = zip(*parts)
    return Inside(
        np.array(first),
        np.concatenate(attentions, axis=2),
        np.concatenate(lenses, axis=1),
        np.concatenate(probabilities, axis=1),
    )


def check_blocks(model: GPT) -> None:
    """Raise `UserError` if a block or its attention is of another class than those of `model.py`: only of these is the inside
    known."""
    for block in model.h:
        other = block if type(block) is not Block else block.attn if type(block.attn) is not Attention else None
        if other is not None:
            raise UserError(
                f"the inside of {type(other).__name__} cannot be shown: only that of the blocks of mlx_nanogpt/model.py is known",
                "use `inspect`, which shows the surprises of any model",
            )


def _inspect_layers(model: GPT, idx: mx.array, new: slice, top: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, at the places `new` of the tokens `idx`, (T,), in each layer: the weights of attention, (L, H, places, T), the likeliest
    tokens if the head reads there, (L, places, top), and their probabilities."""
    x, weights, lens, probabilities = model.embed(idx[None]), [], [], []  # x is (1, T, C)
    for block in model.h:
        weights.append(np.array(_weigh_attention(block.attn, block.ln_1(x))[0, :, new]))
        x = block(x)
        predicted = np.array(mx.softmax(model.logits(x[0, new]).astype(mx.float32), axis=-1))  # (places, vocab_size)
        lens.append(_find_likeliest(predicted, top))
        probabilities.append(np.take_along_axis(predicted, lens[-1], axis=-1))
    return np.stack(weights), np.stack(lens), np.stack(probabilities)


def _find_likeliest(scores: np.ndarray, top: int) -> np.ndarray:
    """Return the places of the `top` largest numbers of each row of `scores` (N, vocab_size), the largest first: (N, top)."""
    top = min(top, scores.shape[-1])
    found = np.argpartition(-scores, top - 1, axis=-1)[:, :top]
    order = np.argsort(-np.take_along_axis(scores, found, axis=-1), axis=-1, kind="stable")
    return np.take_along_axis(found, order, axis=-1)


def _weigh_attention(attn: Attention, x: mx.array) -> mx.array:
    """Return the share of each token in the answer to each token of x (B, T, C): (B, nh, T, T), float32."""
    B, T, C = x.shape
    heads = attn.c_attn(x).reshape(B, T, 3 * attn.n_head, C // attn.n_head).swapaxes(1, 2)  # (B, 3 nh, T, hs)
    q, k, _ = mx.split(heads, 3, axis=1)  # (B, nh, T, hs) each
    q, k = attn.locate(q, k)
    scores = attn.scale * q @ k.swapaxes(-1, -2) + causal_mask(T, q.dtype)  # (B, nh, T, T)
    return mx.softmax(scores.astype(mx.float32), axis=-1)
