"""The threads of MLX's CPU backend on Linux.

MLX computes one operation at a time on a stream, so a second core would idle. Therefore the parts of a batch go to streams of
their own. One thread, the host, builds the graph and hands each operation to the thread of its stream.
"""

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from itertools import accumulate, count, pairwise

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from ...model import GPT, random_key, set_random_key

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
MAX_STREAMS = 4  # one host serves all of them; more than two were never measured
PROBED_TOKENS = 8  # of a row
PROBE_ROUNDING = 1e-5  # of losses of some ten nats, in float32


def spread_loss(model: GPT) -> None:
    """Let `model.loss` compute the parts of a batch on all streams, unless the model has a loss of its own or its rows see each
    other."""
    if getattr(model.loss, "func", None) is _loss_of_parts:
        del model.loss  # the model may have got other blocks since
    if getattr(model.loss, "__func__", None) is GPT.loss and _rows_are_independent(model):
        # a copy of the model gets a loss of its own
        model.loss = partial(_loss_of_parts, model)  # type: ignore[method-assign]


def _loss_of_parts(model: GPT, idx: mx.array, targets: mx.array) -> mx.array:
    """`GPT.loss`, idx and targets (B, T) -> a scalar."""
    B, workers = idx.shape[0], streams()
    total = mx.array(0.0)
    for stream, (start, stop) in zip(workers, pairwise(part_edges(B, len(workers)))):
        with mx.stream(stream):
            part = GPT.loss(model, idx[start:stop], targets[start:stop]) * ((stop - start) / B)
        total = total + part
    return total


def _rows_are_independent(model: GPT) -> bool:
    """Whether the losses of a row stay when another row is left out. A block of the user's own may normalise over the batch."""
    modules = [(module, module.training) for module in model.modules()]
    dropouts = [module for module, _ in modules if isinstance(module, nn.Dropout)]
    if any(type(dropout) is not nn.Dropout and dropout._p_1 < 1 for dropout in dropouts):
        return False  # it may draw one mask for all rows, as that of a rank does
    key, weights, seeds = random_key(), model.parameters(), count()
    shape = 2, min(model.config.block_size, PROBED_TOKENS)
    idx = mx.random.randint(0, model.config.vocab_size, shape, key=mx.random.key(next(seeds)))
    try:
        # other weights, because a head of zeros would hide everything
        model.update(tree_map(lambda p: p + _draw(p.shape, next(seeds)).astype(p.dtype), weights))
        for dropout in dropouts:
            dropout.eval()  # the mask of a row depends on the size of a batch
        both, *alone = (model.token_losses(rows, rows) for rows in (idx, idx[:1], idx[1:]))
        together = mx.concatenate(alone)
        return both.shape == idx.shape and mx.allclose(both, together, PROBE_ROUNDING, PROBE_ROUNDING).item()
    except Exception:  # of the user's own code: the step will raise it
        return False
    finally:
        model.update(weights)
        for module, mode in modules:
            module.train(mode)
        set_random_key(key)


def _draw(shape: tuple[int, ...], seed: int) -> mx.array:
    return 0.1 * mx.random.normal(shape, key=mx.random.key(seed))


def in_parts(function: Callable[[mx.array], mx.array]) -> Callable[[mx.array], mx.array]:
    """`function`, which treats each item along the first axis alike, of parts of its argument on all streams."""

    def of_parts(x: mx.array) -> mx.array:
        workers, parts = streams(), []
        for stream, (start, stop) in zip(workers, pairwise(part_edges(len(x), len(workers)))):
            with mx.stream(stream):
                parts.append(function(x[start:stop]))
        return mx.concatenate(parts)

    return of_parts


def part_edges(B: int, most: int) -> list[int]:
    """The edges of up to `most` parts of a batch, all of different sizes. A small B has fewer parts.

    mx.compile merges equal constants of equal shape, even across streams. A loop that reads a constant of another stream is
    not vectorised: with two equal halves a step takes 1.1 times as long.
    """
    n = max(n for n in range(1, most + 1) if n * (n + 1) // 2 <= B)
    smallest, rest = divmod(B - n * (n - 1) // 2, n)
    return [0, *accumulate(smallest + i + (i >= n - rest) for i in range(n))]


class _Streams(threading.local):
    """The streams that a thread made. No other thread may use them, so a dictionary by thread identity would not do."""

    def __init__(self):
        self.all: tuple[mx.Stream, ...] = ()
        self.on_core: dict[int, mx.Stream] = {}


_made = _Streams()


def streams() -> tuple[mx.Stream, ...]:
    """One stream for each core, at most MAX_STREAMS."""
    if not _made.all:
        _set_up_process()
        _schedule_as_batch()
        _made.all = tuple(mx.new_stream(mx.cpu) for _ in range(min(len(os.sched_getaffinity(0)), MAX_STREAMS)))
    return _made.all


@contextmanager
def one_core() -> Iterator[None]:
    """Keep the calling thread, and the thread of a stream, on the same core.

    MLX hands each operation from one to the other. To wake a thread on another core takes longer than most operations on a
    single text.
    """
    streams()  # before: these threads may use all cores
    cores = os.sched_getaffinity(0)
    core = max(cores)
    os.sched_setaffinity(0, {core})
    try:
        if core not in _made.on_core:
            _made.on_core[core] = mx.new_stream(mx.cpu)  # its thread inherits the core
        with mx.stream(_made.on_core[core]):
            yield
    finally:
        os.sched_setaffinity(0, cores)


def _schedule_as_batch() -> None:
    """Do not let the host interrupt the threads that compute.

    MLX wakes the host after every ten operations, and the host would stop the thread that woke it. This lasts for the life of
    the thread, and the threads that it starts inherit it.
    """
    if os.sched_getscheduler(0) == os.SCHED_OTHER:
        with suppress(OSError):  # a container may forbid it: then all works, but slower
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


@cache
def _set_up_process() -> None:
    """Set up the whole process, once.

    OpenBLAS uses one thread, because the streams already use all cores. malloc keeps freed memory: memory that goes back to
    the system returns page by page, which takes 15% of an evaluation's time.
    """
    process = ctypes.CDLL(None)
    try:
        process.scipy_openblas_set_num_threads(1)
    except AttributeError:  # another BLAS is in use; it has one thread
        pass
    process.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    process.mallopt(M_MMAP_THRESHOLD, 2**25)  # the largest value that malloc accepts
