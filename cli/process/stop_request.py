"""Turns Ctrl-C, kill and the end of a terminal into a request to finish and save."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPING = "Finishing, then saving. Ctrl-C again quits without saving."


@contextmanager
def stop_request(silent: bool = False) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether a signal has come. A message answers the first one unless `silent`; the second Ctrl-C
    or kill ends the process at once.

    Signals that were ignored when the process started (nohup, a background job) stay ignored.
    """
    request = threading.Event()

    def ask(signum: int, frame: object) -> None:
        if request.is_set():
            if signum != signal.SIGHUP:  # the system sends it when a terminal ends, and the shell sends it again
                signal.signal(signum, handlers[signum])
                signal.raise_signal(signum)
            return
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
