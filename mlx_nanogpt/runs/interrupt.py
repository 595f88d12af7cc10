"""Ctrl-C, or the stop button of a notebook, in a Python session that trains. The command line has a handler of its own."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupt:
    """Whether a Ctrl-C `came` in a body of `held`. Python would raise KeyboardInterrupt there, in the middle of a step; a second
    Ctrl-C does."""

    came = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Note a Ctrl-C in the body, if Python itself would answer it: in the main thread of a program without a handler."""
        handler = signal.default_int_handler
        is_main = threading.current_thread() is threading.main_thread()
        if not is_main or signal.getsignal(signal.SIGINT) is not handler:
            yield
            return
        signal.signal(signal.SIGINT, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, handler)

    def _note(self, signum: int, frame: object) -> None:
        if self.came:
            signal.signal(signum, signal.default_int_handler)  # here, because the body may be over by now
            raise KeyboardInterrupt
        self.came = True
