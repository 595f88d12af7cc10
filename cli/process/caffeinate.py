"""Keeps a Mac awake while it trains, with macOS's `caffeinate`."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def keep_awake(wanted: bool) -> Iterator[str | None]:
    """Keep a Mac awake during the body, if that is `wanted`. Yield a line for the header; None on other systems."""
    if sys.platform != "darwin":
        yield None
    elif not wanted or not shutil.which("caffeinate"):
        yield "the Mac may fall asleep"
    else:
        command = ["caffeinate", "-i", "-w", str(os.getpid())]  # -w: it ends with this process, however that ends
        null = subprocess.DEVNULL  # or it would hold a pipe open after this process was killed
        process = subprocess.Popen(command, stdin=null, stdout=null, stderr=null)
        try:
            yield "the Mac stays awake while its lid is open (--no-caffeinate lets it sleep)"
        finally:
            process.terminate()
            process.wait()
