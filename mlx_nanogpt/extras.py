"""Optional packages, which the extras of pyproject.toml install."""

import importlib
from types import ModuleType

from .errors import UserError


def import_extra(package: str, extra: str) -> ModuleType:
    """`package`, of the optional `extra`. Raises `UserError` if it is not installed."""
    try:
        return importlib.import_module(package)
    except Exception as error:  # not ImportError alone: packages that do not fit together raise anything
        raise UserError(
            f"this takes the package {package.partition('.')[0]}, which cannot be imported ({error})",
            f'install it with pip install -e ".[{extra}]" in the folder of mlx-nanogpt',
        ) from error
