"""The seam to hardware: what computes fastest here, behind two verbs, `prepare` and `for_inference`, and some facts.

The model is plain `mlx.nn`. A machine replaces leaves only, the layers with no other layer inside. `linux_cpu/` has other answers
for MLX's CPU backend on Linux; a reader of the core may skip it.
"""

from __future__ import annotations

# First: what these load and set has to be there before mlx.core.
from .linux_cpu import blas  # isort: skip
from .gpu import metal as _metal  # isort: skip

import os
import platform
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from typing import TYPE_CHECKING

import mlx.core as mx
from mlx.optimizers import Optimizer

from ..errors import UserError
from ..layers import FUSED_HEAD_SIZES
from ..model import GPT
from .compilation import can_compile, choose_compilation, compiler_source, has_tools, uncompiled_on_cpu
from .facts import chip, explain_memory, package_versions, ram, rounds_products
from .failures import explain_failure
from .gpu.layers import use_own
from .gpu.metal import shorten_buffers

if TYPE_CHECKING:
    from .linux_cpu.machine import LinuxCPU


class Machine:
    """A Mac, or any GPU: MLX with the leaves of `gpu/`."""

    blas, has_fast_blas = blas.IN_USE, True  # where its CPU multiplies matrices
    eval_tokens = 16_384  # in a batch of an evaluation: enough to keep a GPU busy
    safe_memory, most_memory = 1.0, 1.0  # shares of `memory` that training may take: without a warning, and at all

    def prepare(self, model: GPT, optimizer: Optimizer | None = None) -> None:
        """Let `model` and `optimizer` compute in the fastest way, in place. Weights, names, mode and results stay."""
        use_own(model)

    def for_inference(self, model: GPT) -> tuple[GPT, Callable[[], AbstractContextManager]]:
        """A model of the same function that generates fastest, for as long as the weights stay, or `model` itself, prepared; and a
        context to enter while a token of it is computed."""
        use_own(model)
        return model, nullcontext

    def streams(self) -> tuple[mx.Stream, ...]:
        """The streams that independent work is spread over."""
        return (mx.default_stream(mx.default_device()),)

    def fuses_attention(self, head_size: int) -> bool:
        """Whether attention with heads of `head_size` channels keeps no scores for its gradient."""
        return head_size in FUSED_HEAD_SIZES

    def memory(self) -> int:
        """Bytes of memory for training: on a Mac's GPU two thirds to three quarters of all, on an NVIDIA GPU its own."""
        info = mx.device_info()
        return info.get("max_recommended_working_set_size") or info.get("total_memory") or ram()

    def largest_array(self) -> int:
        """Bytes of the largest array that can be allocated."""
        return mx.device_info().get("max_buffer_length") or self.memory()

    def explain(self, error: RuntimeError | MemoryError) -> UserError | None:
        """The error of MLX as one that a user can correct, with the remedy; None for any other error."""
        return explain_memory(error) or explain_failure(error)


class Metal(Machine):
    """The GPU of a Mac. It keeps a freed array until its buffer of commands completes, up to ten of some 200 MB each."""

    safe_memory, most_memory = 0.6, 0.8


def machine() -> Machine | LinuxCPU:
    """The machine that MLX's default device is."""
    if sys.platform == "linux" and mx.default_device() == mx.cpu:
        from .linux_cpu.machine import LinuxCPU

        return LinuxCPU()
    choose_compilation()
    return Metal() if mx.default_device() == mx.gpu and mx.metal.is_available() else Machine()


def describe_device() -> str:
    """The chip and the part of it that computes, in a line."""
    if mx.default_device() == mx.gpu:
        return f"{chip()}, GPU ({'Metal' if mx.metal.is_available() else 'CUDA'})"
    return f"{chip()}, CPU with {os.cpu_count()} cores ({machine().blas})"


def describe_machine() -> dict:
    """The machine and the versions, for JSON; memory in bytes."""
    return {
        "device": mx.default_device().type.name,
        "chip": chip(),
        "cores": os.cpu_count(),
        "memory": machine().memory(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "versions": package_versions() | {"numpy": version("numpy")},
        "blas": machine().blas,
    }


machine()  # now: what is set up on Linux has to be so before MLX first computes
