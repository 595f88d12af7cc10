"""The command line, `mlx-gpt`. This file makes standard streams and signals safe before it imports `app.py`, which takes half a
second."""

import errno
import io
import os
import signal
import sys


def main() -> None:
    """Run the program. Ctrl-C ends it without a traceback, whenever it comes and however often."""
    # A background job keeps ignoring Ctrl-C.
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _open_standard_streams()
    if os.environ.get("COLUMNS") == "0":  # rich would draw in no columns
        del os.environ["COLUMNS"]
    _hide_interrupts()  # before typer is imported: it calls the hook that it finds

    try:
        from .app import run
    except ImportError as error:
        if error.name != "mlx" or isinstance(error, ModuleNotFoundError):
            raise
        sys.exit(f"Error: {error}")  # MLX is not installed as this machine needs it
    except MemoryError:
        sys.exit("Error: there is not enough memory; close other programs, or raise the limit that ulimit -v prints")

    try:
        if interruptible:
            _interrupt_once()
        run()
    finally:
        if interruptible:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        _flush_or_drop()


def _open_standard_streams() -> None:
    """Open closed standard streams as /dev/null. Otherwise the next file, such as a checkpoint, would take their place."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            # The new file gets the lowest free number, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if descriptor else "r", encoding="utf-8"))
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream.isatty():
            raw = io.BufferedWriter(_Terminal(stream.fileno(), "w", closefd=False))
            stream = io.TextIOWrapper(raw, stream.encoding, line_buffering=True)
            setattr(sys, name, stream)
        stream.reconfigure(errors="backslashreplace")  # a name that cannot be shown must not stop the program


class _Terminal(io.FileIO):
    """A terminal that may be closed while the program runs. Output after that is dropped."""

    def write(self, data: bytes) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return len(data)


def _hide_interrupts() -> None:
    """Let a `KeyboardInterrupt` that nobody catches end the process as Ctrl-C does, without a traceback."""
    excepthook, unraisablehook = sys.excepthook, sys.unraisablehook

    def unhandled(kind: type, error: BaseException, traceback: object) -> None:
        if not issubclass(kind, KeyboardInterrupt):  # Python itself ends the process for that one
            excepthook(kind, error, traceback)

    def unraisable(args: object) -> None:
        if issubclass(args.exc_type, KeyboardInterrupt):  # for example in a __del__
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        unraisablehook(args)

    sys.excepthook, sys.unraisablehook = unhandled, unraisable


def _interrupt_once() -> None:
    """Let the first Ctrl-C raise `KeyboardInterrupt` and the next one end the process. A second exception, while the program
    cleans up after the first, would print a traceback."""
    interrupted = False

    def interrupt(signum: int, frame: object) -> None:
        nonlocal interrupted
        if interrupted:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        interrupted = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)


def _flush_or_drop() -> None:
    """Flush the streams, and drop what a full disk or a closed pipe does not take. Python would end with a traceback."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
