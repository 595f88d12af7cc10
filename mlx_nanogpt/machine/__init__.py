"""How this machine computes fastest: the one seam to hardware.

The model is plain `mlx.nn`. Training, evaluation and generation ask `machine()` for the few things that depend on what
computes. `linux_cpu/` has other answers for MLX's CPU backend on Linux; a reader of the core may skip it.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from typing import TYPE_CHECKING, TypeVar

# First: what these load and set has to be there before mlx.core.
from .linux_cpu import blas  # isort: skip
from .gpu import metal as _metal  # isort: skip

import mlx.core as mx

from ..errors import UserError
from ..model import FUSED_HEAD_SIZES, GPT, token_losses
from .gpu.layers import use_own
from .memory import out_of_memory, ram

if TYPE_CHECKING:
    from .linux_cpu.machine import LinuxCPU


T = TypeVar("T")


class Machine:
    """A Mac, or any GPU: MLX with the layers of `gpu/`."""

    blas, has_fast_blas = blas.IN_USE, True  # where its CPU multiplies matrices
    eval_tokens = 16_384  # in a batch of an evaluation: enough to keep a GPU busy

    def prepare(self, model: GPT) -> None:
        """Let the layers of `model` compute in the fastest way, in place. Weights, names and results stay."""
        use_own(model)

    def token_losses(self, model: GPT, idx: mx.array, targets: mx.array) -> mx.array:
        """The function of this name in `model.py`; on a GPU it is one kernel."""
        if mx.default_device() == mx.gpu:
            return mx.fast.cross_entropy(model(idx), targets)  # there it adds bfloat16 logits in float32
        return token_losses(model, idx, targets)

    def in_parallel(self, mean_loss: Callable[..., mx.array]) -> Callable[..., mx.array]:
        """`mean_loss(model, idx, targets)`, computed on all that this machine has."""
        return mean_loss

    def spread(self, function: Callable[[T], mx.array], items: Sequence[T]) -> list[mx.array]:
        """`function` of each of `items`, computed on all that this machine has. The largest come first."""
        return [function(item) for item in items]

    def fuses_attention(self, head_size: int) -> bool:
        """Whether attention with heads of `head_size` channels keeps no scores for its gradient."""
        return head_size in FUSED_HEAD_SIZES

    def streams(self) -> tuple[mx.Stream, ...]:
        """The streams to spread independent work over."""
        return (mx.default_stream(mx.default_device()),)

    def inference_copy(self, model: GPT) -> GPT:
        """A model of the same function that costs less to run, or `model` itself."""
        return model

    def refresh(self, inference_copy: GPT, model: GPT) -> None:
        """Give an inference copy the weights that `model` has now."""

    def memory(self) -> int:
        """Bytes of memory that a training can have: on a Mac's GPU two thirds to three quarters of all, on an NVIDIA GPU its
        own."""
        info = mx.device_info()
        return info.get("max_recommended_working_set_size") or info.get("total_memory") or ram()

    def largest_array(self) -> int:
        """Bytes that one array can have at most."""
        return mx.device_info().get("max_buffer_length") or self.memory()

    def explained(self, error: RuntimeError | MemoryError) -> UserError | None:
        """An error of MLX that a user can correct, with the remedy; None for any other error."""
        return out_of_memory(error)

    def one_text(self, model: GPT) -> Callable[[], AbstractContextManager]:
        """A context to enter while a token of a single text is computed."""
        return nullcontext


def machine() -> Machine | LinuxCPU:
    """The machine that MLX's default device is."""
    if sys.platform == "linux" and mx.default_device() == mx.cpu:
        from .linux_cpu.machine import LinuxCPU

        return LinuxCPU()
    return Machine()


def describe_device() -> str:
    """The chip, and what of it computes, in a line."""
    if mx.default_device() == mx.gpu:
        return f"{chip()}, GPU ({'Metal' if mx.metal.is_available() else 'CUDA'})"
    return f"{chip()}, CPU with {os.cpu_count()} cores ({machine().blas})"


def can_compile() -> bool:
    """Whether mx.compile compiles: on a CPU it needs a compiler, and runs uncompiled without one."""
    return mx.default_device() == mx.gpu or shutil.which("g++") is not None


def rounds_products() -> bool:
    """Whether a large float32 product keeps fewer digits than float32 has: TF32 on an M5 or an NVIDIA GPU."""
    x = mx.full((256, 256), 1 + 2**-16)
    return not mx.array_equal(x @ mx.eye(256), x).item()


def chip() -> str:
    return mx.device_info().get("device_name") or platform.processor()


def describe_machine() -> dict:
    """The machine and the versions, as far as they can be asked for; memory in bytes."""
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


def package_versions() -> dict[str, str]:
    """The versions that decide what a run computes."""
    return {package: version(package) for package in ("mlx-nanogpt", "mlx")}


machine()  # now: what is set up on Linux has to be so before MLX first computes
