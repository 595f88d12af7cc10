"""The operations of a GPT, in float32, in the forms that MLX's CPU backend on Linux computes fastest.

Why they are faster there:
  - MLX's exp is scalar on x86-64 and takes 13 ns an element. As arithmetic it becomes a loop that the compiler vectorises,
    ten times as fast. This serves the softmax and the tanh of GELU.
  - The host needs some 8 µs for each node of the graph, even for a view. Gradients by hand need fewer nodes.
  - A loop that mx.compile fuses with a broadcast operand is not vectorised. MLX's own loop over a view of the operand is.
"""

import math
from collections.abc import Callable
from functools import lru_cache, wraps

import mlx.core as mx
import numpy as np

LN_2 = math.log(2)
SMALL_ARRAY = 4096  # elements; below this, a view saves less than its node costs
LARGEST_VOCABULARY = 8192  # the cross-entropy here holds up to ten arrays of the vocabulary's width, MLX's own four
GELU_SCALE, GELU_CUBIC = 2 * math.sqrt(2 / math.pi), 0.044715


def with_gradient(vjp: Callable) -> Callable:
    """Give an operation its own gradient, `vjp(arguments, cotangents, results)`.

    MLX would compute it on the default stream of that moment, and the parts of a batch would wait for each other. Here it
    stays on the stream of the operation.
    """

    def decorate(operation: Callable) -> Callable:
        @wraps(operation)
        def apply(*arrays: mx.array) -> mx.array | tuple[mx.array, ...]:
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
    return dy @ weight, dy.T @ x, *(_sum_of_rows(dy) for _ in bias)


@with_gradient(_linear_vjp)
def _linear(x: mx.array, weight: mx.array, *bias: mx.array) -> mx.array:
    y = x @ weight.T
    return y + broadcast_view(bias[0], y.shape) if bias else y


