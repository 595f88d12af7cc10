"""Whether mx.compile compiles. On a CPU MLX asks for g++, and on a Mac without Apple's command line tools macOS would answer with a
dialog that offers to install them."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx

from . import mac

disabled = False  # by `choose_compilation`, for the CPU of a Mac without the tools


def has_tools() -> bool:
    """Whether g++ and git may be run without a dialog."""
    return sys.platform != "darwin" or mac.has_tools()


def can_compile() -> bool:
    """Whether mx.compile compiles: on a CPU it needs a compiler, and runs uncompiled without one."""
    return mx.default_device() == mx.gpu or (has_tools() and shutil.which("g++") is not None)


def compiler_source() -> str:
    """The command that brings g++."""
    return "xcode-select --install" if sys.platform == "darwin" else "apt install g++"


def choose_compilation() -> None:
    """On a Mac, let mx.compile compile nothing while it cannot: MLX would run g++ to find out. A user's own choice stays."""
    global disabled
    if sys.platform != "darwin" or "MLX_DISABLE_COMPILE" in os.environ or disabled != can_compile():
        return
    disabled = not disabled
    (mx.disable_compile if disabled else mx.enable_compile)()


@contextmanager
def uncompiled_on_cpu() -> Iterator[None]:
    """Compute the body on the CPU, and compile nothing, whatever the default device is."""
    mx.disable_compile()
    try:
        with mx.stream(mx.cpu):
            yield
    finally:
        if not disabled and "MLX_DISABLE_COMPILE" not in os.environ:
            mx.enable_compile()
