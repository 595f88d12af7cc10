"""The loss of a step and its gradients: in bfloat16, over parts of a batch, and with what teachers expect."""

from collections.abc import Callable, Sequence

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from .config import Backend, TrainConfig
from .machine import machine
from .model import GPT

LossAndGrad = Callable[[mx.array, mx.array], tuple[mx.array, dict]]


def loss_and_gradients(model: GPT, config: TrainConfig) -> LossAndGrad:
    """Return a function of `idx` and `targets`, both (A * B, T): the mean loss and its gradients, as `config` has them computed."""
    loss = in_bfloat16(model) if config.dtype == "bfloat16" else model.loss
    return accumulate(nn.value_and_grad(model, loss), config.gradient_accumulation_steps)


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


def soft_targets(teachers: Sequence[GPT], share: float, backend: Backend) -> Callable[[mx.array, mx.array], mx.array]:
    """Return a function of `idx` and `targets`, both (B, T), that returns distributions (B, T, vocab_size) for the loss. `share` of each is
    the mean of what the `teachers` expect, and the rest is the target. This is distillation (Hinton et al. 2015)."""
    fast, streams = [machine().for_inference(teacher.eval())[0] for teacher in teachers], machine().streams()

    def soften(idx: mx.array, targets: mx.array) -> mx.array:
        expected = sum((mx.softmax(teacher(idx).astype(mx.float32), axis=-1) for teacher in fast), mx.array(0.0))
        is_target = targets[..., None] == mx.arange(expected.shape[-1])  # (B, T, vocab_size)
        return expected * (share / len(fast)) + mx.where(is_target, 1 - share, 0.0)

    # one for each stream, as in an evaluation
    functions = [
        mx.compile(soften, inputs=[teacher.state for teacher in fast]) if backend == "compiled" else soften
        for _ in streams
    ]

    def of_parts(idx: mx.array, targets: mx.array) -> mx.array:
        count, parts = min(len(streams), len(idx)), []
        edges = [len(idx) * i // count for i in range(1, count)]
        for stream, function, *part in zip(streams, functions, mx.split(idx, edges), mx.split(targets, edges)):
            with mx.stream(stream):
                parts.append(function(*part))
        mx.async_eval(parts)  # all at once, or one stream would wait for the other
        return mx.concatenate(parts)

    return of_parts
