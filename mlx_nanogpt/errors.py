"""The error that a user can correct, printable text, and optional packages. Imports nothing of this project."""

import importlib
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


def is_out_of_memory(error: Exception) -> bool:
    """Whether `error` is Python's or MLX's for a lack of memory."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


def import_extra(package: str, extra: str) -> ModuleType:
    """Import `package`, of the optional `extra`. Raises `UserError` if it is not installed."""
    try:
        return importlib.import_module(package)
    except Exception as error:  # not ImportError alone: packages that do not fit together raise anything
        problem = f"this takes the package {package.partition('.')[0]}, which cannot be imported ({error})"
        remedy = f'install it with pip install -e ".[{extra}]" in the folder of mlx-nanogpt'
        raise UserError(problem, remedy) from error
