"""What helps MLX's CPU backend on Linux and nothing else: where `in_use()` says no, as on a Mac, nothing here changes.

Measured at the default shape on two cores, the training step takes about half the time of the plain one:
  - two streams: MLX computes one operation at a time on one stream, and between matrix products a core idles;
  - exp: MLX's is scalar on x86-64, 13 ns an element, and attention takes six matrices of 524,288 a step. Written as
    arithmetic it is fused into loops that the compiler vectorises, ten times as fast. So is the tanh of GELU.
"""

import ctypes
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import mlx.core as mx

TOKENS_PER_BATCH = 2048  # of an evaluation: what a layer works on stays in a core's cache
# A larger model generates faster with all cores: 1.2 times at 10 million parameters, 1.7 at 124 million.
PARAMETERS_FOR_ONE_CORE = 4_000_000
GELU_SCALE, GELU_CUBIC = 2 * math.sqrt(2 / math.pi), 0.044715
MAX_STREAMS = 4  # one thread dispatches the operations of all; more than two were never measured on as many cores


def in_use() -> bool:
    """Whether MLX computes on the CPU of a Linux machine."""
    return sys.platform == "linux" and mx.default_device() == mx.cpu


if in_use():
    # MLX orders its work breadth first while the graph is narrow, then depth first: the streams would run in turn. It
    # looks at this once, when it first computes something.
    os.environ.setdefault("MLX_BFS_MAX_WIDTH", "100000")


def in_parallel(loss_fn: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """The same mean loss of a model over (idx, targets), both (B, T), from parts of the batch on streams of their own."""

    def loss(model, idx: mx.array, targets: mx.array) -> mx.array:
        B = idx.shape[0]
        workers = streams()[:B]
        edges = [i * B // len(workers) for i in range(len(workers) + 1)]
        total = mx.array(0.0)
        for stream, start, stop in zip(workers, edges, edges[1:]):
            with mx.stream(stream):
                part = loss_fn(model, idx[start:stop], targets[start:stop]) * ((stop - start) / B)
            total = total + part
        return total

    return loss


def streams() -> tuple[mx.Stream, ...]:
    """The streams to spread work over: one for each core up to MAX_STREAMS, or elsewhere MLX's default one."""
    return _cpu_streams(threading.get_ident()) if in_use() else (mx.default_stream(mx.default_device()),)


@cache
def _cpu_streams(thread: int) -> tuple[mx.Stream, ...]:
    """A stream belongs to the thread that made it."""
    use_one_blas_thread()
    return tuple(mx.new_stream(mx.cpu) for _ in range(min(len(os.sched_getaffinity(0)), MAX_STREAMS)))


@contextmanager
def one_core() -> Iterator[mx.Stream]:
    """Keep the calling thread on one core, and yield a stream whose thread is there, too.

    MLX hands every operation from the one to the other. To wake a thread on a core that idles takes longer than most
    operations on a single text.
    """
    use_one_blas_thread()
    cores = os.sched_getaffinity(0)
    core = max(cores)
    os.sched_setaffinity(0, {core})
    try:
        yield _stream_on(core, threading.get_ident())
    finally:
        os.sched_setaffinity(0, cores)


@cache
def _stream_on(core: int, thread: int) -> mx.Stream:
    """A stream's thread inherits the cores of the thread that made it; here that is `core` alone."""
    return mx.new_stream(mx.cpu)


@cache
def use_one_blas_thread() -> None:
    """Keep OpenBLAS from dividing a product among threads of its own: streams are the parallelism, and the products of
    a single text are so small that waking a thread takes longer than they do."""
    try:
        ctypes.CDLL(None).scipy_openblas_set_num_threads(1)
    except AttributeError:  # another BLAS is in use, which has one thread
        pass


def causal_attention(q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
    """Softmax attention in which no query sees a later key; all arrays (B, nh, T, hs).

    The scores are kept transposed, keys by queries: sums and maxima then run along whole rows of memory.
    """
    s = k @ q.swapaxes(-1, -2) + _mask(q.shape[2])  # (B, nh, T keys, T queries)
    s = s - mx.stop_gradient(s.max(axis=-2, keepdims=True))
    # flat: a broadcast operand within reach would be fused in and turn the vectorised loop into a scalar one
    p = exp(s.reshape(-1) * scale).reshape(s.shape)
    return (p.swapaxes(-1, -2) @ v) / p.sum(axis=-2)[..., None]


def gelu(x: mx.array) -> mx.array:
    """The GELU with a tanh, which MLX computes one by one as well: x times the logistic function of twice what the tanh
    is of."""
    return _gelu(x.reshape(-1)).reshape(x.shape)  # flat, as in attention


@mx.custom_function
def _gelu(x: mx.array) -> mx.array:
    return x * _logistic_of_cubic(x)


@_gelu.vjp
def _gelu_vjp(x: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    s = _logistic_of_cubic(x)
    return cotangent * (s + x * s * (1 - s) * (GELU_SCALE * (1 + 3 * GELU_CUBIC * x * x)))


def _logistic_of_cubic(x: mx.array) -> mx.array:
    z = GELU_SCALE * x * (1 + GELU_CUBIC * x * x)
    return 1 / (1 + exp(mx.minimum(-z, 80.0)))  # e^80 is still a float32, and its inverse nothing beside any other


@cache
def _mask(T: int) -> mx.array:
    mask = mx.where(mx.triu(mx.ones((T, T), dtype=mx.bool_)), 0.0, -math.inf)  # (T keys, T queries)
    mx.eval(mask)  # or it would be computed anew within every fused loop that reads it
    return mask


@mx.custom_function
def exp(x: mx.array) -> mx.array:
    """e^x for x <= 80, float32, to a relative error of 3e-7 + 1e-7 |x|; exactly 0 below -88, for -inf too.

    2^n times 2^f, with n the nearest whole number to x / ln 2, from the bits of a float, and 2^f by its Taylor series.
    """
    t = mx.maximum(x * (1 / math.log(2)), -127.0)  # 2^-127 has no bits left: zero
    shifted = t + 1.5 * 2**23  # too large for a fraction: rounds to n, and holds n in its lowest bits
    f = t - (shifted - 1.5 * 2**23)  # -0.5 to 0.5
    a = [math.log(2) ** i / math.factorial(i) for i in range(7)]
    f2 = f * f
    power = (a[0] + a[1] * f) + f2 * ((a[2] + a[3] * f) + f2 * ((a[4] + a[5] * f) + f2 * a[6]))
    n = shifted.view(mx.int32) - _bits(1.5 * 2**23)
    return power * mx.left_shift(n + 127, 23).view(mx.float32)


@exp.vjp
def _exp_vjp(x: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    return cotangent * output


def _bits(number: float) -> int:
    return mx.array(number).view(mx.int32).item()
