"""The folder in which MLX's CPU backend on Linux keeps the kernels that it compiles, and what to do where it cannot.

MLX takes `mlx/<version>/cpu` in the folder for temporary files, whoever made it: on a machine of several users the
first one owns it, the others cannot write to it, and what they load from it is the first one's.
"""

import os
import stat
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from .errors import UserError
from .files import cache_dir

TEMPORARY = ("TMPDIR", "TMP", "TEMP", "TEMPDIR")  # where MLX looks, each time that it looks for a kernel
NOWHERE = os.devnull  # no folder, so MLX fails rather than load what somebody else has put somewhere
FAILURES = ("[Compile::eval_cpu]", "filesystem error", "Could not load C++")  # how MLX says that it has no kernel


def use_safe_folder() -> None:
    """Let MLX keep its kernels in our cache, unless the usual folder is ours alone."""
    temporary = next((os.environ[name] for name in TEMPORARY if name in os.environ), "/tmp")
    if _is_ours(temporary):
        return
    own = NOWHERE
    with suppress(UserError, OSError):
        folder = cache_dir() / "tmp"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        own = str(folder)
    os.putenv("TMPDIR", own)  # for MLX and the compiler alone: os.environ, where Python looks, stays the user's


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


def explained(error: RuntimeError) -> str | None:
    """A sentence in the place of an error of MLX, if it is that a kernel cannot be compiled, kept or loaded."""
    if not any(failure in str(error) for failure in FAILURES):
        return None
    # what the compiler says, where it ran: warnings, too
    said = str(error).rpartition("the output is: ")[2].strip().splitlines()
    reason = next((line for line in said if "error: " in line or "failed: " in line), said[-1])
    return (
        f"MLX could not compile what it computes with ({reason}); make room in the folder for temporary files, set "
        f"TMPDIR to another one where programs may be stored, or mend g++"
    )
