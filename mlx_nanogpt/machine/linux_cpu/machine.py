"""The answers of MLX's CPU backend on Linux to the questions of `mlx_nanogpt.machine.Machine`."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ...errors import UserError
from ...model import GPT, token_losses
from ..memory import out_of_memory, ram
from . import blas, kernels, operations, streams
from .folding import foldable, folded
from .layers import use_own

# Parameters. Larger models generate faster on all cores: 1.2 times at 10 million, 1.7 times at 124 million. Folding does not
# speed up their evaluation.
SMALL_MODEL = 4_000_000

# MLX orders its work breadth first while the graph is narrow, then depth first, and the streams would run in turn. It reads
# this once, when it first computes something.
os.environ.setdefault("MLX_BFS_MAX_WIDTH", "100000")
kernels.use_safe_folder()


T = TypeVar("T")


class LinuxCPU:
    """MLX's CPU backend on Linux."""

    blas, has_fast_blas = blas.IN_USE, blas.IN_USE.startswith("OpenBLAS")
    eval_tokens = 2048  # the arrays of a layer then fit into a core's cache

    def prepare(self, model: GPT) -> None:
        use_own(model)

    def token_losses(self, model: GPT, idx: mx.array, targets: mx.array) -> mx.array:
        if model.config.vocab_size > operations.LARGEST_VOCABULARY:
            return token_losses(model, idx, targets)
        return operations.cross_entropy(model(idx).astype(mx.float32), targets)

    def in_parallel(self, mean_loss: Callable[..., mx.array]) -> Callable[..., mx.array]:
        return streams.in_parallel(mean_loss)

    def spread(self, function: Callable[[T], mx.array], items: Sequence[T]) -> list[mx.array]:
        return streams.spread(function, items)

    def fuses_attention(self, head_size: int) -> bool:
        return False

    def streams(self) -> tuple[mx.Stream, ...]:
        return streams.streams()

    def inference_copy(self, model: GPT) -> GPT:
        return folded(model) if is_small(model) and foldable(model) else model

    def refresh(self, inference_copy: GPT, model: GPT) -> None:
        if inference_copy is not model:
            inference_copy.update(folded(model).parameters())

    def memory(self) -> int:
        return ram()

    def largest_array(self) -> int:
        return self.memory()

    def explained(self, error: RuntimeError | MemoryError) -> UserError | None:
        return kernels.explained(error) or out_of_memory(error)

    def one_text(self, model: GPT) -> Callable[[], AbstractContextManager]:
        return streams.one_core if is_small(model) else nullcontext


def is_small(model: nn.Module) -> bool:
    """Whether handing over the operations of a model takes about as long as computing them."""
    return sum(p.size for _, p in tree_flatten(model.parameters())) <= SMALL_MODEL
