"""The threads of MLX's CPU backend on Linux.

MLX computes one operation at a time on one stream, and between matrix products a core idles: the parts of a batch go to
streams of their own. One thread, the host, builds the graph and hands every operation to the stream's thread.
"""

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import accumulate, pairwise

import mlx.core as mx

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
MAX_STREAMS = 4  # one thread dispatches the operations of all; more than two were never measured on as many cores


def in_parallel(loss_fn: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """The same mean loss of a model over (idx, targets), both (B, T), from parts of the batch on streams of their own."""

    def loss(model, idx: mx.array, targets: mx.array) -> mx.array:
        B, workers = idx.shape[0], streams()
        total = mx.array(0.0)
        for stream, (start, stop) in zip(workers, pairwise(part_edges(B, len(workers)))):
            with mx.stream(stream):
                part = loss_fn(model, idx[start:stop], targets[start:stop]) * ((stop - start) / B)
            total = total + part
        return total

    return loss


def part_edges(B: int, most: int) -> list[int]:
    """Where up to `most` parts of a batch begin and end, all of different sizes: fewer where B is too small.

    Of equal constants of equal shape mx.compile keeps one, whatever their streams. A loop that reads a constant of another
    stream is not fused with it and not vectorised: with two halves of the same size a step takes 1.1 times as long.
    """
    n = max(n for n in range(1, most + 1) if n * (n + 1) // 2 <= B)
    smallest, rest = divmod(B - n * (n - 1) // 2, n)
    return [0, *accumulate(smallest + i + (i >= n - rest) for i in range(n))]


class _Streams(threading.local):
    """What a thread made: MLX lets no other use it, and a later thread may well get the same identity."""

    def __init__(self):
        self.all: tuple[mx.Stream, ...] = ()
        self.on_core: dict[int, mx.Stream] = {}


_made = _Streams()


def streams() -> tuple[mx.Stream, ...]:
    """The streams to spread work over: one for each core up to MAX_STREAMS."""
    if not _made.all:
        _set_up_process()
        _schedule_as_batch()
        _made.all = tuple(mx.new_stream(mx.cpu) for _ in range(min(len(os.sched_getaffinity(0)), MAX_STREAMS)))
    return _made.all


@contextmanager
def one_core() -> Iterator[None]:
    """Keep the calling thread on one core, and compute on a stream whose thread is there, too.

    MLX hands every operation from the one to the other. To wake a thread on a core that idles takes longer than most
    operations on a single text.
    """
    streams()  # made while this thread may use all cores
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
    """Let the calling thread, the host, and those that it starts not preempt a thread that runs when they wake up.

    The host is woken whenever ten operations are done, and would stop the thread that woke it each time. It stays so for
    the life of the thread.
    """
    if os.sched_getscheduler(0) == os.SCHED_OTHER:
        with suppress(OSError):  # a container may forbid it or not know it; all works without, slower
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


@cache
def _set_up_process() -> None:
    """Settings of the whole process, for its life.

    OpenBLAS does not divide a product among threads of its own: streams are the parallelism, and the products of a single
    text are so small that waking a thread takes longer than they do. And malloc keeps what is freed: given back to the
    system it would come back page by page, 15% of an evaluation's time.
    """
    process = ctypes.CDLL(None)
    try:
        process.scipy_openblas_set_num_threads(1)
    except AttributeError:  # another BLAS is in use, which has one thread
        pass
    process.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    process.mallopt(M_MMAP_THRESHOLD, 2**25)  # the most that it takes
