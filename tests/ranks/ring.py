"""Ranks for tests: processes on this machine that MLX connects by its ring, with free ports and a time limit."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conftest import SESSION_CACHE, WAIT, Result, in_a_process
from mlx_nanogpt_cli.commands.launch import HERE, free_ports

COMMAND = "from mlx_nanogpt_cli import main; main()"
# Runs one command after the other, each given as words in JSON, and ends with the status of the last.
COMMANDS = """
import json, os, sys
from mlx_nanogpt_cli import main

stderr, descriptor = sys.stderr, os.dup(2)
for words in sys.argv[1:]:
    sys.argv = ["mlx-gpt", *json.loads(words)]
    try:
        main()
    except SystemExit as end:
        status = end.code
    sys.stderr = stderr
    os.dup2(descriptor, 2)  # a rank filters what is written to it
sys.exit(status)
"""
TRAINER = Path(__file__).with_name("trainer.py").read_text(encoding="utf-8")


@dataclass
class Ring:
    """Processes that are the ranks of one launch."""

    processes: list[subprocess.Popen]

    def results(self) -> list[Result]:
        """Wait for all ranks and return their results. Ranks that do not end in time are killed."""
        return finish_processes(self.processes)


def finish_processes(processes: Sequence[subprocess.Popen], seconds: float = WAIT) -> list[Result]:
    def kill() -> None:
        for process in processes:
            process.kill()

    limit = threading.Timer(seconds, kill)
    limit.start()
    outputs = [process.communicate() for process in processes]
    limit.cancel()
    return [Result(process.returncode, *output) for process, output in zip(processes, outputs)]


def start_ring(
    arguments: Sequence[Sequence], script: str = COMMAND, folders: Sequence[str] = (), missing: int = 0
) -> Ring:
    """Start a rank with each of `arguments`, in its own of `folders`, or in this one. They wait for `missing` more."""
    with tempfile.NamedTemporaryFile("w", delete=False, dir=".", suffix=".json") as file:
        json.dump([[f"{HERE}:{port}"] for port in free_ports(len(arguments) + missing)], file)
    common = os.environ | {"XDG_CACHE_HOME": SESSION_CACHE, "MLX_HOSTFILE": str(Path(file.name).absolute())}
    return Ring(
        [
            subprocess.Popen(
                [sys.executable, "-c", script, *map(str, words)],
                env=common | {"MLX_RANK": str(rank)},
                cwd=folders[rank] if folders else None,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank, words in enumerate(arguments)
        ]
    )


def train_by_ring(size: int, *runs: dict) -> list[list[dict]]:
    """Let `size` ranks train `runs` one after the other: see `trainer.py`. Return the records of each rank, one of a run."""
    results = start_ring([[json.dumps(runs)]] * size, TRAINER).results()
    assert all(result.status == 0 for result in results), results
    return [[json.loads(line) for line in result.out.splitlines()] for result in results]


def start_launcher(*arguments, script: str = COMMAND, **more) -> subprocess.Popen:
    """Start `mlx-gpt launch` in a process of its own: its ranks write to its streams."""
    return in_a_process("-c", script, "launch", *arguments, **more)


def ranks_of(launcher: int) -> list[int]:
    """Return the processes of ranks that `launcher` started, in their order, but for those that have ended."""
    # on a Mac, "pid=,ppid=" would be one column with a title
    command = ["ps", "-A", "-o", "pid=", "-o", "ppid=", "-o", "stat="]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return sorted(int(pid) for pid, parent, state in rows if int(parent) == launcher and not state.startswith("Z"))


def listening_sockets(process: int) -> set[str]:
    """Return the sockets at which `process` listens (Linux)."""
    tables = (Path(f"/proc/{process}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6"))
    rows = [line.split() for table in tables for line in table]
    listening = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"}
    return listening & {os.readlink(file) for file in Path(f"/proc/{process}/fd").iterdir() if file.is_symlink()}
