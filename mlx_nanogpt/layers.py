"""The layers and functions that the model is made of: MLX's own, but for MLX's CPU backend on Linux, which has faster
forms of the same formulas in float32 (`cpu_ops.py`), and for attention, of which MLX has a fused form for some head sizes
only."""

import math

import mlx.core as mx
import mlx.nn as nn

from . import cpu, cpu_ops

FUSED_HEAD_SIZES = (64, 72, 80, 96, 128, 192, 256)  # for which Metal has attention as one kernel (MLX 0.32.4)


def _has_own_form(x: mx.array) -> bool:
    return cpu.in_use() and x.dtype == mx.float32


class Linear(nn.Linear):
    """(N, I) -> (N, O)."""

    def __call__(self, x: mx.array) -> mx.array:
        # a model that is not trained and not folded is large: the bias is little to add, a gradient would be a node more
        if self.training and _has_own_form(x):
            return cpu_ops.linear(x, self.weight, self.get("bias"))
        return super().__call__(x)


class LayerNorm(nn.LayerNorm):
    """(N, C) -> (N, C)."""

    def __call__(self, x: mx.array) -> mx.array:
        if _has_own_form(x):
            return cpu_ops.layer_norm(x, self.weight, self.get("bias"), self.eps)
        return super().__call__(x)


def relu(x: mx.array) -> mx.array:
    return cpu_ops.relu(x) if _has_own_form(x) else nn.relu(x)


def gelu(x: mx.array) -> mx.array:
    """GPT-2's GELU, the one with a tanh (Hendrycks & Gimpel 2016)."""
    return cpu_ops.gelu(x) if _has_own_form(x) else nn.gelu_approx(x)


def causal_attention(q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
    """Softmax attention in which no query sees a later key: q (B, nh, Tq, hs), for the last Tq positions of k and v
    (B, nh, T, hs) -> (B, nh, Tq, hs)."""
    if _has_own_form(q):
        return cpu_ops.causal_attention(q, k, v, scale)
    if q.shape[-1] in FUSED_HEAD_SIZES:
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask="causal")
    # MLX would take this apart itself, into more operations: here scale and mask go into the first product
    Tq, T = q.shape[2], k.shape[2]
    mask = mx.where(mx.tri(Tq, T, T - Tq, mx.bool_), 0.0, -math.inf).astype(q.dtype)
    # precise: a sum of many bfloat16 numbers needs more digits than they have
    return mx.softmax(mx.addmm(mask, q, k.swapaxes(-1, -2), alpha=scale), axis=-1, precise=True) @ v


def cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    """Nats that each of `targets` (B, T) costs under `logits` (B, T, V), which are taken as float32: (B, T)."""
    logits = logits.astype(mx.float32)
    if _has_own_form(logits) and logits.shape[-1] <= cpu_ops.LARGEST_VOCABULARY:
        return cpu_ops.cross_entropy(logits, targets)
    return nn.losses.cross_entropy(logits, targets)
