"""The speed of a chip on NanoLux's benchmark, on paper: a range, from its published peaks. No Mac has been measured yet.

A step is short operations, products and traffic of memory, one after the other. The range follows from these assumptions:

                        best                     worst
    an operation        1.2 us                   2.75 us     (github.com/ml-explore/mlx, issue 4521)
    products            75% of the peak          45% of it
    traffic             twice the bandwidth      65% of it   (in the best case half of it stays in a cache)
"""

from dataclasses import dataclass

from ..config import tokens_per_step
from ..machine import Machine
from ..model import GPT
from .benchmark import NANOLUX_GPT, NANOLUX_TRAIN
from .timing import flops_per_token

MAC_OPERATIONS = {"step": 310, "evaluation": 78, "token": 99}
"""Operations that compute in a Mac's graph, with the default settings; tests/gpu counts them."""
SECOND_KERNELS = {"step": 120, "evaluation": 0, "token": 0}
"""Kernels beyond one for each operation: Metal's large sums over rows take two, the gradient of LayerNorm takes five."""
STEP_TRAFFIC = 620e6  # bytes that a step of the default settings moves

BEST, WORST = (1.2e-6, 0.75, 2.0), (2.75e-6, 0.45, 0.65)


@dataclass(frozen=True)
class Chip:
    """Float32 operations and bytes per second of a chip's GPU, at their published peaks."""

    flops: float
    bandwidth: float


# The GPU with all cores of each chip: Apple's press releases, and the clock rates that others measured.
CHIPS = {
    "Apple M1": Chip(2.6e12, 68e9),
    "Apple M1 Pro": Chip(5.2e12, 200e9),
    "Apple M1 Max": Chip(10.4e12, 400e9),
    "Apple M2": Chip(3.6e12, 100e9),
    "Apple M2 Pro": Chip(6.8e12, 200e9),
    "Apple M2 Max": Chip(13.6e12, 400e9),
    "Apple M3": Chip(4.1e12, 100e9),
    "Apple M3 Pro": Chip(7.4e12, 150e9),
    "Apple M3 Max": Chip(16.4e12, 400e9),
    "Apple M4": Chip(4.3e12, 120e9),
    "Apple M4 Pro": Chip(9.2e12, 273e9),
    "Apple M4 Max": Chip(18.4e12, 546e9),
}


def expected_seconds(chip: str) -> dict[str, tuple[float, float]] | None:
    """Return seconds, at best and at worst, of a step, of a batch of an evaluation and of a generated token, with NanoLux's
    settings; None for a chip that is not listed."""
    if chip not in CHIPS:
        return None
    step_tokens = tokens_per_step(NANOLUX_GPT, NANOLUX_TRAIN)
    step_flops = flops_per_token(GPT(NANOLUX_GPT)) * step_tokens
    forward = Machine.eval_tokens / step_tokens / 3  # a forward pass is a third of a step's arithmetic and traffic
    work = {
        "step": (step_flops, STEP_TRAFFIC),
        "evaluation": (step_flops * forward, STEP_TRAFFIC * forward),
        "token": (0.0, 4.0 * GPT(NANOLUX_GPT).num_parameters()),
    }
    ranges = {}
    for name, (flops, traffic) in work.items():
        seconds = [
            (MAC_OPERATIONS[name] + SECOND_KERNELS[name]) * launch
            + flops / (share * CHIPS[chip].flops)
            + traffic / (factor * CHIPS[chip].bandwidth)
            for launch, share, factor in (BEST, WORST)
        ]
        ranges[name] = (seconds[0], seconds[1])
    return ranges
