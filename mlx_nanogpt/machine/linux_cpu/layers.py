"""Leaves in the forms that MLX's CPU backend on Linux computes fastest, for float32; otherwise the plain leaf computes."""

import mlx.core as mx
import mlx.nn as nn

from ... import layers as plain
from ..leaves import replace_leaves
from . import operations


def are_float32(*arrays: mx.array) -> bool:
    return all(array.dtype == mx.float32 for array in arrays)


class Linear(nn.Linear):
    """(..., I) -> (..., O)."""

    def __call__(self, x: mx.array) -> mx.array:
        # outside training, MLX's own layer is faster for a large model
        if not (self.training and x.size and are_float32(x, self.weight)):
            return super().__call__(x)
        y = operations.linear(x.reshape(-1, x.shape[-1]), self.weight, self.get("bias"))  # (N, O)
        return y.reshape(*x.shape[:-1], -1)


class LayerNorm(nn.LayerNorm):
    """(..., C) -> (..., C)."""

    def __call__(self, x: mx.array) -> mx.array:
        if "weight" not in self or not are_float32(x, self.weight):
            return super().__call__(x)
        rows = x.reshape(-1, x.shape[-1])  # (N, C)
        return operations.layer_norm(rows, self.weight, self.get("bias"), self.eps).reshape(x.shape)


class RMSNorm(nn.RMSNorm):
    """(..., C) -> (..., C)."""

    def __call__(self, x: mx.array) -> mx.array:
        if not are_float32(x, self.weight):
            return super().__call__(x)
        return operations.rms_norm(x.reshape(-1, x.shape[-1]), self.weight, self.eps).reshape(x.shape)


class RoPE(nn.RoPE):
    """(B, nh, T, hs) -> (B, nh, T, hs)."""

    def __call__(self, x: mx.array, offset: int | mx.array = 0) -> mx.array:
        if not are_float32(x) or self.traditional or self.scale != 1 or x.ndim != 4 or x.shape[-1] != self.dims:
            return super().__call__(x, offset)
        return operations.rope(x, self.base, offset)


class ReLU(nn.ReLU):
    def __call__(self, x: mx.array) -> mx.array:
        return operations.relu(x) if are_float32(x) else super().__call__(x)


class GELU(nn.GELU):
    def __call__(self, x: mx.array) -> mx.array:
        plain_form = not are_float32(x) or self._approx not in ("tanh", "precise")
        return super().__call__(x) if plain_form else operations.gelu(x)


class ReLU2(nn.ReLU2):
    def __call__(self, x: mx.array) -> mx.array:
        return operations.relu2(x) if are_float32(x) else super().__call__(x)


class SwiGLU(plain.SwiGLU):
    def __call__(self, gate: mx.array, x: mx.array) -> mx.array:
        fast = gate.shape == x.shape and are_float32(gate, x)
        return operations.swiglu(gate, x) if fast else super().__call__(gate, x)


class CausalAttention(plain.CausalAttention):
    def __call__(self, q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | None = None) -> mx.array:
        if mask is not None or q.ndim != 4 or not q.shape == k.shape == v.shape or not are_float32(q, k, v):
            return super().__call__(q, k, v, scale, mask)
        return operations.causal_attention(q, k, v, scale)


class CrossEntropy(plain.CrossEntropy):
    def __call__(self, logits: mx.array, targets: mx.array) -> mx.array:
        if logits.shape[-1] > operations.LARGEST_VOCABULARY or targets.ndim != logits.ndim - 1:
            return super().__call__(logits, targets)
        return operations.cross_entropy(logits.astype(mx.float32), targets)


OWN = {
    nn.Linear: Linear,
    nn.LayerNorm: LayerNorm,
    nn.RMSNorm: RMSNorm,
    nn.RoPE: RoPE,
    nn.ReLU: ReLU,
    nn.GELU: GELU,
    nn.ReLU2: ReLU2,
    plain.SwiGLU: SwiGLU,
    plain.CausalAttention: CausalAttention,
    plain.CrossEntropy: CrossEntropy,
}


def use_own(model: nn.Module) -> None:
    """Give each leaf of `model` its class in `OWN`, in place."""
    replace_leaves(model, OWN)
