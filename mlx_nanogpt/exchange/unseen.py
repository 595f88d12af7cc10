"""Rows of the embedding and of the head for tokens that other programs need, and that the model has never seen."""

import mlx.core as mx
import numpy as np

from ..model import GPT, LayerCache

MARGIN = 30.0  # nats below the mean logit
ROUNDS = 20
SAMPLED = 2**14  # places in texts that the model writes


def with_unseen_rows(weights: dict[str, mx.array], extra: int, model: GPT) -> dict[str, mx.array]:
    """`weights`, those of `model`, with `extra` more rows for the embedding and the head. `model` is as plain as `GPT` makes it,
    in evaluation mode."""
    head = "wte.weight" if model.config.tied else "lm_head.weight"
    rows = {"wte.weight": weights["wte.weight"].mean(axis=0), head: _unlikely_row(weights[head], _inputs(model))}
    longer = {
        name: mx.concatenate([weights[name], mx.broadcast_to(row, (extra, row.size))])  # (V + extra, C)
        for name, row in rows.items()
    }
    return weights | longer


def _inputs(model: GPT) -> np.ndarray:
    """What the head gets, (N, C), where the model reads texts that it has written. Every token begins some of them."""
    T, V = model.config.block_size, model.config.vocab_size
    B = max(V, SAMPLED // T)
    cache, key = [LayerCache(model.config, B) for _ in model.h], mx.random.key(0)
    idx = (mx.arange(B) % V)[:, None]  # (B, 1)
    for _ in range(T - 1):
        key, now = mx.random.split(key)
        token = mx.random.categorical(model.next_logits(idx[:, -1:], cache), key=now)  # (B,)
        idx = mx.concatenate([idx, token[:, None]], axis=1)
        mx.eval(idx)
    return np.array(model.ln_f(model.blocks(idx)), np.float64).reshape(-1, model.config.n_embd)


def _unlikely_row(head: mx.array, inputs: np.ndarray) -> mx.array:
    """A row for `head` (V, C), whose logit is far below the others for all `inputs` (N, C).

    It is the mean of the other rows plus d, where d @ x is as near to -MARGIN as least squares get it. Inputs for which it is
    not low enough weigh more in the next round.
    """
    chosen, importance = np.zeros(inputs.shape[1]), np.ones(len(inputs))
    little = 0.1 * np.eye(inputs.shape[1])
    for _ in range(ROUNDS):
        weighted = inputs * importance[:, None]
        chosen = np.linalg.solve(inputs.T @ weighted + little, -MARGIN * weighted.sum(axis=0))
        importance *= np.exp((inputs @ chosen + MARGIN) / MARGIN)
        importance /= importance.mean()
    return head.mean(axis=0) + mx.array(chosen, mx.float32)
