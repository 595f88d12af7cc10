"""A training of several ranks on the command line: what each is told, and how one ends when another is gone."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

from mlx_nanogpt import Dataset, Run, UserError
from mlx_nanogpt.distributed.joining import JOIN_SECONDS, joined, launched
from mlx_nanogpt.distributed.lifeline import Verdict
from mlx_nanogpt.distributed.ranks import Ranks
from mlx_nanogpt.errors import printable
from mlx_nanogpt.runs import find
from mlx_nanogpt.runs.run import described_run
from mlx_nanogpt.text import tinyshakespeare
from mlx_nanogpt.text.corpus import TINYSHAKESPEARE
from mlx_nanogpt.text.identity import STANDARD_INPUT

from ..options.settings import with_options
from ..options.texts import read_data
from ..screen.consoles import console, errors

INTERRUPTED = 130  # the exit status of a program that Ctrl-C ended
LOST = 75  # the exit status when a rank is gone and a restart may help: EX_TEMPFAIL of sysexits.h
CLEAR_LINE = "\r\x1b[K"  # of the progress bar
MAY_DIFFER = {"data", "device", "report_to", "caffeinate"}  # between ranks: the text is compared by itself
# What mlx-gpt launch tells its ranks in their environment: its own words, and a file for the options that go on with the run.
LAUNCH_WORDS, RESUME_FILE = "MLX_GPT_LAUNCH_WORDS", "MLX_GPT_RESUME_FILE"
KILL = """
import os, select, signal, sys
if not select.select([0], [], [], float(sys.argv[1]))[0]:
    os.write(2, sys.argv[2].encode())
    os.kill(int(sys.argv[3]), signal.SIGKILL)
"""


@contextmanager
def joined_ranks(given: Mapping[str, object]) -> Iterator[Ranks]:
    """Join the ranks of a launch, started with the options `given`, for the time of the body."""
    if launched():
        if STANDARD_INPUT in given.get("data", ()):
            raise UserError("several ranks cannot share standard input", "write the text to a file on each machine")
        _drop_noise()
    if LAUNCH_WORDS in os.environ:
        threading.Thread(target=_stop_with_the_launcher, daemon=True).start()
    options = {name: str(value) for name, value in given.items() if name not in MAY_DIFFER}
    with joined(options, _end, _killed_unless_connected()) as ranks:
        yield ranks


def described_ranks(ranks: Ranks) -> str:
    machines = Counter(ranks.hosts)
    hosts = ", ".join(host if count == 1 else f"{host} ({count})" for host, count in machines.items())
    return f"{ranks.size}, connected by MLX's {ranks.backend}: {hosts}"


def command_to_go_on(options: Sequence[str]) -> str:
    """The command that goes on with a run as it was started, with the `options` of mlx-gpt train."""
    launcher = [os.environ[LAUNCH_WORDS]] if LAUNCH_WORDS in os.environ else []
    return " ".join(["mlx-gpt", *launcher, "train", shlex.join(options)])


def tell_run(ranks: Ranks, run: Run, options: list[str]) -> None:
    """Tell the other ranks of the run, and a launcher the `options` of mlx-gpt train that go on with it."""
    ranks.lifeline.on_verdict = partial(_end, go_on=command_to_go_on(options))
    if file := os.environ.get(RESUME_FILE):
        Path(file).write_text(json.dumps(options))
    ranks.told(run.description())


def followed_run(ranks: Ranks, given: Mapping) -> tuple[Run, Dataset]:
    """The run of the first rank, and this rank's own copy of the text."""
    run = described_run(ranks.told(None))
    names = given.get("data", run.corpus.sources)
    if TINYSHAKESPEARE in names and not tinyshakespeare.cached().is_file():
        raise UserError(
            "this machine has no copy of tiny Shakespeare, and only rank 0 downloads it",
            f"copy {tinyshakespeare.cached()} from there to the same place",
        )
    data = read_data(names)
    if not find.is_own(run, data):
        raise UserError(
            f"{', '.join(names)} holds another text than rank 0 has", "copy the text of rank 0 to this machine"
        )
    return run, find.own_dataset(run, data)


def _end(verdict: Verdict, go_on: str = "") -> NoReturn:
    """End this process at once, and name the command to `go_on` if it is known. Its main thread may wait for another rank, and no
    signal reaches it there."""
    try:
        if console.is_terminal:
            console.show_cursor()
            sys.stderr.write(CLEAR_LINE)
        remedy = f"go on with {go_on}" if verdict.lost and go_on else with_options(printable(verdict.remedy))
        errors.print(f"Error: {printable(verdict.problem)}; {remedy}", soft_wrap=True)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:  # also if the streams are gone
        os._exit(LOST if verdict.lost else 1)


def _stop_with_the_launcher() -> None:
    """Ask this process to stop when its standard input ends: the launcher holds the other end of the pipe."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _drop_noise() -> None:
    """Drop the lines of MLX's ring, dozens of them when a rank ends. They go to descriptor 2, past Python's streams."""
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

    threading.Thread(target=forward, daemon=True).start()


@contextmanager
def _killed_unless_connected() -> Iterator[None]:
    """Let another process end this one if the body takes too long: MLX waits for a neighbour without a limit, and no thread of
    this process runs meanwhile."""
    sentence = (
        f"Error: MLX did not connect rank {os.environ.get('MLX_RANK')} to its neighbours within {JOIN_SECONDS:g} s; see that each "
        "machine reaches the addresses of the others, and that no firewall blocks the ports\n"
    )
    command = [sys.executable, "-c", KILL, str(JOIN_SECONDS), sentence, str(os.getpid())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=sys.stderr) as process:
        try:
            yield
        finally:
            process.stdin.close()  # it sees the end of its input
            process.wait()
