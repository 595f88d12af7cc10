"""Ctrl-C, kill and the end of a terminal as a request to stop in good order."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPING = "Stopping and saving, after what is under way; Ctrl-C again stops unsaved."


@contextmanager
def stop_request(silent: bool = False) -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether a signal has come, which a message answers unless `silent`. The second Ctrl-C or kill stops
    the process at once.

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

    with stop_signals_handled(ask) as handlers:
        yield request.is_set


@contextmanager
def stop_signals_handled(handle: Callable[[int, object], None]) -> Iterator[dict]:
    """Let `handle` answer the signals of `STOP_SIGNALS` for the time of the body, but for those that are ignored. Yield the
    handlers that they had before."""
    handlers = {each: signal.getsignal(each) for each in STOP_SIGNALS}
    handlers = {each: handler for each, handler in handlers.items() if handler is not signal.SIG_IGN}
    try:
        for each in handlers:
            signal.signal(each, handle)
        yield handlers
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
