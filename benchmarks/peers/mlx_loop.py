"""The shared parts of the MLX peers: one compiled step, and an evaluation, around a model that they wrote."""

from functools import partial

import mlx_nanogpt  # noqa: F401  before mlx.core: it loads the BLAS
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten

from . import Batch, EvaluationSet, Peer, Settings


def make_peer(model: nn.Module, settings: Settings) -> Peer:
    """`model` maps token ids (B, T) to logits (B, T, vocab_size)."""
    optimizer = optim.Adam(settings.learning_rate, bias_correction=True)
    optimizer.init(model.trainable_parameters())
    state = [model.state, optimizer.state, mx.random.state]
    mx.eval(state)

    def loss_fn(idx: mx.array, targets: mx.array) -> mx.array:
        return nn.losses.cross_entropy(model(idx), targets, reduction="mean")

    loss_and_grad = nn.value_and_grad(model, loss_fn)

    @partial(mx.compile, inputs=state, outputs=state)
    def step(idx: mx.array, targets: mx.array) -> mx.array:
        loss, grads = loss_and_grad(idx, targets)
        optimizer.update(model, grads)
        return loss

    forward = mx.compile(loss_fn, inputs=model.state)

    def train(batches: list[Batch]) -> list[float]:
        model.train()
        losses = []
        for batch in batches:
            losses.append(step(*map(mx.array, batch)))
            mx.eval(losses[-1], state)
        return [loss.item() for loss in losses]

    def evaluate(data: EvaluationSet) -> float:
        model.eval()
        losses = [forward(*map(mx.array, batch)).item() for batch in data.batches]
        return sum(losses) / len(losses)

    num_parameters = sum(p.size for _, p in tree_flatten(model.trainable_parameters()))
    return Peer(mx.default_device().type.name, num_parameters, train, evaluate)
