"""The answers of MLX's CPU backend on Linux to the questions of `mlx_nanogpt.machine.Machine`."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import mlx.core as mx
from mlx.optimizers import MultiOptimizer, Optimizer

from ...errors import UserError
from ...model import GPT
from ...optimizer import Muon, orthogonal
from ..facts import explain_memory, ram
from . import blas, kernels, streams
from .folding import fold_if_same, is_small
from .layers import use_own

# MLX orders its work breadth first while the graph is narrow, then depth first, and the streams would run in turn. It reads
# this once, when it first computes something.
os.environ.setdefault("MLX_BFS_MAX_WIDTH", "100000")
kernels.use_safe_folder()


class LinuxCPU:
    """MLX's CPU backend on Linux."""

    blas, has_fast_blas = blas.IN_USE, blas.IN_USE.startswith("OpenBLAS")
    eval_tokens = 2048  # the arrays of a layer then fit into a core's cache
    safe_memory, most_memory = 1.0, 1.0

    def prepare(self, model: GPT, optimizer: Optimizer | None = None) -> None:
        use_own(model)
        if optimizer is not None:
            streams.spread_loss(model)
        for part in optimizer.optimizers if isinstance(optimizer, MultiOptimizer) else [optimizer]:
            if isinstance(part, Muon):
                part.orthogonal = streams.in_parts(orthogonal)

    def for_inference(self, model: GPT) -> tuple[GPT, Callable[[], AbstractContextManager]]:
        use_own(model)
        # larger models generate faster on all cores: 1.2 times at 10 million parameters, 1.7 times at 124 million
        return (fold_if_same(model), streams.one_core) if is_small(model) else (model, nullcontext)

    def streams(self) -> tuple[mx.Stream, ...]:
        return streams.streams()

    def fuses_attention(self, head_size: int) -> bool:
        return False

    def memory(self) -> int:
        return ram()

    def largest_array(self) -> int:
        return ram()

    def explain(self, error: RuntimeError | MemoryError) -> UserError | None:
        return kernels.explain(error) or explain_memory(error)
