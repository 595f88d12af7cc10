"""The loss of a split: forward only, without dropout, over the same windows each time."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np

from . import cpu
from .config import Backend
from .data import evaluation_starts, windows
from .model import GPT, loss_fn

TOKENS_PER_BATCH = 16_384  # enough to keep a GPU busy

Evaluate = Callable[[np.ndarray, int], float]


def make_evaluate(model: GPT, backend: Backend) -> Evaluate:
    """Return `evaluate(tokens, count)`: the mean loss in nats per token over `count` windows of `tokens`.

    The model's mode is put back as it was, so a training step may run before and after.
    """
    block_size = model.config.block_size

    def make_loss() -> Callable[[mx.array, mx.array], mx.array]:
        def loss(idx: mx.array, targets: mx.array) -> mx.array:
            return loss_fn(model, idx, targets)

        # a function of its own: a compiled training step would go on with dropout
        return mx.compile(loss, inputs=model.state) if backend == "compiled" else loss

    streams = cpu.streams()
    tokens_per_batch = cpu.TOKENS_PER_BATCH if cpu.in_use() else TOKENS_PER_BATCH
    losses = [make_loss() for _ in streams]

    def evaluate(tokens: np.ndarray, count: int) -> float:
        was_training = model.training
        model.eval()
        try:
            starts = evaluation_starts(tokens, count, block_size)
            groups = np.array_split(starts, min(count, -(-count * block_size // tokens_per_batch)))
            sums = []
            for i in range(0, len(groups), len(streams)):
                for group, stream, loss in zip(groups[i:], streams, losses):
                    with mx.stream(stream):
                        sums.append(loss(*map(mx.array, windows(tokens, group, block_size))) * len(group))
                mx.async_eval(sums[i:])  # together, or one stream would wait for the other
            return sum(each.item() for each in sums) / count
        finally:
            model.train(was_training)

    return evaluate
