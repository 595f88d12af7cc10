"""The folder where MLX's CPU backend on Linux keeps compiled kernels.

MLX uses `mlx/<version>/cpu` in the folder for temporary files, whoever made it. On a machine of several users the first one
owns it. The others cannot write there, and would load kernels of the first.
"""

import os
import stat
from contextlib import suppress
from importlib.metadata import version

from ...errors import UserError
from ...files import cache_dir

TEMPORARY = ("TMPDIR", "TMP", "TEMP", "TEMPDIR")  # MLX reads these each time it needs a kernel
NOWHERE = os.devnull  # no folder: MLX fails, and loads nothing of other users
FAILURES = ("[Compile::eval_cpu]", "filesystem error", "Could not load C++")  # in MLX's errors about kernels


def use_safe_folder() -> None:
    """Let MLX keep its kernels in our cache, unless the usual folder belongs to this user alone."""
    temporary = next((os.environ[name] for name in TEMPORARY if name in os.environ), "/tmp")
    if _is_ours(temporary):
        return
    own = NOWHERE
    with suppress(UserError, OSError):
        folder = cache_dir() / "tmp"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        own = str(folder)
    os.putenv("TMPDIR", own)  # MLX and the compiler see this; Python reads os.environ, which stays as it is


def _is_ours(temporary: str) -> bool:
    """Whether MLX's folder in `temporary`, made if it is not there, is this user's and no other one can write to it."""
    folder = temporary
    try:
        for name in ("mlx", version("mlx"), "cpu"):
            folder = os.path.join(folder, name)
            with suppress(FileExistsError):
                os.mkdir(folder, 0o700)
            found = os.lstat(folder)
            shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or shared:
                return False
    except OSError:
        return False
    return os.access(temporary, os.W_OK) and os.access(folder, os.W_OK)


def explain(error: RuntimeError | MemoryError) -> UserError | None:
    """An error of MLX about a kernel that it could not compile, keep or load, with the remedy; None for other errors."""
    if not any(failure in str(error) for failure in FAILURES):
        return None
    output = str(error).rpartition("the output is: ")[2].strip().splitlines()  # of the compiler, warnings too
    reason = next((line for line in output if "error: " in line or "failed: " in line), output[-1])
    return UserError(
        f"MLX could not compile what it computes with ({reason})",
        "make room in the folder for temporary files, set TMPDIR to another one where programs may be stored, or mend g++",
    )
