"""Facts about this machine: its chip, its memory, the versions of what computes, and MLX's errors when memory is short."""

import os
import platform
import shutil
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx

from ..errors import UserError, is_out_of_memory
from . import mac


def ram() -> int:
    """Bytes of memory in this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def chip() -> str:
    """The name of the chip that computes."""
    return mx.device_info().get("device_name") or platform.processor()


def has_tools() -> bool:
    """Whether this machine may be asked for g++ and git. A Mac without Apple's command line tools would answer with a dialog."""
    return sys.platform != "darwin" or mac.has_tools()


def can_compile() -> bool:
    """Whether mx.compile compiles: on a CPU it needs a compiler, and runs uncompiled without one."""
    return mx.default_device() == mx.gpu or (has_tools() and shutil.which("g++") is not None)


def compiler_source() -> str:
    """The command that brings g++."""
    return "xcode-select --install" if sys.platform == "darwin" else "apt install g++"


def choose_compilation() -> None:
    """Let mx.compile compile on a Mac if it can. MLX itself would run g++ there to find out, and open the dialog."""
    if sys.platform == "darwin" and "MLX_DISABLE_COMPILE" not in os.environ:
        (mx.enable_compile if can_compile() else mx.disable_compile)()


@contextmanager
def uncompiled_on_cpu() -> Iterator[None]:
    """Compute the body on the CPU, and compile nothing, whatever the default device is."""
    mx.disable_compile()
    try:
        with mx.stream(mx.cpu):
            yield
    finally:
        if "MLX_DISABLE_COMPILE" not in os.environ:
            mx.enable_compile()
        choose_compilation()


def rounds_products() -> bool:
    """Whether a large float32 product keeps fewer digits than float32 has: TF32 on an M5 or an NVIDIA GPU."""
    x = mx.full((256, 256), 1 + 2**-16)
    return not mx.array_equal(x @ mx.eye(256), x).item()


def package_versions() -> dict[str, str]:
    """The versions that decide what a run computes."""
    return {package: version(package) for package in ("mlx-nanogpt", "mlx")}


def model_checksum() -> int:
    """The CRC-32 of the model's code, which a user may edit."""
    return zlib.crc32(b"".join((Path(__file__).parents[1] / name).read_bytes() for name in ("model.py", "layers.py")))


def explain_memory(error: RuntimeError | MemoryError) -> UserError | None:
    """An error of MLX about memory, with the remedy; None for other errors."""
    if not is_out_of_memory(error):
        return None
    return UserError(
        f"there is not enough memory ({str(error) or 'Python has no more'})",
        "lower `batch_size` (a larger `gradient_accumulation_steps` makes up for it), `block_size`, `n_layer` or `n_embd`",
    )
