"""The loss of a step and its gradients: in bfloat16, over parts of a batch, and with teachers."""

from collections.abc import Callable, Sequence
from itertools import cycle

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from .config import TrainConfig
from .machine import machine
from .model import GPT

LossAndGrad = Callable[[mx.array, mx.array], tuple[mx.array, dict]]


def loss_and_gradients(model: GPT, config: TrainConfig, teachers: Sequence[GPT] = ()) -> LossAndGrad:
    """Return a function of `idx` and `targets`, both (A * B, T): the mean loss and its gradients, as `config` has them computed."""
    loss = in_bfloat16(model) if config.dtype == "bfloat16" else model.loss
    loss_and_grad = nn.value_and_grad(model, loss)
    if teachers:
        loss_and_grad = learn_from(teachers, config.distill, loss_and_grad)
    return accumulate(loss_and_grad, config.gradient_accumulation_steps)


def in_bfloat16(model: GPT) -> Callable[[mx.array, mx.array], mx.array]:
    """`model.loss` computed with copies of the weights that are rounded to bfloat16. Gradients and updates are those of the
    float32 weights."""

    def loss(idx: mx.array, targets: mx.array) -> mx.array:
        master = model.parameters()
        model.update(tree_map(lambda p: p.astype(mx.bfloat16) if p.dtype == mx.float32 else p, master))
        try:
            return model.loss(idx, targets)
        finally:
            model.update(master)

    return loss


def accumulate(loss_and_grad: LossAndGrad, steps: int) -> LossAndGrad:
    """The mean loss and gradient over `steps` equal parts of the windows, one part after the other."""
    if steps == 1:
        return loss_and_grad

    def over_parts(idx: mx.array, targets: mx.array) -> tuple[mx.array, dict]:
        first, *rest = zip(mx.split(idx, steps), mx.split(targets, steps))
        total, sums = loss_and_grad(*first)
        for part in rest:
            # each part waits for the one before, so that memory holds the activations of one
            waiting = mx.depends(list(part), [gradient for _, gradient in tree_flatten(sums)])
            loss, grads = loss_and_grad(*waiting)
            total, sums = total + loss, tree_map(mx.add, sums, grads)
        return total / steps, tree_map(lambda gradient: gradient / steps, sums)

    return over_parts


def learn_from(teachers: Sequence[GPT], share: float, loss_and_grad: LossAndGrad) -> LossAndGrad:
    """Distillation (Hinton et al. 2015). Return `loss_and_grad(idx, targets)`, both (B, T), with distributions (B, T, vocab_size) in the place of the targets: `share` of
    each is the mean of what the `teachers` expect, and the rest is the target. The loss is then a mean of two cross-entropies."""
    for teacher in teachers:
        machine().prepare(teacher.eval())
        mx.eval(teacher.parameters())  # a compiled step takes them as constants

    def with_distributions(idx: mx.array, targets: mx.array) -> tuple[mx.array, dict]:
        expected = expect(teachers, idx)
        is_target = targets[..., None] == mx.arange(expected.shape[-1])  # (B, T, vocab_size)
        return loss_and_grad(idx, share * expected + mx.where(is_target, 1 - share, 0.0))

    return with_distributions


def expect(teachers: Sequence[GPT], idx: mx.array) -> mx.array:
    """The mean of the distributions that the `teachers` expect after `idx` (B, T): (B, T, vocab_size), float32."""
    streams = machine().streams()
    parts = min(-(-len(streams) // len(teachers)), len(idx))
    edges, turn, rows = [len(idx) * i // parts for i in range(1, parts)], cycle(streams), []
    for part in mx.split(idx, edges):
        expected = []
        for teacher, stream in zip(teachers, turn):
            with mx.stream(stream):
                expected.append(mx.softmax(teacher(part).astype(mx.float32), axis=-1))
        rows.append(sum(expected[1:], expected[0]) / len(teachers))
    return mx.concatenate(rows)
