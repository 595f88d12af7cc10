"""Adam, AdamW or Muon, how the learning rate changes, and the limit on gradients."""

import math
from collections.abc import Callable
from itertools import accumulate

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from .config import TrainConfig

MOMENTUM = 0.95  # of Muon
DECAY_SHARE = 0.2  # of a wsd schedule


def learning_rate(config: TrainConfig, highest: float) -> float | Callable[[mx.array], mx.array]:
    """The rate, of Adam or Muon, that is `highest` at its highest; or, if it changes, a function of the number of steps done.

    It rises along a line. Then it falls along a cosine (nanoGPT), along a line, or stays and falls along a line in the last
    fifth of the way ("warm-up, stable, decay", Hu et al. 2024).
    """
    lowest = config.min_lr * (highest / config.learning_rate)
    span = highest - lowest
    warmup, last = config.warmup_iters, config.lr_decay_iters
    if not warmup and not last:
        return highest

    def rate(step: mx.array) -> mx.array:
        risen = highest * mx.minimum((step + 1) / (warmup + 1), 1.0)
        if not last:
            return risen
        progress = mx.clip((step - warmup) / (last - warmup), 0.0, 1.0)
        if config.schedule == "cosine":
            left = span * 0.5 * (1 + mx.cos(math.pi * progress))
        elif config.schedule == "linear":
            left = span * (1 - progress)
        else:
            left = mx.minimum(span / DECAY_SHARE * (1 - progress), span)
        return mx.where(step < warmup, risen, lowest + left)

    return rate


def rate_at(config: TrainConfig, step: int) -> float:
    """Adam's rate after `step` steps."""
    rate = learning_rate(config, config.learning_rate)
    return rate(mx.array(step)).item() if callable(rate) else rate


def end_of_learning(config: TrainConfig) -> float:
    """The iteration from which on the rate is 0; infinity if it never is."""
    return config.lr_decay_iters if config.lr_decay_iters > 0 and config.min_lr == 0 else math.inf


class DecayedMatrices(optim.AdamW):
    """AdamW (Loshchilov & Hutter 2019) that decays matrices only, not biases and norms, as nanoGPT does."""

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict) -> mx.array:
        update = optim.AdamW if parameter.ndim >= 2 else optim.Adam
        return update.apply_single(self, gradient, parameter, state)


