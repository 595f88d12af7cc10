"""The command line, `mlx-gpt`. Here is what has to happen before anything is imported, which takes half a second:
standard streams and signals that cannot do harm. The commands are in `app.py`."""

import errno
import io
import os
import signal
import sys

CLOSED: set[str] = set()  # the standard streams that we were started without


def main() -> None:
    """Run the program. Ctrl-C ends it without a traceback, at whatever time it comes and however often."""
    # in a background job it is ignored, and stays so
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _open_standard_streams()
    if not _is_positive(os.environ.get("COLUMNS", "1")):  # rich would draw in as many
        del os.environ["COLUMNS"]
    _hide_interrupts()  # before typer, which keeps this hook below its own

    from .app import run

    try:
        if interruptible:
            _interrupt_once()
        run()
    finally:
        if interruptible:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        _drop_what_cannot_be_written()


def _open_standard_streams() -> None:
    """Let closed standard streams be /dev/null: the next file opened, a checkpoint say, would be taken for them."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # as the lowest free number, this one
        if getattr(sys, name) is None:
            CLOSED.add(name)
            setattr(sys, name, open(os.devnull, "w" if descriptor else "r", encoding="utf-8"))
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream.isatty():
            raw = io.BufferedWriter(_Terminal(stream.fileno(), "w", closefd=False))
            stream = io.TextIOWrapper(raw, stream.encoding, line_buffering=True)
            setattr(sys, name, stream)
        stream.reconfigure(errors="backslashreplace")  # a name that cannot be shown is no reason to stop


class _Terminal(io.FileIO):
    """A terminal that may be closed while we run: what nobody can see any more is written to nowhere."""

    def write(self, data: bytes) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return len(data)


def _is_positive(number: str) -> bool:
    return not number.isdecimal() or int(number) > 0


def _hide_interrupts() -> None:
    """Let a `KeyboardInterrupt` that nobody handles end the process as Ctrl-C ends one, without a traceback."""
    excepthook, unraisablehook = sys.excepthook, sys.unraisablehook

    def unhandled(kind: type, error: BaseException, traceback: object) -> None:
        if not issubclass(kind, KeyboardInterrupt):  # Python itself ends the process then
            excepthook(kind, error, traceback)

    def unraisable(args: object) -> None:
        if issubclass(args.exc_type, KeyboardInterrupt):  # in a __del__, say
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        unraisablehook(args)

    sys.excepthook, sys.unraisablehook = unhandled, unraisable


def _interrupt_once() -> None:
    """Let the first Ctrl-C raise `KeyboardInterrupt`, and the next end the process: a second exception, in the clean-up
    after the first, would be a traceback."""
    interrupted = False

    def interrupt(signum: int, frame: object) -> None:
        nonlocal interrupted
        if interrupted:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        interrupted = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)


def _drop_what_cannot_be_written() -> None:
    """What is left for a full disk or a pipe without a reader would be a traceback when Python ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
