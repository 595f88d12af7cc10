"""Turns Ctrl-C, kill and the end of a terminal into a request to finish and save."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PARENT = "MLX_GPT_PARENT"  # the variable that holds the descriptor of the socket to the parent of `retries.py`
SAME_SECONDS = 0.3  # at most, between the Ctrl-C of a terminal and the same one from the parent, which forwards it
STOPPING = "Finishing, then saving. Ctrl-C again quits without saving."


@contextmanager
def stop_request(silent: bool = False) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether a signal has come. A message answers the first one unless `silent`; a Ctrl-C after it ends
    the process at once. Other signals do not: a system that shuts down may send several.

    Signals that were ignored when the process started (nohup, a background job) stay ignored.
    """
    request, first, same_seconds = threading.Event(), 0.0, SAME_SECONDS if PARENT in os.environ else 0.0

    def ask(signum: int, frame: object) -> None:
        nonlocal first
        if request.is_set():
            if signum == signal.SIGINT and time.monotonic() - first >= same_seconds:
                signal.signal(signum, handlers[signum])
                signal.raise_signal(signum)
            return
        first = time.monotonic()
        request.set()
        if silent:
            return
        # Not through sys.stderr: a handler may interrupt a print, and a stream cannot be entered twice.
        with suppress(OSError):  # standard error may be the terminal that is gone
            os.write(2, f"{STOPPING}\n".encode())

    with handle_stop_signals(ask) as handlers:
        yield request.is_set


@contextmanager
def handle_stop_signals(handle: Callable[[int, object], None]) -> Iterator[dict]:
    """Let `handle` answer `STOP_SIGNALS` during the body, except those that are ignored. Yield their handlers before."""
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    handlers = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}
    try:
        for number in handlers:
            signal.signal(number, handle)
        yield handlers
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
