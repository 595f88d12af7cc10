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
from pathlib import Path
from typing import BinaryIO

import typer
from mlx_nanogpt import Record, Run, Saved, UserError, open_run
from mlx_nanogpt.errors import DeviceFailed
from mlx_nanogpt.files import open_folder
from mlx_nanogpt.machine import Metal, machine, shorten_buffers
from mlx_nanogpt.machine.failures import REMEDY, explain_failure
from mlx_nanogpt.ranks import is_rank
from mlx_nanogpt.records import reason_to_end

from ..screen.consoles import console, errors
from . import MLX_GPT
from .ranks import LOST, resume_command
from .stop_request import PARENT, handle_stop_signals

MAC_RETRIES = 3  # by default
ABORTED = DeviceFailed("the process aborted, as MLX does after some errors of the GPU", REMEDY)


def count_retries(given: int | None) -> int:
    """Return the retries of this process: those that are `given`, or the default. A child of `train_with_retries` has none."""
    if is_rank() and given:
        raise UserError("several ranks cannot use `retries`: all of them would have to start again", "leave it out")
    if is_child() or is_rank():
        return 0
    return given if given is not None else MAC_RETRIES * isinstance(machine(), Metal)


def is_child() -> bool:
    """Whether a parent resumes what this process trains."""
    return PARENT in os.environ


def name_command(failure: DeviceFailed, run: Path | str, options: Sequence[str]) -> UserError:
    """Return `failure` with the command that resumes `run`, with the other `options` of mlx-gpt train."""
    return UserError(failure.problem, f"resume with {resume_command(run, options)}; {failure.remedy}")


# ---- the parent


def train_with_retries(retries: int, words: Sequence[str], reads_input: bool) -> int:
    """Run mlx-gpt with `words` in a process of its own. After the GPU failed, resume in another, up to `retries` times without a new
    checkpoint. Return the exit status of the last process."""
    left, before, text = retries, None, _keep_input() if reads_input and not sys.stdin.isatty() else None
    stop_signals: list[int] = []
    while True:
        status, notes = _run(words, text, stop_signals)
        if not ("problem" in notes or (status == -signal.SIGABRT and notes.get("is_training"))):
            if status < 0 and not stop_signals:
                _print_signal(-status, notes)
            return 128 - status if status < 0 else status  # as a shell counts signals
        failure = DeviceFailed(notes["problem"], notes["remedy"]) if "problem" in notes else ABORTED
        options, iteration = notes["options"], notes["iteration"]
        if reason_to_end((run := open_run(notes["run"])).history(), run.train_config):
            problem = f"{failure.problem}; the run {run.path} is complete and saved all the same"
            raise UserError(problem, "write with it, or resume it with a larger `num_iter`")
        left, before = retries if before not in (None, iteration) else left, iteration
        if stop_signals or left == 0:
            raise name_command(failure, run.path, options)
        left -= 1
        shorten_buffers()
        _print_retry(failure, run, iteration, left)
        words = ["train", "--resume", str(run.path), *options]


def _print_retry(failure: DeviceFailed, run: Run, iteration: int, left: int) -> None:
    again = f"Resuming {run.path} from iteration {iteration:,} in a new process; retries left: {left}.\n"
    with suppress(OSError):  # a full disk behind standard error must not end the run
        errors.print(f"{failure.problem[0].upper()}{failure.problem[1:]}. {again}", style="yellow", soft_wrap=True)


def _print_signal(number: int, notes: dict) -> None:
    """Print what a shell would of a process that was killed, and the command that resumes."""
    name = signal.Signals(number).name
    reason = " (perhaps the system lacked memory)" if number == signal.SIGKILL else ""
    resume = f"; resume with {resume_command(notes['run'], notes['options'])}" if "run" in notes else ""
    errors.print(f"Error: {name} ended the process that trained{reason}{resume}", soft_wrap=True)


def _run(words: Sequence[str], text: BinaryIO | None, stop_signals: list[int]) -> tuple[int, dict]:
    """Run a child to its end; return its status, negative for a signal, and its notes. Signals that ask for an end are added to
    `stop_signals` and forwarded. A terminal sends them to both processes: the child takes two in a row for one."""
    own, other = socket.socketpair()
    child, forwarded = None, False

    def forward(signum: int, frame: object) -> None:
        nonlocal forwarded
        stop_signals.append(signum)
        if child:
            child.send_signal(signum)
            forwarded = True

    with own, handle_stop_signals(forward):
        if text:
            text.seek(0)
        with other:
            environment = os.environ | {PARENT: str(other.fileno())}
            child = subprocess.Popen([*MLX_GPT, *words], env=environment, stdin=text, pass_fds=[other.fileno()])
        if stop_signals and not forwarded:  # it came before the child was there
            child.send_signal(stop_signals[-1])
        notes: dict = {}
        for line in own.makefile():  # up to the end of the child
            notes |= json.loads(line)
        status = child.wait()
    if status < 0 and console.is_terminal:  # it could not clean up its bar
        console.show_cursor()
        console.print()
    return status, notes


def _keep_input() -> BinaryIO:
    """Read standard input into a file, which every child can read again."""
    kept = tempfile.TemporaryFile()
    shutil.copyfileobj(sys.stdin.buffer, kept)
    return kept


# ---- the child


@contextmanager
def report_failures(run: Run, options: Sequence[str]) -> Iterator[None]:
    """Raise a failure of the GPU in the body, which trains `run`, with the command that resumes: `options` are those of mlx-gpt train
    but for --resume. If there is a parent, leave the failure to it instead, and stop if the parent ends, whatever ended it."""
    if is_child():
        threading.Thread(target=_stop_with_parent, daemon=True).start()
        _note(run=str(run.path), iteration=run.position().iteration, options=list(options), is_training=True)
    with open_folder(run.path) as folder:
        try:
            yield
            if is_child():
                _note(is_training=False)
        except (DeviceFailed, RuntimeError) as error:
            failure = error if isinstance(error, DeviceFailed) else explain_failure(error)
            if not isinstance(failure, DeviceFailed):
                raise
            path = folder.current_path()  # it may have been moved
            if not is_child():
                raise name_command(failure, path, options) from error
            _note(run=str(path), problem=failure.problem, remedy=failure.remedy)
            raise typer.Exit(LOST) from error


def note_checkpoint(record: Record) -> None:
    """Tell the parent, if there is one, where the run is now, and what it would resume from."""
    if is_child() and isinstance(record, Saved):
        _note(run=str(record.path), iteration=record.iteration)


def _note(**notes: object) -> None:
    with suppress(BrokenPipeError):  # the parent was killed
        os.write(int(os.environ[PARENT]), f"{json.dumps(notes)}\n".encode())


def _stop_with_parent() -> None:
    with suppress(ConnectionResetError):  # the parent has not read everything
        os.read(int(os.environ[PARENT]), 1)  # it writes nothing: this is its end
    os.kill(os.getpid(), signal.SIGTERM)
