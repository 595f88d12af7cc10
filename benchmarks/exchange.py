"""What it costs ranks to exchange their gradients: measured between two processes of this machine, and on paper between two Macs.

python benchmarks/exchange.py
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import mlx_nanogpt as gpt
import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map
from mlx_nanogpt.config import tokens_per_step
from mlx_nanogpt.machine import describe_device, package_versions
from mlx_nanogpt.measure.roofline import CHIPS, LAUNCH_SECONDS, MAC_OPERATIONS, PRODUCTS_SHARE
from mlx_nanogpt.measure.timing import flops_per_token
from mlx_nanogpt_cli.commands.launch import HERE, free_ports

PRESETS = ("nanolux", "baby", "gpt2")
ROUNDS, SECONDS = 30, 20  # at most, of each model
RANKS = 2

CHIP = "Apple M4 Pro"
LINKS = {"10 Gb/s Ethernet": 1.25e9, "Thunderbolt 4, 40 Gb/s": 5e9, "Thunderbolt 5, 80 Gb/s": 10e9}  # bytes/s, nominal
REACHED = 0.7  # of a link's nominal rate, assumed
MESSAGE = 1e-4  # seconds that a message takes over TCP, however short it is: assumed
GROUP = 32 * 2**20  # bytes that MLX sends together


def sent_bytes(parameters: int) -> float:
    """What a rank sends in a step: in a ring each number goes around twice, but for the part that a rank has already."""
    return 2 * (RANKS - 1) / RANKS * 4 * parameters


def measure() -> None:
    """As a rank: time the average of gradients as large as those of each model; rank 0 prints the seconds of each round."""
    group = mx.distributed.init(strict=True, backend="ring")
    for name in PRESETS:
        grads = tree_map(mx.ones_like, gpt.GPT(gpt.preset(name)[0]).parameters())
        mx.eval(grads)
        times: list[float] = []
        enough = False
        while not enough:
            mx.eval(mx.distributed.all_sum(mx.array(1.0)))  # all begin together
            started = time.perf_counter()
            mx.eval(nn.average_gradients(grads, group))
            times.append(time.perf_counter() - started)
            done = len(times) > ROUNDS or sum(times) > SECONDS
            enough = mx.distributed.all_sum(mx.array(float(done))).item() > 0
        if group.rank() == 0:
            print(json.dumps(times[1:] or times), flush=True)


def measured() -> list[list[float]]:
    """The rounds of each model, between two processes of this machine."""
    with TemporaryDirectory() as folder:
        hostfile = Path(folder, "ring.json")
        hostfile.write_text(json.dumps([[f"{HERE}:{port}"] for port in free_ports(RANKS)]))
        processes = [
            subprocess.Popen(
                [sys.executable, __file__],
                env=os.environ | {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(hostfile)},
                stdout=subprocess.PIPE if rank == 0 else None,
                text=True,
            )
            for rank in range(RANKS)
        ]
        out, _ = processes[0].communicate()
        if any(process.wait() for process in processes):
            sys.exit("a rank failed")
    return [json.loads(line) for line in out.splitlines()]


def step_seconds(name: str, ranks: int) -> float:
    """Seconds of the arithmetic of a step and of the start of its operations, on paper. Operations do not become fewer when each
    rank has fewer rows, and are counted for six layers."""
    gpt_config, train_config = gpt.preset(name)
    flops = flops_per_token(gpt.GPT(gpt_config)) * tokens_per_step(gpt_config, train_config)
    operations = MAC_OPERATIONS["step"] * gpt_config.n_layer / 6 * train_config.gradient_accumulation_steps
    return operations * LAUNCH_SECONDS + flops / ranks / (PRODUCTS_SHARE * CHIPS[CHIP].flops)


def exchange_seconds(parameters: int, rate: float) -> float:
    """Seconds of an exchange over a link, on paper; the last summand is the question whether to stop."""
    groups = -(-4 * parameters // GROUP)
    return sent_bytes(parameters) / (REACHED * rate) + (groups + 1) * 2 * (RANKS - 1) * MESSAGE


def main() -> None:
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    print(f"{describe_device()}, {versions}, {RANKS} ranks on this machine\n")
    print("| Preset | Parameters | Sent by a rank in a step | average_gradients | Smallest and largest |")
    print("|---|---:|---:|---:|---:|")
    for name, times in zip(PRESETS, measured()):
        count = gpt.GPT(gpt.preset(name)[0]).num_parameters()
        low, middle, high = (1000 * each for each in (min(times), statistics.median(times), max(times)))
        print(
            f"| `{name}` | {count:,} | {sent_bytes(count) / 1e6:,.1f} MB | {middle:,.1f} ms | {low:,.1f} to {high:,.1f} ms |"
        )
    print(f"\nOn paper, two {CHIP} instead of one: how many times as fast is a step?\n")
    print(f"| Preset | A step alone | {' | '.join(LINKS)} |\n|---|---:|{'---:|' * len(LINKS)}")
    for name in PRESETS:
        alone, count = step_seconds(name, 1), gpt.GPT(gpt.preset(name)[0]).num_parameters()
        shared = [step_seconds(name, RANKS) + exchange_seconds(count, rate) for rate in LINKS.values()]
        print(f"| `{name}` | {1000 * alone:,.1f} ms | {' | '.join(f'{alone / each:.2f}' for each in shared)} |")


if __name__ == "__main__":
    measure() if "MLX_RANK" in os.environ else main()
