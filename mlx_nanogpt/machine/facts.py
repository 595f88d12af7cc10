"""Facts about this machine: its chip, its memory, the versions of what computes, and MLX's errors when memory is short."""

import os
import platform
import zlib
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx

from ..errors import NO_THREAD, UserError, is_out_of_memory


def ram() -> int:
    """Bytes of memory in this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def chip() -> str:
    """The name of the chip that computes."""
    return mx.device_info().get("device_name") or platform.processor()


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


def explain_memory(error: Exception) -> UserError | None:
    """An error of Python, MLX or the system about memory or threads, with the remedy; None for other errors."""
    if not is_out_of_memory(error):
        return None
    if any(words in str(error) for words in NO_THREAD):
        remedy = "close other programs, or raise the limits that ulimit -u (processes) and ulimit -v (memory) print"
        return UserError(f"the system starts no more threads or processes ({error})", remedy)
    return UserError(
        f"there is not enough memory ({str(error) or 'Python has no more'})",
        "close other programs; in training, lower `batch_size` (a larger `gradient_accumulation_steps` makes up for it), `block_size`, "
        "`n_layer` or `n_embd`",
    )
