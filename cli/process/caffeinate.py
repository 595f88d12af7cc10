"""Keeps a Mac awake while it trains: the `caffeinate` of macOS runs beside the training."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def caffeinated(wanted: bool) -> Iterator[str | None]:
    """Keep a Mac awake for the time of the body, if that is `wanted`. Yield a line for the header; None on other systems."""
    if sys.platform != "darwin":
        yield None
        return
    if not wanted:
        yield "the Mac may fall asleep (--no-caffeinate)"
        return
    command = ["caffeinate", "-i", "-w", str(os.getpid())]  # -w: it ends with this process, however that ends
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        yield f"the Mac may fall asleep: caffeinate cannot be started ({error.strerror})"
        return
    try:
        yield "the Mac stays awake while its lid is open (--no-caffeinate lets it sleep)"
    finally:
        process.terminate()
        process.wait()
