"""Ranks for tests: processes on this machine that MLX connects by its ring, with ports of their own and a time limit."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conftest import SESSION_CACHE, Result

from mlx_nanogpt_cli.commands.launch import HERE, free_ports

COMMAND = "from mlx_nanogpt_cli import main; main()"
# a rank that is stopped counts as lost after a second
IMPATIENT = (
    "from mlx_nanogpt.distributed import lifeline; lifeline.BEAT_SECONDS, lifeline.SILENT_SECONDS = 0.2, 1.0;" + COMMAND
)
TRAINER = Path(__file__).with_name("trainer.py").read_text(encoding="utf-8")
SECONDS = 60  # for all that ranks do in a test


@dataclass
class Ring:
    """Processes that are the ranks of one launch."""

    processes: list[subprocess.Popen]

    def kill(self) -> None:
        for process in self.processes:
            process.kill()

    def results(self) -> list[Result]:
        """What each rank ended with. Ranks that do not end in time are killed."""
        limit = threading.Timer(SECONDS, self.kill)
        limit.start()
        outputs = [process.communicate() for process in self.processes]
        limit.cancel()
        return [Result(process.returncode, *output) for process, output in zip(self.processes, outputs)]


def start_ring(arguments: Sequence[Sequence], script: str = COMMAND, folders: Sequence[str] = ()) -> Ring:
    """Start a rank with each of `arguments`, in its own of `folders`, or in this one."""
    first = free_ports(HERE, len(arguments) + 1) + 1  # the ranks meet at the port before
    with tempfile.NamedTemporaryFile("w", delete=False, dir=".", suffix=".json") as file:
        json.dump([[f"{HERE}:{first + rank}"] for rank in range(len(arguments))], file)
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


def trained_by_ring(size: int, *trainings: dict) -> list[list[dict]]:
    """Let `size` ranks run `trainings` one after the other: see `trainer.py`. Return what each rank says of each."""
    results = start_ring([[json.dumps(trainings)]] * size, TRAINER).results()
    assert all(result.status == 0 for result in results), results
    return [[json.loads(line) for line in result.out.splitlines()] for result in results]
