"""The cost of quantisation: the loss of exported models in mlx_lm, on the validation split of their run.

    pip install mlx-lm
    mlx-gpt export 1 --out my-gpt
    mlx_lm.convert --hf-path my-gpt --mlx-path my-gpt-8bit -q --q-bits 8
    python benchmarks/quantised.py runs/1 my-gpt my-gpt-8bit

Each token is predicted once, from those before it in its window, as `mlx-gpt eval` does.
"""

from pathlib import Path
from typing import Annotated

import mlx_nanogpt as gpt  # before mlx.core: it loads the BLAS
import mlx.core as mx
import mlx.nn as nn
import mlx_lm
import numpy as np
import typer
from mlx_nanogpt.runs.find import own_dataset
from mlx_nanogpt.text.batches import consecutive_windows

WINDOWS = 256  # at once


def main(
    run: Annotated[Path, typer.Argument(help="The run.")],
    folders: Annotated[list[Path], typer.Argument(help="Exports of it, quantised or not.")],
) -> None:
    """Print the size and the loss of each folder."""
    source = gpt.open_run(run)
    tokens = own_dataset(source).valid_tokens
    print("| Model | Bytes of weights | Nats per token |\n|---|---:|---:|")
    for folder in folders:
        model, _ = mlx_lm.load(str(folder))
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        print(f"| {folder} | {size:,} | {mean_loss(model, tokens, source.gpt_config.block_size):.4f} |")


def mean_loss(model: nn.Module, tokens: np.ndarray, block_size: int) -> float:
    """Return the mean loss of all of `tokens` but the first, in nats."""
    total = 0.0
    for idx, targets in consecutive_windows(tokens, WINDOWS, block_size):
        logits = model(mx.array(idx)).astype(mx.float32)
        total += nn.losses.cross_entropy(logits, mx.array(targets), reduction="sum").item()
    return total / (len(tokens) - 1)


if __name__ == "__main__":
    typer.run(main)
