"""The operations of the model as MLX's CPU backend on Linux computes them fastest; `layers.py` says when they are used.

All in float32. What they gain there:
  - MLX's exp is scalar on x86-64, 13 ns an element. Written as arithmetic it is fused into loops that the compiler
    vectorises, ten times as fast; so are the softmax and the tanh of GELU.
  - The host needs some 8 us for every node of the graph, a view or not. Gradients written by hand need half of them.
"""

import math
from collections.abc import Callable
from functools import cache

import mlx.core as mx

LN_2 = math.log(2)
GELU_SCALE, GELU_CUBIC = 2 * math.sqrt(2 / math.pi), 0.044715


def with_gradient(vjp: Callable) -> Callable:
    """Give an operation a gradient of its own: `vjp` of its arguments, the cotangents and its results.

    MLX would compute that on the stream that is the default by then, and the parts of a batch would wait for each other;
    here it stays on the stream of the operation.
    """

    def decorate(operation: Callable) -> Callable:
        def apply(*arrays: mx.array):
            stream = mx.default_stream(mx.default_device())
            function = mx.custom_function(operation)

            @function.vjp
            def on_the_same_stream(primals, cotangents, outputs):
                with mx.stream(stream):
                    return vjp(primals, cotangents, outputs)

            return function(*arrays)

        return apply

    return decorate


def linear(x: mx.array, weight: mx.array, bias: mx.array | None = None) -> mx.array:
    """x (N, I), weight (O, I), bias (O,) -> (N, O)."""
    return _linear(x, weight) if bias is None else _linear(x, weight, bias)


def _linear_vjp(primals, dy, _):
    x, weight, *bias = primals
    return dy @ weight, dy.T @ x, *(dy.sum(axis=0) for _ in bias)


@with_gradient(_linear_vjp)
def _linear(x: mx.array, weight: mx.array, *bias: mx.array) -> mx.array:
    return mx.addmm(*bias, x, weight.T) if bias else x @ weight.T


