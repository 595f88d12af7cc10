"""A training of several ranks on the command line: what each is told, and how one ends when another is gone."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from mlx_nanogpt import Dataset, Run, UserError, sources
from mlx_nanogpt.distributed.joining import JOIN_SECONDS, joined, launched
from mlx_nanogpt.distributed.lifeline import Verdict
from mlx_nanogpt.distributed.ranks import Ranks
from mlx_nanogpt.errors import printable
from mlx_nanogpt.run import described_run
from mlx_nanogpt.text import tinyshakespeare
from mlx_nanogpt.text.corpus import TINYSHAKESPEARE
from mlx_nanogpt.text.identity import STANDARD_INPUT

from .consoles import console, errors
from .setting_options import with_options
from .stop_request import CLEAR_LINE
from .texts import read_data

LOST = 75  # the exit status when a rank is gone and a restart may help: EX_TEMPFAIL of sysexits.h
MAY_DIFFER = {"data", "device", "caffeinate"}  # between ranks: the text is compared by itself
RESUME_FILE = "MLX_GPT_RESUME_FILE"  # the variable that names a file for the options with which the training goes on
KILL = """
import os, select, signal, sys
if not select.select([0], [], [], float(sys.argv[1]))[0]:
    os.write(2, sys.argv[2].encode())
    os.kill(int(sys.argv[3]), signal.SIGKILL)
"""


@contextmanager
def joined_ranks(given: Mapping[str, object]) -> Iterator[Ranks]:
    """Join the ranks of a launch, started with the options `given`, for the time of the body."""
    if launched() and STANDARD_INPUT in given.get("data", ()):
        raise UserError("several ranks cannot share standard input", "write the text to a file on each machine")
    options = {name: str(value) for name, value in given.items() if name not in MAY_DIFFER}
    with joined(options, _end, _killed_unless_connected()) as ranks:
        yield ranks


def described_ranks(ranks: Ranks) -> str:
    return f"{ranks.size} by {ranks.backend}, on {', '.join(ranks.hosts)}"


def tell_run(ranks: Ranks, run: Run, options: list[str]) -> None:
    """Tell the other ranks of the run, and a launcher the `options` of mlx-gpt train that go on with it."""
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
    if not sources.is_own(run, data):
        raise UserError(
            f"{', '.join(names)} holds another text than rank 0 has", "copy the text of rank 0 to this machine"
        )
    return run, sources.own_dataset(run, data)


def _end(verdict: Verdict) -> NoReturn:
    """End this process at once. Its main thread may wait for another rank, and no signal reaches it there."""
    if console.is_terminal:
        console.show_cursor()
        os.write(2, CLEAR_LINE.encode())
    errors.print(f"Error: {with_options(printable(f'{verdict.problem}; {verdict.remedy}'))}", soft_wrap=True)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(LOST if verdict.lost else 1)


@contextmanager
def _killed_unless_connected() -> Iterator[None]:
    """Let another process end this one if the body takes too long: MLX waits for a neighbour without a limit, and no thread of
    this process runs meanwhile."""
    sentence = (
        f"Error: MLX did not connect rank {os.environ.get('MLX_RANK')} to its neighbours within {JOIN_SECONDS:g} s; see that each "
        "machine reaches the addresses of the others, and that no firewall blocks the ports\n"
    )
    command = [sys.executable, "-c", KILL, str(JOIN_SECONDS), sentence, str(os.getpid())]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        try:
            yield
        finally:
            process.stdin.close()  # it sees the end of its input
            process.wait()
