"""Training that resumes by itself after the GPU failed: a parent process starts a new one, because MLX cannot use the GPU again in
the process where it failed."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import BinaryIO

import mlx.core as mx
import typer
from mlx_nanogpt import Run, UserError, open_run
from mlx_nanogpt.errors import DeviceFailed
from mlx_nanogpt.machine.failures import REMEDY
from mlx_nanogpt.ranks import is_rank

from ..screen.consoles import console, errors
from .ranks import LOST, resume_command
from .stop_request import handle_stop_signals

PARENT = "MLX_GPT_PARENT"  # the variable that holds the descriptor of the socket to the parent
ON_A_MAC = 3  # retries by default
ABORTED = DeviceFailed("the process was aborted, as some errors of the GPU do it", REMEDY)


def count_retries(given: int | None) -> int:
    """Return the retries of this process: those that are `given`, or the default. A child of `train_with_retries` has none."""
    if is_rank() and given:
        raise UserError("several ranks cannot use `retries`: all of them would have to start again", "leave it out")
    if is_child() or is_rank():
        return 0
    on_a_mac = mx.default_device() == mx.gpu and mx.metal.is_available()
    return given if given is not None else ON_A_MAC * on_a_mac


def is_child() -> bool:
    """Whether a parent resumes what this process trains."""
    return PARENT in os.environ


def train_with_retries(retries: int, words: Sequence[str], reads_input: bool) -> int:
    """Run mlx-gpt with `words` in a process of its own. After the GPU failed, resume in another, up to `retries` times without a new
    checkpoint. Return the exit status of the last process."""
    left, before, text = retries, None, _keep_input() if reads_input and not sys.stdin.isatty() else None
    stop_signals: list[int] = []
    while True:
        status, notes = _run(words, text, stop_signals)
        if not (status in (LOST, -signal.SIGABRT) and notes.get("resume")):
            return 128 - status if status < 0 else status  # as a shell counts signals
        failure = DeviceFailed(notes["problem"], notes["remedy"]) if "problem" in notes else ABORTED
        iteration = open_run(notes["run"]).position().iteration
        left, before = retries if before not in (None, iteration) else left, iteration
        if stop_signals or left == 0:
            raise UserError(failure.problem, f"resume with {resume_command(notes['resume'])}; {failure.remedy}")
        left -= 1
        errors.print(
            f"{failure.problem[0].upper()}{failure.problem[1:]}. Resuming {notes['run']} from iteration {iteration:,} in a new process; "
            f"retries left: {left}.\n",
            style="yellow",
            soft_wrap=True,
        )
        words = ["train", *notes["resume"]]


def _run(words: Sequence[str], text: BinaryIO | None, stop_signals: list[int]) -> tuple[int, dict]:
    """Run a child to its end; return its status, negative for a signal, and what it noted. Signals that ask for an end are added to
    `stop_signals` and forwarded, and so is Ctrl-Z: the child has a session of its own, so that Ctrl-C does not reach it twice."""
    own, other = socket.socketpair()
    child = None

    def forward(signum: int, frame: object) -> None:
        stop_signals.append(signum)
        if child:
            child.send_signal(signum)

    def pause(signum: int, frame: object) -> None:
        child.send_signal(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)  # until the shell continues it
        child.send_signal(signal.SIGCONT)

    with own, handle_stop_signals(forward):
        if text:
            text.seek(0)
        with other:
            command, environment = [sys.executable, "-m", "mlx_nanogpt_cli", *words], {PARENT: str(other.fileno())}
            child = subprocess.Popen(
                command, env=os.environ | environment, stdin=text, pass_fds=[other.fileno()], start_new_session=True
            )
        if stop_signals:  # before the child was there
            child.send_signal(stop_signals[-1])
        usual = signal.signal(signal.SIGTSTP, pause)
        try:
            status = child.wait()
        finally:
            signal.signal(signal.SIGTSTP, usual)
        if status < 0 and console.is_terminal:  # it could not clean up its bar
            console.show_cursor()
            console.print()
        notes: dict = {}
        for line in own.makefile():
            notes |= json.loads(line)
    return status, notes


def _keep_input() -> BinaryIO:
    """Read standard input into a file, which every child can read again."""
    kept = tempfile.TemporaryFile()
    shutil.copyfileobj(sys.stdin.buffer, kept)
    return kept


# ---- in the child


@contextmanager
def noting(run: Run, options: Sequence[str]) -> Iterator[None]:
    """Tell the parent, if there is one, that `options` of mlx-gpt train resume what the body trains, and that the GPU failed. The end
    of the parent, whatever ended it, asks this process to stop."""
    if not is_child():
        yield
        return
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    _note(run=str(run.path), resume=list(options))
    try:
        yield
    except DeviceFailed as error:
        _note(problem=error.problem, remedy=error.remedy)
        raise typer.Exit(LOST) from error
    _note(resume=None)  # it is trained


def _note(**notes: object) -> None:
    os.write(int(os.environ[PARENT]), f"{json.dumps(notes)}\n".encode())


def _stop_with_parent() -> None:
    with suppress(ConnectionResetError):  # the parent has not read everything
        os.read(int(os.environ[PARENT]), 1)  # it writes nothing: this is its end
    os.kill(os.getpid(), signal.SIGTERM)
