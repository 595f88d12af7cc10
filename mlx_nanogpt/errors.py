"""The error that a user can cause and correct, how foreign text is shown, and optional packages. Imports nothing of this project."""

import importlib
from types import ModuleType

# What moves a terminal's cursor or starts a command to it (C0, DEL, C1), ends a line, or turns the direction of one.
CONTROLS = {
    code: f"\\u{code:04X}"
    for each in (range(0x20), range(0x7F, 0xA0), (0x61C, 0x200E, 0x200F), range(0x2028, 0x202F), range(0x2066, 0x206A))
    for code in each
}


def printable(text: str) -> str:
    """`text` with escapes such as \\u001B for control characters. Names of files, and files of unknown origin, may hold them;
    a terminal would obey them."""
    return text.translate(CONTROLS)


class UserError(Exception):
    """What a user can cause and put right: a problem, which names the value and the reason, and the remedy.

    A remedy names parameters in backticks, as `run_dir`; the command line makes options of them.
    """

    def __init__(self, problem: str, remedy: str):
        self.problem, self.remedy = printable(problem), printable(remedy)
        super().__init__(f"{self.problem}; {self.remedy}")


def import_extra(package: str, extra: str) -> ModuleType:
    """`package`, of the optional `extra`. Raises `UserError` if it is not installed."""
    try:
        return importlib.import_module(package)
    except Exception as error:  # not ImportError alone: packages that do not fit together raise anything
        raise UserError(
            f"this takes the package {package.partition('.')[0]}, which cannot be imported ({error})",
            f'install it with pip install -e ".[{extra}]" in the folder of mlx-nanogpt',
        ) from error
