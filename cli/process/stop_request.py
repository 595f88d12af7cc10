"""Turns Ctrl-C, kill and the end of a terminal into a request to finish and save."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PARENT = "MLX_GPT_PARENT"  # the variable that holds the descriptor of the socket to the parent of `retries.py`
SAME_SECONDS = 0.3  # at most, between the Ctrl-C of a terminal and the same one from the parent, which forwards it
STOPPING = "Finishing, then saving. Ctrl-C again quits without saving."


@contextmanager
def stop_request(quit_now: Callable[[], object], silent: bool = False) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether a signal has come. A message answers the first one unless `silent`; a Ctrl-C after it calls
    `quit_now`, which ends the process. Other signals do not: a system that shuts down may send several.

    A thread answers, at once: Python's own handlers wait until MLX is done, which may be a step of many seconds. Signals that were
    ignored when the process started (nohup, a background job) stay ignored.
    """
    request, same_seconds = threading.Event(), SAME_SECONDS if PARENT in os.environ else 0.0
    reader, writer = socket.socketpair()

    def answer() -> None:
        first = 0.0
        while signals := reader.recv(1):  # empty at the end of the body
            if signals[0] not in STOP_SIGNALS:
                continue  # of a handler that somebody else set
            if not request.is_set():
                first = time.monotonic()
                request.set()
                if not silent:
                    # not through sys.stderr, whose lock the main thread may hold
                    with suppress(OSError):  # standard error may be the terminal that is gone
                        os.write(2, f"{STOPPING}\n".encode())
            elif signals[0] == signal.SIGINT and time.monotonic() - first >= same_seconds:
                quit_now()

    thread = threading.Thread(target=answer, daemon=True)
    with reader:
        with writer:
            writer.setblocking(False)
            thread.start()
            before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
            try:
                with handle_stop_signals(lambda *_: None):
                    yield request.is_set
            finally:
                signal.set_wakeup_fd(before)
        thread.join()


@contextmanager
def handle_stop_signals(handle: Callable[[int, object], None], numbers: Sequence[int] = STOP_SIGNALS) -> Iterator[None]:
    """Let `handle` answer the signals `numbers` during the body, except those that are ignored."""
    handlers = {number: signal.getsignal(number) for number in numbers}
    handlers = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}
    try:
        for number in handlers:
            signal.signal(number, handle)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
