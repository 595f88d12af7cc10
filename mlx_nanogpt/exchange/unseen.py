"""Rows of the embedding and the head for tokens of other programs that the model has never seen."""

import mlx.core as mx
import numpy as np

from ..model import GPT, Cache

FREQUENT = 1e-3  # a probability
MARGIN = 30.0  # nats below the mean logit
SAMPLED = 2**13  # places in texts
PARTS = 64


def add_unseen_rows(weights: dict[str, mx.array], extra: int, model: GPT) -> dict[str, mx.array]:
    """`weights`, those of `model`, with `extra` more rows for the embedding and the head. `model` is in evaluation mode."""
    head = "wte.weight" if model.config.tied else "lm_head.weight"
    rows = {"wte.weight": weights["wte.weight"].mean(axis=0), head: _unlikely_row(weights[head], _inputs(model))}
    longer = {
        name: mx.concatenate([weights[name], mx.broadcast_to(row, (extra, row.size))])  # (V + extra, C)
        for name, row in rows.items()
    }
    return weights | longer


def _unlikely_row(head: mx.array, inputs: np.ndarray) -> mx.array:
    """A row for `head` (V, C) whose token is hardly ever drawn after `inputs` (N, C).

    It is the row of the rarest token, moved in the direction in which the inputs are shortest: the logits stay nearly the same,
    and fine-tuning can separate the two tokens. If even that token is frequent, as in a text of four letters, it is the mean
    row plus d, where least squares bring d @ x near -MARGIN for all inputs x.
    """
    rows = np.array(head, np.float64)  # (V, C)
    chances = np.zeros(len(rows))  # (V,)
    for part in np.array_split(inputs, PARTS):  # all logits at once would take gigabytes
        logits = part @ rows.T  # (N / PARTS, V)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances += (weights / weights.sum(axis=1, keepdims=True)).sum(axis=0) / len(inputs)
    if chances.min() < FREQUENT:
        rarest = rows[chances.argmin()]
        direction = np.linalg.eigh(inputs.T @ inputs)[1][:, 0]  # (C,)
        direction *= -np.sign(inputs.mean(axis=0) @ direction) * np.linalg.norm(rarest)
        return mx.array(rarest + direction, mx.float32)
    shift = np.linalg.lstsq(inputs, np.full(len(inputs), -MARGIN), rcond=None)[0]  # (C,)
    return mx.array(rows.mean(axis=0) + shift, mx.float32)


def _inputs(model: GPT) -> np.ndarray:
    """The inputs of the head, (N, C), in texts that the model writes, and in texts of random tokens, like any user's."""
    T, V = model.config.block_size, model.config.vocab_size
    B = max(SAMPLED // T, 1)
    cache, key = Cache(model, B), mx.random.key(0)
    firsts = mx.arange(B) * V // B
    written = firsts[:, None]  # (B, 1)
    for _ in range(T - 1):
        key, now = mx.random.split(key)
        token = mx.random.categorical(model.next_logits(written[:, -1:], cache), key=now)  # (B,)
        written = mx.concatenate([written, token[:, None]], axis=1)
        mx.eval(written)
    texts = mx.concatenate([written, mx.random.randint(0, V, (B, T), key=key)])  # (2 B, T)
    return np.array(model.ln_f(model.blocks(texts)), np.float64).reshape(-1, model.config.n_embd)
