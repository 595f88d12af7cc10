"""The error that a user can correct, printable text, and optional packages. Imports nothing of this project."""

import errno
import importlib
from pathlib import Path
from types import ModuleType

# Characters that control a terminal (C0, DEL, C1), end a line, or turn its direction.
_CONTROL_RANGES = range(0x20), range(0x7F, 0xA0), (0x61C, 0x200E, 0x200F), range(0x2028, 0x202F), range(0x2066, 0x206A)
CONTROLS = {code: f"\\u{code:04X}" for codes in _CONTROL_RANGES for code in codes}

OUT_OF_MEMORY = (
    "Insufficient Memory",  # Metal: kIOGPUCommandBufferCallbackErrorOutOfMemory
    "out of memory",  # CUDA
    "to allocate",  # "Unable to allocate", "Attempting to allocate": MLX's allocators
    "bad_alloc",
)
NO_THREAD = "can't start new thread", "Resource temporarily unavailable"  # Python's, and C++'s
DEVICE_FAILED = (  # Metal's; the process that met one cannot use the GPU again
    "Command buffer execution failed",  # Impacting Interactivity, GPU Timeout, Internal Error, ...
    "Resource limit",
)


def printable(text: str) -> str:
    """`text` with escapes such as \\u001B for control characters, which a terminal would obey."""
    return text.translate(CONTROLS)


class UserError(Exception):
    """A problem that a user can correct, with the value and the reason, and the remedy.

    A remedy names parameters in backticks, such as `run_dir`; the command line turns them into options.
    """

    def __init__(self, problem: str, remedy: str):
        self.problem, self.remedy = printable(problem), printable(remedy)
        super().__init__(f"{self.problem}; {self.remedy}")


class DeviceFailed(UserError):
    """The GPU failed. A new process may continue from the last checkpoint."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether `error` is Python's or MLX's for a lack of memory, or the system's: no memory to map, or for a thread."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return any(words in str(error) for words in (*OUT_OF_MEMORY, *NO_THREAD))


def is_device_failure(error: Exception) -> bool:
    """Whether `error` is MLX's for a GPU that failed, which a new process may use again. A lack of memory is none."""
    return not is_out_of_memory(error) and any(words in str(error) for words in DEVICE_FAILED)


def is_of_device(error: Exception) -> bool:
    """Whether `error` is about memory or the GPU, and not about what was computed or read."""
    return is_out_of_memory(error) or is_device_failure(error)


def import_extra(package: str, extra: str) -> ModuleType:
    """Import `package`, of the optional `extra`. Raises `UserError` if it is not installed."""
    try:
        return importlib.import_module(package)
    except Exception as error:  # not ImportError alone: packages that do not fit together raise anything
        problem = f"this takes the package {package.partition('.')[0]}, which cannot be imported ({error})"
        raise UserError(problem, f"install it with {_installation(extra)}") from error


def _installation(extra: str) -> str:
    if (Path(__file__).parents[1] / "pyproject.toml").exists():  # a checkout
        return f'pip install -e ".[{extra}]" in the folder of mlx-nanogpt'
    return f'pip install "mlx-nanogpt[{extra}]"'
