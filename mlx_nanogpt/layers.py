"""The layers that a GPT needs and `mlx.nn` lacks. They are leaves, so a machine may compute them in another way."""

import math
from functools import lru_cache

import mlx.core as mx
import mlx.nn as nn

FUSED_HEAD_SIZES = (64, 72, 80, 96, 128, 192, 256)  # for which MLX 0.32.4 has attention as one kernel on a GPU
FEW_QUERIES = 8  # for which Metal's kernel has no gradient, and raises


class CausalAttention(nn.Module):
    """Softmax attention: q (B, nh, T, hs), k and v (B, nh, keys, hs) -> (B, nh, T, hs).

    `mask` (T, keys) is added to the scaled scores. Without a mask there are T keys, and no query sees a later one.
    """

    def __call__(self, q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | None = None) -> mx.array:
        T, head_size = q.shape[2:]
        if head_size in FUSED_HEAD_SIZES and (mask is not None or T > FEW_QUERIES):
            return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask="causal" if mask is None else mask)
        # MLX has no kernel with a gradient here, and would run more operations: this product includes scale and mask
        mask = causal_mask(T, q.dtype) if mask is None else mask
        # precise, because a sum of many bfloat16 numbers needs more digits than bfloat16 has
        return mx.softmax(mx.addmm(mask, q, k.swapaxes(-1, -2), alpha=scale), axis=-1, precise=True) @ v


@lru_cache(maxsize=2)  # training and evaluation may differ in their dtype
def causal_mask(T: int, dtype: mx.Dtype) -> mx.array:
    """(T, T): 0 where the query of the row sees the key of the column, minus infinity elsewhere. All layers share it."""
    mask = mx.where(mx.tri(T, dtype=mx.bool_), 0.0, -math.inf).astype(dtype)
    mx.eval(mask)  # as an operation of a traced graph it would be computed at every step
    return mask


class SwiGLU(nn.Module):
    """A gate decides how much of each channel passes (Shazeer 2020)."""

    def __call__(self, gate: mx.array, x: mx.array) -> mx.array:
        return nn.silu(gate) * x


class CrossEntropy(nn.Module):
    """logits (..., vocab_size), targets (...) -> nats (...), float32."""

    def __call__(self, logits: mx.array, targets: mx.array) -> mx.array:
        return nn.losses.cross_entropy(logits.astype(mx.float32), targets)