class Muon(optim.Optimizer):
    """Muon (Jordan et al. 2024): the step of a matrix is its momentum, made orthogonal by Newton-Schulz iterations.

    MLX has one, `optim.Muon`. This one differs in three things. Weight decay is decoupled, as in AdamW (Liu et al. 2025).
    Queries, keys and values are matrices of their own. Matrices of one shape go through the iterations together, which takes
    a tenth of the operations.
    """

    def __init__(self, learning_rate: float | Callable[[mx.array], mx.array], weight_decay: float):
        super().__init__()
        self._maybe_schedule("learning_rate", learning_rate)
        self.weight_decay = weight_decay
        # a machine may compute parts of a stack at the same time
        self.orthogonal: Callable[[mx.array], mx.array] = orthogonal

    def init_single(self, parameter: mx.array, state: dict) -> None:
        state["v"] = mx.zeros_like(parameter)

    def apply_gradients(self, gradients: dict, parameters: dict) -> dict:
        """The new values of the parameters, all of them matrices, that have a gradient."""
        directions = tree_flatten(super().apply_gradients(gradients, parameters))
        steps = self.steps_of([_parts(name, matrix) for name, matrix in directions])
        rate, weights, new = self.learning_rate, dict(tree_flatten(parameters)), []
        for (name, _), step in zip(directions, steps):
            weight, length = weights[name], math.sqrt(max(1.0, step.shape[1] / step.shape[2]))
            new.append((name, weight * (1 - rate * self.weight_decay) - rate * length * step.reshape(weight.shape)))
        return tree_unflatten(new) if new else {}

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict) -> mx.array:
        """The direction of the next step: Nesterov's momentum."""
        state["v"] = MOMENTUM * state["v"] + (1 - MOMENTUM) * gradient
        return MOMENTUM * state["v"] + (1 - MOMENTUM) * gradient

    def steps_of(self, stacks: list[mx.array]) -> list[mx.array]:
        """`orthogonal` of each matrix of stacks (matrices, rows, columns), the tall ones of one shape together with the wide ones
        that have it when they are turned."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, stack in enumerate(stacks):
            groups.setdefault(_tall(stack).shape[1:], []).append(i)
        steps = list(stacks)
        for group in groups.values():
            joined = self.orthogonal(mx.concatenate([_tall(stacks[i]) for i in group]))
            ends = list(accumulate(len(stacks[i]) for i in group))
            for i, step in zip(group, mx.split(joined, ends[:-1])):
                steps[i] = step if step.shape == stacks[i].shape else step.swapaxes(1, 2)
        return steps


def orthogonal(x: mx.array) -> mx.array:
    """Nearly the orthogonal matrix nearest to each matrix of `x` (matrices, rows, columns), none of them wide: singular values become
    0.7 to 1.2. The five steps of a quintic Newton-Schulz iteration and their coefficients are Jordan's."""
    y = x / (mx.sqrt(mx.square(x).sum(axis=(1, 2), keepdims=True)) + 1e-7)
    for _ in range(5):
        a = y.swapaxes(1, 2) @ y  # OpenBLAS takes 1.2 times as long for wide matrices
        y = mx.addmm(y, y, mx.addmm(a, a, a, alpha=2.0315, beta=-4.7750), beta=3.4445)
    return y


def _tall(stack: mx.array) -> mx.array:
    """The matrices of a stack, turned if they are wide."""
    return stack.swapaxes(1, 2) if stack.shape[1] < stack.shape[2] else stack


def _parts(name: str, matrix: mx.array) -> mx.array:
    """A matrix as a stack: of three if it is queries, keys and values, one above the other."""
    rows, columns = matrix.shape
    is_qkv = name.endswith("c_attn.weight") and rows == 3 * columns
    return matrix.reshape(3 if is_qkv else 1, -1, columns)


def is_hidden_matrix(name: str, parameter: mx.array) -> bool:
    """Whether a parameter is a matrix of a block, and not the embedding, the head, a bias or a norm."""
    return name.startswith("h.") and parameter.ndim == 2


def make_optimizer(config: TrainConfig) -> optim.Optimizer:
    """Adam as in its paper (Kingma & Ba 2015), or AdamW; or Muon with one of them. MLX corrects the bias only if asked."""
    settings = {
        "learning_rate": learning_rate(config, config.learning_rate),
        "betas": [config.beta1, config.beta2],
        "bias_correction": True,
    }
    if config.weight_decay:
        adam = DecayedMatrices(weight_decay=config.weight_decay, **settings)
    else:
        adam = optim.Adam(**settings)
    if config.optimizer == "adam":
        return adam
    muon = Muon(learning_rate(config, config.muon_lr), config.weight_decay)
    return optim.MultiOptimizer([muon, adam], [is_hidden_matrix])


def norm_of(grads: dict) -> mx.array:
    """The norm of all gradients of a tree together, a scalar. One product of all numbers in a row, where `optim.clip_grad_norm` needs a
    square, a sum and an addition for each array."""
    row = mx.concatenate([gradient.reshape(1, -1) for _, gradient in tree_flatten(grads)], axis=1)  # (1, N)
    return mx.sqrt((row @ row.T)[0, 0])


def clip(grads: dict, norm: mx.array, max_norm: float) -> dict:
    """A tree of gradients, scaled down if their `norm` is more than `max_norm`."""
    factor = mx.minimum(max_norm / (norm + 1e-6), 1.0)
    return tree_map(lambda gradient: gradient * factor, grads)
