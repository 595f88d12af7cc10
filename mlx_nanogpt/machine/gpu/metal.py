"""A setting of Metal, which MLX reads when it starts. `machine/__init__.py` imports this file before `mlx.core`.

MLX hands work to a Mac's GPU in buffers of up to 40 or 50 operations, and each buffer costs some 20 microseconds. A token of a
small GPT is a hundred short operations, a step some hundreds. Others measured that larger buffers pay on an M1 to M4, and not on
an M5 (github.com/ml-explore/mlx, issues 1864 and 4521). A buffer also ends after 40 to 50 MB of operands, which stays as it is:
so a step gains less than a token. No Mac has run this project yet.
"""

import os
import re
import sys

from .. import mac

VARIABLE, OPERATIONS, FEW_OPERATIONS = "MLX_MAX_OPS_PER_BUFFER", "200", "40"

enlarged = False  # by this process, and not by the user


def enlarge_buffers() -> None:
    """Let MLX use larger buffers on an M1 to M4, unless the user has set their size."""
    global enlarged
    enlarged = False
    if sys.platform == "darwin" and VARIABLE not in os.environ and re.match(r"Apple M[1-4]\b", mac.brand()):
        os.environ[VARIABLE] = OPERATIONS
        enlarged = True


def shorten_buffers() -> None:
    """Let the next processes use buffers of MLX's own size: macOS may have stopped a GPU because one took too long."""
    if enlarged:
        os.environ[VARIABLE] = FEW_OPERATIONS


def check_import() -> None:
    """Raise `ImportError` with the reason and the remedy if MLX cannot be loaded on this Mac."""
    try:
        import mlx.core  # noqa: F401
    except ImportError as error:
        raise ImportError(mac.wrong_installation() or str(error), name="mlx") from error


enlarge_buffers()
if sys.platform == "darwin":
    check_import()
