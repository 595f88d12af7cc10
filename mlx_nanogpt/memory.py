"""What the machine has of memory, and the errors of MLX when it has no more."""

import os

from .errors import UserError

FAILURES = (
    "Insufficient Memory",  # Metal: kIOGPUCommandBufferCallbackErrorOutOfMemory
    "out of memory",  # CUDA
    "alloc",  # malloc of MLX's backends, and std::bad_alloc
)


def ram() -> int:
    """Bytes of memory that the machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def out_of_memory(error: RuntimeError | MemoryError) -> UserError | None:
    """An error of MLX about memory, with the remedy; None for other errors."""
    if not isinstance(error, MemoryError) and not any(each.lower() in str(error).lower() for each in FAILURES):
        return None
    return UserError(
        f"there is not enough memory ({error})",
        "lower `batch_size` (a larger `gradient_accumulation_steps` makes up for it), `block_size`, `n_layer` or `n_embd`",
    )