def layer_norm(x: mx.array, weight: mx.array, bias: mx.array | None, eps: float) -> mx.array:
    """x (N, C), weight and bias (C,) -> (N, C)."""

    def vjp(primals, cotangents, outputs):
        (_, weight, _), (dy, _, _), (_, x_hat, scale) = primals, cotangents, outputs
        # with g = dy * weight: dx = scale * (g - mean(g) - x_hat * mean(g * x_hat)); both means are products with this
        weighted_mean = (weight / weight.size).reshape(-1, 1)  # (C, 1)
        product = dy * x_hat
        # one fused loop; five operations over views took longer
        dx = scale * (dy * weight - dy @ weighted_mean - x_hat * (product @ weighted_mean))
        return dx, _sum_of_rows(product), _sum_of_rows(dy)

    @with_gradient(vjp)
    def normalised(x: mx.array, weight: mx.array, bias: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        x_hat, scale = unit_variance(x - broadcast_view(_mean(x), x.shape), eps)
        return x_hat * weight + bias, x_hat, scale  # one fused loop; two operations over views were no faster

    return normalised(x, weight, mx.zeros_like(weight) if bias is None else bias)[0]


def rms_norm(x: mx.array, weight: mx.array, eps: float) -> mx.array:
    """x (N, C), weight (C,) -> (N, C)."""

    def vjp(primals, cotangents, outputs):
        (_, weight), (dy, _, _), (_, x_hat, scale) = primals, cotangents, outputs
        # with g = dy * weight: dx = scale * (g - x_hat * mean(g * x_hat))
        weighted_mean = (weight / weight.size).reshape(-1, 1)  # (C, 1)
        product = dy * x_hat
        return scale * (dy * weight - x_hat * (product @ weighted_mean)), _sum_of_rows(product)

    @with_gradient(vjp)
    def normalised(x: mx.array, weight: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        x_hat, scale = unit_variance(x, eps)
        return x_hat * weight, x_hat, scale

    return normalised(x, weight)[0]


def unit_variance(x: mx.array, eps: float) -> tuple[mx.array, mx.array]:
    """x (..., C) -> x divided by the root mean square of its row (..., C), and the factor (..., 1). With rows of mean 0 that is the
    deviation."""
    scale = mx.rsqrt(_mean(mx.square(x)) + eps)  # (..., 1)
    return x * broadcast_view(scale, x.shape), scale


# Sums as matrix products: MLX's own are not vectorised.


def _mean(x: mx.array) -> mx.array:
    """(..., C) -> (..., 1)."""
    C = x.shape[-1]
    return x @ _constant((*[1] * (x.ndim - 2), C, 1), 1 / C)


def _sum_of_rows(x: mx.array) -> mx.array:
    """(N, C) -> (C,)."""
    return (_constant((1, len(x)), 1.0) @ x).reshape(-1)


def _relu_vjp(x, dy, y):
    # as integers, the bits of a positive float32 are positive; a loop with booleans would not be vectorised
    return dy * mx.clip(y.view(mx.int32), 0, 1).astype(mx.float32)


@with_gradient(_relu_vjp)
def relu(x: mx.array) -> mx.array:
    """The larger of x and 0."""
    return mx.maximum(x, 0.0)


def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """gate * sigmoid(gate) * x."""
    return _swiglu(gate, x)[0]


# 1 + e stands here in three forms: mx.compile would store a sum that several loops read, which takes longer than to add again.


def _swiglu_vjp(primals, cotangents, outputs):
    (gate, x), (dy, _), (_, e) = primals, cotangents, outputs
    s = 1 / (e + 1)  # sigmoid(gate)
    return dy * x * (s + gate * s * (1 - s)), dy * gate / (e - -1)


@with_gradient(_swiglu_vjp)
def _swiglu(gate: mx.array, x: mx.array) -> tuple[mx.array, mx.array]:
    e = _exp_of_minus(gate)
    return gate * x / (1 + e), e


def sigmoid(x: mx.array) -> mx.array:
    """1 / (1 + exp(-x)). It has no gradient. 1 + 2^120 does not overflow, and its inverse is 0 for all purposes."""
    return 1 / (1 + _exp_of_minus(x))


def _exp_of_minus(x: mx.array) -> mx.array:
    """exp(-x), at most 2^120. It has no gradient."""
    return exp2(mx.minimum(x / -LN_2, 120.0))


def _rope_vjp(primals, dx, _):
    # the gradient of a rotation turns back
    _, cos, sin = primals
    return turned(dx, cos, -sin), mx.zeros_like(cos), mx.zeros_like(sin)


@with_gradient(_rope_vjp)
def _rope(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    return turned(x, cos, sin)


def rope(x: mx.array, base: float, offset: int | mx.array = 0) -> mx.array:
    """Rotary positions: x (B, nh, T, hs), whose first position is `offset` -> (B, nh, T, hs)."""
    T, head_size = x.shape[2:]
    if type(offset) is int and offset == 0:
        return _rope(x, *angles(T, head_size, base))
    # mx.compile merges these for all layers, where MLX's own rotation computes angles for every q and k
    angle = (offset + mx.arange(T))[:, None] * _frequencies(head_size, base)  # (T, hs)
    return turned(x, mx.cos(angle), mx.sin(angle))


def turned(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """Channel i and channel i + hs/2 of x (B, nh, T, hs) are a pair, and turn together; cos and sin are (T, hs)."""
    # small products, which OpenBLAS multiplies without packing them
    partners = x @ _partners(x.shape[-1])  # (B, nh, T, hs)
    return unfused(x * broadcast_view(cos, x.shape)) + unfused(partners * broadcast_view(sin, x.shape))


def gelu(x: mx.array) -> mx.array:
    """The GELU with a tanh, as x * sigmoid(2 z) with z the argument of the tanh. Its gradient is right up to |x| = 1e10."""
    return _gelu(x)[0]


def _gelu_vjp(x, cotangents, outputs):
    (dy, _), (_, s) = cotangents, outputs
    return dy * (s + x * s * (1 - s) * (GELU_SCALE * (1 + 3 * GELU_CUBIC * x * x)))


@with_gradient(_gelu_vjp)
def _gelu(x: mx.array) -> tuple[mx.array, mx.array]:
    z = GELU_SCALE * x * (1 + GELU_CUBIC * x * x)
    s = sigmoid(z)
    return x * s, s


def causal_attention(q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
    """Softmax attention in which no query sees a later key: q, k and v (B, nh, T, hs) -> (B, nh, T, hs).

    The scores are transposed, keys by queries, so that sums and maxima run along rows of memory.
    """

    def vjp(primals, cotangents, outputs):
        (q, k, v), (dy, _, _), (y, p, total) = primals, cotangents, outputs
        g = dy / total
        sums = (g * y).sum(axis=-1)[..., None, :]  # (B, nh, 1, T queries)
        ds = v @ g.swapaxes(-1, -2) - broadcast_view(sums, p.shape)  # (B, nh, T keys, T queries)
        ds = unfused(ds) * p * scale
        return ds.swapaxes(-1, -2) @ k, ds @ q, p @ g

    @with_gradient(vjp)
    def attention(q: mx.array, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        s = (k * (scale / LN_2)) @ q.swapaxes(-1, -2)  # (B, nh, T keys, T queries)
        s = s + _mask(s.shape)
        p = exp2(s - broadcast_view(s.max(axis=-2, keepdims=True), s.shape))
        total = p.sum(axis=-2)[..., None]  # (B, nh, T, 1)
        y = (p.swapaxes(-1, -2) @ v).swapaxes(1, 2) / total.swapaxes(1, 2)  # (B, T, nh, hs), as the next layer reads it
        return y.swapaxes(1, 2), p, total

    return attention(q, k, mx.contiguous(v))[0]  # two products read v, and each would make a copy


def cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    """logits (..., V), targets (...) -> nats (...)."""
    return _cross_entropy(logits, targets)[0]


def _cross_entropy_vjp(primals, cotangents, outputs):
    (logits, targets), (dy, _, _), (_, p, total) = primals, cotangents, outputs
    is_target = mx.arange(logits.shape[-1], dtype=targets.dtype) == targets[..., None]  # (..., V)
    return (p / total - is_target) * dy[..., None], mx.zeros_like(targets)


@with_gradient(_cross_entropy_vjp)
def _cross_entropy(logits: mx.array, targets: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    greatest = logits.max(axis=-1, keepdims=True)  # (..., 1)
    p = exp2((logits - greatest) / LN_2)
    total = p.sum(axis=-1, keepdims=True)  # (..., 1)
    of_target = mx.take_along_axis(logits, targets[..., None], axis=-1) - greatest  # (..., 1)
    return (mx.log(total) - of_target)[..., 0], p, total


def broadcast_view(x: mx.array, shape: tuple[int, ...]) -> mx.array:
    """A view of `x`, which is contiguous, broadcast to `shape`. mx.compile cannot fuse it: 0.1 ns an element, where a fused
    loop takes 0.6. For a small shape it returns `x` itself, and the next operation broadcasts it.

    Use the view in one operation only: a loop that is fused with that operation is not vectorised either. Raises `ValueError`
    if `x` does not fit `shape`.
    """
    if mx.broadcast_shapes(x.shape, shape) != tuple(shape):
        raise ValueError(f"shape {x.shape} cannot be broadcast to {shape}")
    if math.prod(shape) < SMALL_ARRAY:
        return x
    sizes = (1,) * (len(shape) - x.ndim) + x.shape
    strides = [0 if size == 1 else math.prod(sizes[i + 1 :]) for i, size in enumerate(sizes)]
    return mx.as_strided(x, shape, strides)


def unfused(x: mx.array) -> mx.array:
    """`x`, or if it is large a view that mx.compile cannot fuse. For the result of an operation on a `broadcast_view`."""
    return x if x.size < SMALL_ARRAY else mx.contiguous(x)


def exp2(x: mx.array) -> mx.array:
    """2^x for x <= 120, to a relative error of 3e-7 or an absolute one of 1e-38; exactly 0 up to -127.

    It is 2^n * 2^f, with n the whole number nearest to x and f from -0.5 to 0.5. A Taylor series gives 2^f, and n is added to
    the exponent in its bits. It has no gradient, and NaN may become 0: the caller must handle both.
    """
    # flat, so that no broadcast operand is fused into these loops, which would not be vectorised then
    flat = mx.maximum(x.reshape(-1), -127.0)
    f = flat - _whole(flat, 1.5 * 2**23)
    a = [LN_2**i / math.factorial(i) for i in range(7)]
    f2 = f * f
    power = (a[0] + a[1] * f) + f2 * ((a[2] + a[3] * f) + f2 * ((a[4] + a[5] * f) + f2 * a[6]))
    # round again, with another number: mx.compile would store the first result in memory instead of computing it twice
    n = _whole(flat, 1.5 * 2**23 + 2).astype(mx.int32)
    bits = power.view(mx.int32) + mx.left_shift(n, 23)
    return mx.maximum(bits, 0).view(mx.float32).reshape(x.shape)


def _whole(x: mx.array, large: float) -> mx.array:
    """The whole number nearest to x, and the even one of two. At the size of `large`, which is even, a float32 has no bits
    left for a fraction."""
    return (x + large) - large


# All are evaluated at once: as operations of a traced graph they would be computed at every step.


@lru_cache(maxsize=16)
def _mask(shape: tuple[int, ...]) -> mx.array:
    """(T keys, T queries), or a view of it as `shape`, (..., T, T): 0 where the query may see the key, minus infinity elsewhere."""
    seen = np.tri(shape[-1], dtype=bool).T
    mask = broadcast_view(mx.array(np.where(seen, np.float32(0), np.float32(-np.inf))), shape)
    mx.eval(mask)
    return mask


@lru_cache(maxsize=4)
def angles(T: int, head_size: int, base: float) -> tuple[mx.array, mx.array]:
    """The cosine and the sine of the angles of positions 0 to T - 1, (T, hs) each."""
    angle = np.outer(np.arange(T), _frequencies64(head_size, base))  # (T, hs)
    tables = mx.array(np.cos(angle), mx.float32), mx.array(np.sin(angle), mx.float32)
    mx.eval(tables)
    return tables


def _frequencies64(head_size: int, base: float) -> np.ndarray:
    """The angle between two positions for each channel, (hs,)."""
    return np.tile(base ** (-np.arange(0, head_size, 2) / head_size), 2)


@lru_cache(maxsize=4)  # mx.compile merges what is computed from one array
def _frequencies(head_size: int, base: float) -> mx.array:
    return mx.array(_frequencies64(head_size, base), mx.float32)


@lru_cache(maxsize=4)
def _partners(head_size: int) -> mx.array:
    """(1, 1, hs, hs): a product with it gives the partner of each channel, that of the first half with a minus sign."""
    partners = np.roll(np.eye(head_size, dtype=np.float32), head_size // 2, axis=1)
    partners[head_size // 2 :] *= -1
    matrix = mx.array(partners)[None, None]
    mx.eval(matrix)
    return matrix


@lru_cache(maxsize=64)
def _constant(shape: tuple[int, ...], value: float) -> mx.array:
    return mx.array(np.full(shape, value, np.float32))
