"""The loss of a split: forward only, without dropout, over the same windows each time."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np

from .config import Backend
from .data import evaluation_starts, windows
from .model import GPT, loss_fn

TOKENS_PER_BATCH = 16_384  # large enough to keep a GPU busy, small enough for a CPU's cache

Evaluate = Callable[[np.ndarray, int], float]


def make_evaluate(model: GPT, backend: Backend) -> Evaluate:
    """Return `evaluate(tokens, count)`: the mean loss in nats per token over `count` windows of `tokens`.

    The model's mode is put back as it was, so a training step may run before and after.
    """
    block_size = model.config.block_size

    def loss(idx: mx.array, targets: mx.array) -> mx.array:
        return loss_fn(model, idx, targets)

    # a function of its own: a compiled training step would go on with dropout
    if backend == "compiled":
        loss = mx.compile(loss, inputs=model.state)

    def evaluate(tokens: np.ndarray, count: int) -> float:
        was_training = model.training
        model.eval()
        try:
            starts = evaluation_starts(tokens, count, block_size)
            total = 0.0
            for group in np.array_split(starts, -(-count * block_size // TOKENS_PER_BATCH)):
                total += loss(*map(mx.array, windows(tokens, group, block_size))).item() * len(group)
            return total / count
        finally:
            model.train(was_training)

    return evaluate
