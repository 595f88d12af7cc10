"""One peer in a process of its own: `python -m peers.worker NAME` reads commands and writes replies, one JSON a line.

    {"do": "make", "settings": {...}, "folder": "..."}  -> {"device": "cpu", "num_parameters": 311361, "generates": true}
    {"do": "train", "first": 0, "last": 20}             -> {"seconds": 2.8, "losses": [...]}
    {"do": "evaluate"}                                  -> {"seconds": 0.9, "loss": 2.5}
    {"do": "generate", "num_tokens": 500}               -> {"seconds": 1.2}
    {"do": "peak_memory"}                               -> {"bytes": 400000000}

The data lies in `folder`: train.npy and evaluation.npy hold batches (count, 2, B, T), tokens.npy the text (N,). It ends
with its standard input.
"""

import json
import os
import re
import resource
import sys
import time
from pathlib import Path

import numpy as np

from peers import PEERS, EvaluationSet, Settings


class Commands:
    """The commands of a peer; each method returns its reply."""

    def __init__(self, name: str):
        self.entry = PEERS[name]

    def make(self, settings: dict, folder: str) -> dict:
        self.batches = _batches(Path(folder) / "train.npy")
        self.evaluation = EvaluationSet(_batches(Path(folder) / "evaluation.npy"), np.load(Path(folder) / "tokens.npy"))
        self.peer = self.entry.make(Settings(**settings))
        return {
            "device": self.peer.device,
            "num_parameters": self.peer.num_parameters,
            "generates": self.peer.generate is not None,
        }

    def train(self, first: int, last: int) -> dict:
        started = time.perf_counter()
        losses = self.peer.train(self.batches[first:last])
        return {"seconds": time.perf_counter() - started, "losses": losses}

    def evaluate(self) -> dict:
        started = time.perf_counter()
        loss = self.peer.evaluate(self.evaluation)
        return {"seconds": time.perf_counter() - started, "loss": loss}

    def generate(self, num_tokens: int) -> dict:
        started = time.perf_counter()
        self.peer.generate(num_tokens)
        return {"seconds": time.perf_counter() - started}

    def peak_memory(self) -> dict:
        if sys.platform == "linux":  # getrusage would count the parent's memory, which the process shared when it began
            return {"bytes": 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])}
        return {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def _batches(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(idx, targets) for idx, targets in np.load(path)]


def main() -> None:
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # the output of a framework is not a reply
    commands = Commands(sys.argv[1])
    for line in sys.stdin:
        command = json.loads(line)
        reply = getattr(commands, command.pop("do"))(**command)
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