def layer_norm(x: mx.array, weight: mx.array, bias: mx.array | None, eps: float) -> mx.array:
    """x (N, C), weight and bias (C,). Sums over channels and tokens are matrix products, which are vectorised."""

    def vjp(primals, cotangents, outputs):
        (x, weight, _), (dy, _, _), (_, mean, scale) = primals, cotangents, outputs
        C = x.shape[-1]
        x_hat = (x - mean) * scale
        product = dy * x_hat
        column = (weight / C).reshape(C, 1)
        dx = scale * (dy * weight - dy @ column - x_hat * (product @ column))
        ones = _full((1, len(x)), 1.0)
        return dx, *((ones @ each).reshape(C) for each in (product, dy))

    @with_gradient(vjp)
    def normalised(x: mx.array, weight: mx.array, bias: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        C = x.shape[-1]
        average = _full((C, 1), 1 / C)
        mean = x @ average  # (N, 1)
        scale = mx.rsqrt(mx.square(x - mean) @ average + eps)
        return (x - mean) * scale * weight + bias, mean, scale

    return normalised(x, weight, mx.zeros_like(weight) if bias is None else bias)[0]


def _relu_vjp(x, dy, y):
    # the bits of a positive float32 are a positive integer; booleans would keep the loop from being vectorised
    return dy * mx.clip(y.view(mx.int32), 0, 1).astype(mx.float32)


@with_gradient(_relu_vjp)
def relu(x: mx.array) -> mx.array:
    """The larger of x and 0."""
    return mx.maximum(x, 0.0)


def gelu(x: mx.array) -> mx.array:
    """The GELU with a tanh: x times the logistic function of twice what the tanh is of."""
    return _gelu(x)[0]


def _gelu_vjp(x, cotangents, outputs):
    (dy, _), (_, s) = cotangents, outputs
    return dy * (s + x * s * (1 - s) * (GELU_SCALE * (1 + 3 * GELU_CUBIC * x * x)))


@with_gradient(_gelu_vjp)
def _gelu(x: mx.array) -> tuple[mx.array, mx.array]:
    z = GELU_SCALE * x * (1 + GELU_CUBIC * x * x)
    s = 1 / (
        1 + exp2(mx.minimum(z / -LN_2, 120.0))
    )  # 2^120 is still a float32, and its inverse nothing beside any other
    return x * s, s


def causal_attention(q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
    """Softmax attention in which no query sees a later key; all arrays (B, nh, T, hs).

    The scores are kept transposed, keys by queries: sums and maxima then run along whole rows of memory.
    """

    def vjp(primals, cotangents, outputs):
        (q, k, v), (dy, _, _), (y, p, total) = primals, cotangents, outputs
        g = dy / total
        ds = (v @ g.swapaxes(-1, -2) - (g * y).sum(axis=-1)[..., None, :]) * p * scale  # (B, nh, T keys, T queries)
        return ds.swapaxes(-1, -2) @ k, ds @ q, p @ g

    @with_gradient(vjp)
    def attention(q: mx.array, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        s = mx.addmm(_mask(q.shape[2]), k, q.swapaxes(-1, -2), alpha=scale / LN_2)  # (B, nh, T keys, T queries)
        p = exp2(s - s.max(axis=-2, keepdims=True))
        total = p.sum(axis=-2)[..., None]  # (B, nh, T queries, 1)
        y = (p.swapaxes(-1, -2) @ v).swapaxes(1, 2) / total.swapaxes(1, 2)  # (B, T, nh, hs), as what reads it wants it
        return y.swapaxes(1, 2), p, total

    # every product would copy an operand whose rows are not side by side
    return attention(q, k, v)[0]


def cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    """logits (..., V), targets (...) -> nats (...)."""
    return _cross_entropy(logits, targets)[0]


def _cross_entropy_vjp(primals, cotangents, outputs):
    (logits, targets), (dy, _, _), (_, p, total) = primals, cotangents, outputs
    is_target = mx.arange(logits.shape[-1], dtype=targets.dtype) == targets[..., None]  # (..., V)
    return (p / total - is_target) * dy[..., None], mx.zeros_like(targets)


@with_gradient(_cross_entropy_vjp)
def _cross_entropy(logits: mx.array, targets: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    s = logits - logits.max(axis=-1, keepdims=True)
    p = exp2(s / LN_2)
    total = p.sum(axis=-1, keepdims=True)
    return mx.log(total[..., 0]) - mx.take_along_axis(s, targets[..., None], axis=-1)[..., 0], p, total


def exp2(x: mx.array) -> mx.array:
    """2^x for x <= 120, to a relative error of 3e-7 or an absolute one of 1e-38; exactly 0 up to -127. Has no gradient.

    2^n times 2^f, with n the whole number nearest to x and f from -0.5 to 0.5: 2^f by its Taylor series, and n added to
    its exponent, in the bits of the float.
    """
    shape, x = (
        x.shape,
        x.reshape(-1),
    )  # a broadcast operand within reach would be fused in, and the loops no longer vectorised
    x = mx.maximum(x, -127.0)
    shifted = x + 1.5 * 2**23  # too large for a fraction: rounds to n, and holds n in its lowest bits
    f = x - (shifted - 1.5 * 2**23)
    a = [LN_2**i / math.factorial(i) for i in range(7)]
    f2 = f * f
    power = (a[0] + a[1] * f) + f2 * ((a[2] + a[3] * f) + f2 * ((a[4] + a[5] * f) + f2 * a[6]))
    bits = power.view(mx.int32) + mx.left_shift(shifted.view(mx.int32), 23)
    return mx.maximum(bits, 0).view(mx.float32).reshape(shape)


@cache
def _mask(T: int) -> mx.array:
    mask = mx.where(mx.triu(mx.ones((T, T), dtype=mx.bool_)), 0.0, -math.inf)  # (T keys, T queries)
    mx.eval(mask)  # or it would be computed anew within every fused loop that reads it
    return mask


@cache
def _full(shape: tuple[int, ...], value: float) -> mx.array:
    array = mx.full(shape, value)
    mx.eval(array)
    return array
