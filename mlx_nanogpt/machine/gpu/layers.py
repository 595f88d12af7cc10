"""Layers of a GPT with better gradients for a GPU: fewer kernels, less memory, or no atomic additions. `use_own` puts them
into a model.

All of it is plain MLX. The results are those of MLX's own layers, up to the rounding of sums and products.
"""

import math

import mlx.core as mx
import mlx.nn as nn

from ... import layers as plain
from ..leaves import replace_leaves

LARGEST_VOCABULARY = 4096  # for a gradient by a matrix product, whose cost grows with the vocabulary
GELU_SCALE, GELU_CUBIC = math.sqrt(2 / math.pi), 0.044715


class Embedding(nn.Embedding):
    """An embedding with a gradient that is the same each time.

    MLX's own adds up the rows of a token with atomic additions, in an arbitrary order. It is kept for a large vocabulary,
    where a step is therefore not deterministic on a GPU.
    """

    def __call__(self, idx: mx.array) -> mx.array:
        return embed(self.weight, idx) if len(self.weight) <= LARGEST_VOCABULARY else super().__call__(idx)


@mx.custom_function
def embed(weight: mx.array, idx: mx.array) -> mx.array:
    """weight (V, C), idx (...) -> (..., C)."""
    return weight[idx]


@embed.vjp
def _embed_vjp(primals, dy, _):
    weight, idx = primals
    rows = dy.reshape(-1, dy.shape[-1])  # (N, C)
    is_token = mx.arange(len(weight), dtype=idx.dtype)[:, None] == idx.reshape(-1)  # (V, N)
    return is_token.astype(dy.dtype) @ rows, mx.zeros_like(idx)


class GELU(nn.GELU):
    """The GELU with a tanh. Its gradient needs the input alone: one kernel each way, and no other array is kept."""

    def __call__(self, x: mx.array) -> mx.array:
        return gelu(x) if self._approx in ("tanh", "precise") else super().__call__(x)


@mx.custom_function
def gelu(x: mx.array) -> mx.array:
    """0.5 x (1 + tanh z), with z = GELU_SCALE x (1 + GELU_CUBIC x^2), as x sigmoid(2 z)."""
    return x * mx.sigmoid(x * (2 * GELU_SCALE + 2 * GELU_SCALE * GELU_CUBIC * (x * x)))


@gelu.vjp
def _gelu_vjp(x, dy, _):
    x2 = mx.square(x)  # not x * x: mx.compile would find it in the forward pass, and keep what follows from it
    s = mx.sigmoid(x * (2 * GELU_SCALE + 2 * GELU_SCALE * GELU_CUBIC * x2))
    return dy * (s + x * s * (1 - s) * (2 * GELU_SCALE + 6 * GELU_SCALE * GELU_CUBIC * x2))


class SwiGLU(plain.SwiGLU):
    """Its gradient needs the inputs alone: one kernel for the result and each gradient, and no other array is kept."""

    def __call__(self, gate: mx.array, x: mx.array) -> mx.array:
        return swiglu(gate, x) if gate.shape == x.shape else super().__call__(gate, x)


@mx.custom_function
def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """gate * sigmoid(gate) * x."""
    return gate * mx.sigmoid(gate) * x


@swiglu.vjp
def _swiglu_vjp(primals, dy, _):
    gate, x = primals
    s = 1 / (1 + mx.exp(-gate))  # the sigmoid in three forms: mx.compile would keep one that several kernels need
    return dy * x * s * (1 + gate * (1 - s)), dy * gate / (1 + mx.exp(gate * -1))


class Dropout(nn.Dropout):
    """A dropout whose mask stays a mask: it keeps a byte an element for its gradient, where MLX's own keeps a number."""

    def __call__(self, x: mx.array) -> mx.array:
        if self._p_1 == 1 or not self.training:
            return x
        return mx.where(mx.random.bernoulli(self._p_1, x.shape), x * (1 / self._p_1), 0)


class CrossEntropy(plain.CrossEntropy):
    """One kernel on a GPU, which adds bfloat16 logits in float32."""

    def __call__(self, logits: mx.array, targets: mx.array) -> mx.array:
        if mx.default_device() != mx.gpu or targets.ndim == logits.ndim:  # its targets cannot be distributions
            return super().__call__(logits, targets)
        return mx.fast.cross_entropy(logits, targets)


OWN = {
    nn.Embedding: Embedding,
    nn.GELU: GELU,
    plain.SwiGLU: SwiGLU,
    nn.Dropout: Dropout,
    plain.CrossEntropy: CrossEntropy,
}


def use_own(model: nn.Module) -> None:
    """Give each leaf of `model` its class in `OWN`, in place."""
    replace_leaves(model, OWN)
