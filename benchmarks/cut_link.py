"""A link is cut in the middle of a training by three ranks: does every rank end, and is nothing lost?

    sudo "$(which python)" benchmarks/cut_link.py

The nearest thing to three machines that one has: each rank has a network namespace of its own on Linux, and a virtual cable to
a switch. In turn the cable of each rank is cut, and last only the way from rank 1 to rank 2, while both reach rank 0: then the
reduction hangs, and all ranks are there. Each time the cable is plugged in again, the training goes on, and its end is compared with
that of a training that was never cut. Needs root, and `ip` of iproute2.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import mlx_nanogpt as gpt
import mlx.core as mx
import numpy as np
from mlx_nanogpt.distributed.lifeline import STALL_SECONDS

SIZE, PORT = 3, 7001
SWITCH = "gpt-switch"
TRAIN = ["train", "--data=pastiche", "--num-iter=200", "--eval-interval=20", "--eval-iters=5", "--n-layer=2"]
LIMIT = STALL_SECONDS + 30  # seconds for all ranks to end


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def host(rank: int) -> str:
    return f"gpt-{rank}"


def address(rank: int) -> str:
    return f"10.77.0.{rank + 1}"


@contextmanager
def cables() -> Iterator[None]:
    """A namespace for each rank, and one for the switch between them."""
    names = [SWITCH, *map(host, range(SIZE))]
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", SWITCH, "link", "add", "bridge", "type", "bridge")
        ip("-n", SWITCH, "link", "set", "bridge", "up")
        for rank in range(SIZE):
            ip("-n", host(rank), "link", "add", "cable", "type", "veth", "peer", "name", f"port{rank}", "netns", SWITCH)
            ip("-n", host(rank), "address", "add", f"{address(rank)}/24", "dev", "cable")
            ip("-n", host(rank), "link", "set", "cable", "up")
            ip("-n", SWITCH, "link", "set", f"port{rank}", "master", "bridge")
            ip("-n", SWITCH, "link", "set", f"port{rank}", "up")
        yield
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL)


@contextmanager
def without_cable(rank: int) -> Iterator[str]:
    """The network with the cable of a rank pulled out."""
    ip("-n", SWITCH, "link", "set", f"port{rank}", "down")
    try:
        yield f"The cable of rank {rank} is cut"
    finally:
        ip("-n", SWITCH, "link", "set", f"port{rank}", "up")


@contextmanager
def without_way() -> Iterator[str]:
    """The network with no way from rank 1 to rank 2, and neighbours that reach rank 0."""
    way = ("route", "add", "blackhole", f"{address(2)}/32")
    ip("-n", host(1), *way)
    try:
        yield "The way from rank 1 to rank 2 is cut"
    finally:
        ip("-n", host(1), "route", "delete", *way[2:])


def started(folder: Path, options: list[str]) -> list[subprocess.Popen]:
    """All ranks of a training."""
    hostfile = folder / "ring.json"
    hostfile.write_text(json.dumps([[f"{address(rank)}:{PORT}"] for rank in range(SIZE)]))
    return [
        subprocess.Popen(
            ["ip", "netns", "exec", host(rank), sys.executable, "-m", "mlx_nanogpt_cli", *options],
            cwd=folder,
            env=os.environ | {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(hostfile)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(SIZE)
    ]


def ends(processes: list[subprocess.Popen]) -> list[tuple[float, int, str]]:
    """For each rank: the seconds until it ended, its exit status, and what it said."""
    start, found = time.monotonic(), {}
    while len(found) < SIZE:
        if time.monotonic() - start > LIMIT:
            for process in processes:
                process.kill()
            sys.exit(f"after {LIMIT:g} s only the ranks {sorted(found)} have ended")
        for rank, process in enumerate(processes):
            if rank not in found and process.poll() is not None:
                said = [line for line in process.stderr.read().splitlines() if not line.startswith("[ring]")]
                found[rank] = (time.monotonic() - start, process.returncode, " ".join(said))
        time.sleep(0.05)
    return [found[rank] for rank in range(SIZE)]


def weights(run: Path) -> dict[str, bytes]:
    return {name: np.array(array).tobytes() for name, array in mx.load(str(run / "checkpoint.safetensors")).items()}


def main() -> None:
    with TemporaryDirectory() as work, cables():
        folder = Path(work)
        assert all(status == 0 for _, status, _ in ends(started(folder, [*TRAIN, "--run-dir=whole"])))
        for number, cut in enumerate([*(without_cable(rank) for rank in range(SIZE)), without_way()]):
            run = folder / f"cut-{number}"
            processes = started(folder, [*TRAIN, f"--run-dir={run.name}"])
            while not (run / "checkpoint.safetensors").exists():
                if processes[0].poll() is not None:
                    sys.exit("rank 0 ended before its first checkpoint")
                time.sleep(0.05)
            with cut as what:
                print(f"{what} at or after iteration {gpt.open_run(run).position().iteration}.", flush=True)
                for rank, (seconds, status, said) in enumerate(ends(processes)):
                    print(f"  Rank {rank} ended after {seconds:.1f} s with status {status}. {said}")
            assert all(status == 0 for _, status, _ in ends(started(folder, ["train", "--resume", run.name])))
            same = weights(run) == weights(folder / "whole")
            print(f"  Plugged in and resumed, it ended with {'the same' if same else 'OTHER'} bits.", flush=True)


if __name__ == "__main__":
    main()
