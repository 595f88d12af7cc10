"""Several ranks on the command line: how one joins, and how it ends when another is gone."""

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

from mlx_nanogpt import Dataset, Run, UserError
from mlx_nanogpt.errors import printable
from mlx_nanogpt.ranks import NotConnected, Ranks, is_rank, join
from mlx_nanogpt.runs import find
from mlx_nanogpt.runs.run import run_of
from mlx_nanogpt.text import tinyshakespeare
from mlx_nanogpt.text.corpus import TINYSHAKESPEARE
from mlx_nanogpt.text.identity import STANDARD_INPUT

from ..options.settings import with_options
from ..screen.consoles import console, errors

INTERRUPTED = 130  # the exit status of a program that Ctrl-C ended
LOST = 75  # the exit status when a rank is gone and a restart may help: EX_TEMPFAIL of sysexits.h
UNCONNECTED = 69  # the exit status of a rank that MLX cannot connect: EX_UNAVAILABLE
CLEAR_LINE = "\r\x1b[K"  # of the progress bar
MAY_DIFFER = {"data", "device", "report_to", "caffeinate"}  # between ranks: the text itself is compared
LAUNCH_WORDS = "MLX_GPT_LAUNCH_WORDS"  # the variable that holds the words before train, for the command that resumes
JOIN_SECONDS = 60.0  # for all ranks to be there
KILL = """
import os, select, signal, sys
if not select.select([0], [], [], float(sys.argv[1]))[0]:
    os.write(2, sys.argv[2].encode())
    os.kill(int(sys.argv[3]), signal.SIGKILL)
"""
ending = threading.Lock()  # a process ends with one sentence


@contextmanager
def join_ranks(given: Mapping[str, object]) -> Iterator[Ranks]:
    """Join the ranks of a launch, started with the options `given`, for the time of the body."""
    lost = threading.Event()
    if is_rank():
        if STANDARD_INPUT in (*given.get("data", ()), *given.get("valid_data", ())):
            raise UserError("several ranks cannot share standard input", "write the text to a file on each machine")
        flush = _filter_ring_lines(lost)
    if LAUNCH_WORDS in os.environ:
        threading.Thread(target=_stop_with_the_launcher, daemon=True).start()
    options = {name: str(value) for name, value in given.items() if name not in MAY_DIFFER}
    killer = _start_killer() if is_rank() else None
    try:
        with join(options, end_process, lost) as ranks:
            if killer:
                killer.communicate()  # the end of its input ends it
            yield ranks
            if killer:
                flush()
    except NotConnected as error:
        end_process(error, status=UNCONNECTED)


def describe_ranks(ranks: Ranks) -> str:
    machines = Counter(ranks.hosts)
    hosts = ", ".join(host if count == 1 else f"{host} ({count})" for host, count in machines.items())
    return f"{ranks.size}, connected by MLX's {ranks.backend}: {hosts}"


def resume_command(run: Path | str, options: Sequence[str]) -> str:
    """Return the command that resumes `run` as it was started, with the other `options` of mlx-gpt train."""
    launcher = [os.environ[LAUNCH_WORDS]] if LAUNCH_WORDS in os.environ else []
    return " ".join(["mlx-gpt", *launcher, "train", shlex.join(["--resume", str(run), *options])])


def share_run(ranks: Ranks, run: Run, options: list[str]) -> None:
    """Broadcast the run from rank 0; --resume and `options` of mlx-gpt train resume it."""
    _name_resume(ranks, run, options)
    ranks.broadcast([run.description(), options])
    _compare_texts(ranks, run.corpus.sha256)


def _name_resume(ranks: Ranks, run: Run, options: Sequence[str]) -> None:
    """Let the sentence about a lost rank name the command that resumes."""
    ranks.watchdog.on_lost = partial(end_process, remedy=f"resume with {resume_command(run.path, options)}")


def receive_run(ranks: Ranks, given: Mapping) -> tuple[Run, Dataset]:
    """Return rank 0's run, and this rank's own copy of the text."""
    description, options = ranks.broadcast(None)
    run = run_of(description)
    _name_resume(ranks, run, options)
    names = given.get("data", run.corpus.sources)
    try:
        if TINYSHAKESPEARE in names and not tinyshakespeare.cache_file().is_file():
            raise UserError(
                "this machine has no copy of tiny Shakespeare, and only rank 0 downloads it",
                f"copy {tinyshakespeare.cache_file()} from there to the same place",
            )
        data = find.read_for(run, given.get("data"), given.get("valid_data", ()))
    except UserError as error:
        raise UserError(f"{ranks.name_of(ranks.rank)}: {error.problem}", error.remedy) from error
    _compare_texts(ranks, run.corpus.sha256 if find.is_own(run, data) else "another")
    return run, find.own_dataset(run, data)


def _compare_texts(ranks: Ranks, digest: str) -> None:
    ranks.compare({"text": digest}, "copy the text of rank 0 to this machine")


def end_process(error: UserError, remedy: str = "", status: int = LOST) -> NoReturn:
    """End this process at once with a sentence. Its main thread may wait for another rank, and no signal reaches it there."""
    ending.acquire()  # never released
    try:
        if console.is_terminal:
            console.show_cursor()
            sys.stderr.write(CLEAR_LINE)
        remedy = remedy or with_options(printable(error.remedy))
        errors.print(f"Error: {printable(error.problem)}; {remedy}", soft_wrap=True)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:  # also if the streams are gone
        os._exit(status)


def _stop_with_the_launcher() -> None:
    """Ask this process to stop when its standard input ends: the launcher holds the other end of the pipe."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _filter_ring_lines(lost: threading.Event) -> Callable[[], None]:
    """Drop the lines that MLX's ring writes to descriptor 2, past Python's streams. Set `lost` at one that reports a failure: MLX
    does not always raise an error. Return a function that ends this, and waits for the last line."""
    own = os.dup(2)
    sys.stderr = open(own, "w", encoding="utf-8", errors="backslashreplace", buffering=1)
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.close(writer)

    def forward() -> None:
        with open(reader, "rb") as lines:
            for line in lines:
                if not line.startswith(b"[ring]"):
                    os.write(own, line)
                elif b"errno" in line or b"closed" in line:
                    lost.set()

    thread = threading.Thread(target=forward, daemon=True)
    thread.start()

    def flush() -> None:
        os.dup2(own, 2)  # the end of the pipe
        thread.join(timeout=1)

    return flush


def _start_killer() -> subprocess.Popen:
    """Start a process that ends this one if it is not joined in time: MLX waits for a neighbour without a limit, and no thread of
    this process runs meanwhile."""
    sentence = (
        f"Error: MLX did not connect rank {os.environ['MLX_RANK']} to its neighbours within {JOIN_SECONDS:g} s; start all ranks, "
        "and see that each machine reaches the addresses of the others and that no firewall blocks the ports\n"
    )
    # -I: no file of the user's is imported
    command = [sys.executable, "-I", "-c", KILL, str(JOIN_SECONDS), sentence, str(os.getpid())]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=sys.stderr)
