"""A capture of one compiled step of the default settings by Metal, to open in Xcode.

MTL_CAPTURE_ENABLED=1 python benchmarks/capture.py
"""

import sys
from pathlib import Path

import mlx_nanogpt as gpt
import mlx.core as mx
from mlx_nanogpt.measure.benchmark import NANOLUX_GPT, NANOLUX_TRAIN
from mlx_nanogpt.training import start_step

TRACE = "step.gputrace"


def main() -> None:
    if not mx.metal.is_available():
        sys.exit("Error: only Metal can capture a step, and this machine has none; run this on a Mac")
    if Path(TRACE).exists():
        sys.exit(f"Error: {TRACE} exists already; move it away")
    step, state = start_step(gpt.GPT(NANOLUX_GPT), NANOLUX_TRAIN)
    shape = NANOLUX_TRAIN.batch_size, NANOLUX_GPT.block_size
    idx, targets = mx.random.randint(0, NANOLUX_GPT.vocab_size, (2, *shape))
    for _ in range(3):  # compile first
        mx.eval(step(idx, targets)[0], state)
    mx.metal.start_capture(TRACE)
    mx.eval(step(idx, targets)[0], state)
    mx.metal.stop_capture()
    print(f"Written: {TRACE}; open it in Xcode")


if __name__ == "__main__":
    main()
