"""The speed of a chip on NanoLux's benchmark, on paper: a range, from its published peaks. No Mac has run this project yet.

A step is short operations, products and traffic of memory, one after the other. These rates are assumed:

    an operation    2.75 us               (github.com/ml-explore/mlx, issue 4521)
    products        45% of the peak
    traffic         65% of the bandwidth

Their sum is right for the one step that is known: another trainer's, of 286 operations, for which it gives 3.0 ms on an M4 Max. There it
took 2.65 ms queued behind others, and 3.3 ms alone. So the range is from 0.88 to 1.1 times the sum.
"""

from dataclasses import dataclass

from ..config import tokens_per_step
from ..machine import Machine
from ..model import GPT
from .benchmark import NANOLUX_GPT, NANOLUX_TRAIN
from .timing import flops_per_token

MAC_OPERATIONS = {"step": 310, "evaluation": 78, "token": 94}
"""Operations that compute in a Mac's graph, with the default settings; tests/gpu counts them."""
SECOND_KERNELS = {"step": 120, "evaluation": 0, "token": 0}
"""Kernels beyond one for each operation: Metal's large sums over rows take two, the gradient of LayerNorm takes five."""
STEP_TRAFFIC = 620e6  # bytes that a step of the default settings moves

LAUNCH_SECONDS, PRODUCTS_SHARE, TRAFFIC_SHARE = 2.75e-6, 0.45, 0.65
QUEUED, ALONE = 2.65 / 3.0, 3.3 / 3.0  # the measured step, in parts of the sum


@dataclass(frozen=True)
class Chip:
    """Float32 operations and bytes per second of a chip's GPU, at their published peaks."""

    flops: float
    bandwidth: float


# The GPU with all cores of each chip: Apple's press releases, and the clock rates that others measured. The products of an M5 may be
# faster: its cores have accelerators for them, with the digits of TF32.
CHIPS = {
    "Apple M1": Chip(2.6e12, 68e9),
    "Apple M1 Pro": Chip(5.2e12, 200e9),
    "Apple M1 Max": Chip(10.4e12, 400e9),
    "Apple M1 Ultra": Chip(21.2e12, 800e9),
    "Apple M2": Chip(3.6e12, 100e9),
    "Apple M2 Pro": Chip(6.8e12, 200e9),
    "Apple M2 Max": Chip(13.6e12, 400e9),
    "Apple M2 Ultra": Chip(27.2e12, 800e9),
    "Apple M3": Chip(4.1e12, 100e9),
    "Apple M3 Pro": Chip(7.4e12, 150e9),
    "Apple M3 Max": Chip(16.4e12, 400e9),
    "Apple M3 Ultra": Chip(28.2e12, 819e9),
    "Apple M4": Chip(4.3e12, 120e9),
    "Apple M4 Pro": Chip(9.2e12, 273e9),
    "Apple M4 Max": Chip(18.4e12, 546e9),
    "Apple M5": Chip(4.4e12, 153e9),
    "Apple M5 Pro": Chip(8.9e12, 307e9),
    "Apple M5 Max": Chip(17.8e12, 614e9),
}


def expected_seconds(chip: str) -> dict[str, tuple[float, float]] | None:
    """Return seconds, queued and alone, of a step, of a batch of an evaluation and of a generated token, with NanoLux's
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
        seconds = (
            (MAC_OPERATIONS[name] + SECOND_KERNELS[name]) * LAUNCH_SECONDS
            + flops / (PRODUCTS_SHARE * CHIPS[chip].flops)
            + traffic / (TRAFFIC_SHARE * CHIPS[chip].bandwidth)
        )
        ranges[name] = (QUEUED * seconds, ALONE * seconds)
    return ranges
