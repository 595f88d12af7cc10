"""Adam or AdamW, how the learning rate changes, and the limit on gradients."""

import math
from collections.abc import Callable

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map

from .config import TrainConfig


def learning_rate(config: TrainConfig) -> float | Callable[[mx.array], mx.array]:
    """The rate; or, if it changes, a function of the number of steps done: linear, then a cosine, as in nanoGPT."""
    highest, lowest, warmup, last = config.learning_rate, config.min_lr, config.warmup_iters, config.lr_decay_iters
    if not warmup and not last:
        return highest

    def rate(step: mx.array) -> mx.array:
        risen = highest * mx.minimum((step + 1) / (warmup + 1), 1.0)
        if not last:
            return risen
        progress = mx.clip((step - warmup) / (last - warmup), 0.0, 1.0)
        fallen = lowest + (highest - lowest) * 0.5 * (1 + mx.cos(math.pi * progress))
        return mx.where(step < warmup, risen, fallen)

    return rate


class DecayedMatrices(optim.AdamW):
    """AdamW (Loshchilov & Hutter 2019) that decays matrices only, not biases and norms, as nanoGPT does."""

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict) -> mx.array:
        update = optim.AdamW if parameter.ndim >= 2 else optim.Adam
        return update.apply_single(self, gradient, parameter, state)


def make_optimizer(config: TrainConfig) -> optim.Optimizer:
    """Adam as in its paper (Kingma & Ba 2015), or AdamW. MLX corrects the bias only if asked."""
    settings = {
        "learning_rate": learning_rate(config),
        "betas": [config.beta1, config.beta2],
        "bias_correction": True,
    }
    if config.weight_decay:
        return DecayedMatrices(weight_decay=config.weight_decay, **settings)
    return optim.Adam(**settings)


def clipped(grads: dict, max_norm: float) -> dict:
    """A tree of gradients, scaled down if the norm of all together is more than `max_norm`.

    It is `optim.clip_grad_norm`, but each sum of squares is a matrix product: one kernel, where MLX needs a square and a sum.
    """
    flat = [each.reshape(1, -1) for _, each in tree_flatten(grads)]  # (1, N) each
    squares = sum((each @ each.T for each in flat), mx.array(0.0))  # (1, 1)
    factor = mx.minimum(max_norm / (mx.sqrt(squares[0, 0]) + 1e-6), 1.0)
    return tree_map(lambda each: each * factor, grads)
