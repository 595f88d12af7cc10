"""NanoLux's own model in MLX, with its oddities: the proof that we understand the seed, and a peer for timings.

Run alone, it trains as NanoLux does and compares its final losses with those that NanoLux publishes:

    python benchmarks/peers/nanolux.py --num-iter 5000

Apart from the lecture's GPT: LayerNorm takes one mean and one variance over the whole batch, so a prediction depends on
its own future and on its neighbours; attention has no output projection and the model no final norm; dropout is in
the MLP only; the position table has a row for every symbol; and all weights are drawn from other ranges.
"""

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated

if __name__ == "__main__":  # a file that is run sees its own folder, not the package that the folder is
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mlx_nanogpt as gpt  # before mlx.core: it loads the BLAS
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import typer
from mlx_nanogpt.measure.benchmark import NANOLUX_GPT, NANOLUX_TRAIN, PUBLISHED
from mlx_nanogpt.text.batches import windows
from mlx_nanogpt.text.corpus import TINYSHAKESPEARE

from peers import Batch, EvaluationSet, Peer, Settings, mlx_loop, record

DROPOUT = 0.1
LAYER_NORM_EPS = 1e-5
TOLERANCE = 0.02  # nats; over seeds, a final loss has a standard deviation of 0.012, and one seed made all published
REPORT_INTERVAL = 500


def dense(in_dims: int, out_dims: int, bound: float, bias: bool = True) -> nn.Linear:
    """A linear layer with weights U(-bound, bound); Lux draws the biases as MLX does, U(-1/sqrt(in), 1/sqrt(in))."""
    layer = nn.Linear(in_dims, out_dims, bias)
    layer.weight = mx.random.uniform(-bound, bound, layer.weight.shape)
    return layer


def embedding(num_embeddings: int, dims: int) -> nn.Embedding:
    """An embedding U[0, 1)."""
    table = nn.Embedding(num_embeddings, dims)
    table.weight = mx.random.uniform(shape=table.weight.shape)
    return table


class WholeBatchNorm(nn.Module):
    """Lux's `LayerNorm` by default: statistics over all of (B, T, C), scale and bias for each channel."""

    def __init__(self, dims: int):
        super().__init__()
        self.weight = mx.ones(dims)
        self.bias = mx.zeros(dims)

    def __call__(self, x: mx.array) -> mx.array:
        return (x - mx.mean(x)) * mx.rsqrt(mx.var(x) + LAYER_NORM_EPS) * self.weight + self.bias


class Attention(nn.Module):
    def __init__(self, settings: Settings):
        super().__init__()
        C = settings.n_embd
        glorot = math.sqrt(6 / (C + C))
        self.n_head = settings.n_head
        self.query = dense(C, C, glorot, bias=False)
        self.key = dense(C, C, glorot, bias=False)
        self.value = dense(C, C, glorot, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        B, T, C = x.shape
        q, k, v = (
            layer(x).reshape(B, T, self.n_head, -1).swapaxes(1, 2) for layer in (self.query, self.key, self.value)
        )  # 3 x (B, nh, T, hs)
        y = mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask="causal")
        return y.swapaxes(1, 2).reshape(B, T, C)


class Block(nn.Module):
    def __init__(self, settings: Settings):
        super().__init__()
        C = settings.n_embd
        self.ln_1 = WholeBatchNorm(C)
        self.attn = Attention(settings)
        self.ln_2 = WholeBatchNorm(C)
        self.c_fc = dense(C, 4 * C, bound=2 * math.sqrt(3 / C))
        self.c_proj = dense(4 * C, C, bound=math.sqrt(3 / (4 * C)))
        self.dropout = nn.Dropout(DROPOUT)

    def __call__(self, x: mx.array) -> mx.array:
        x = x + self.attn(self.ln_1(x))
        return x + self.dropout(self.c_proj(nn.relu(self.c_fc(self.ln_2(x)))))


class NanoLux(nn.Module):
    def __init__(self, settings: Settings):
        super().__init__()
        C = settings.n_embd
        self.wte = embedding(settings.vocab_size, C)
        self.wpe = embedding(settings.vocab_size, C)
        self.h = [Block(settings) for _ in range(settings.n_layer)]
        self.lm_head = dense(C, settings.vocab_size, bound=math.sqrt(3 / C))

    def __call__(self, idx: mx.array) -> mx.array:
        x = self.wte(idx) + self.wpe.weight[: idx.shape[1]]  # (B, T, C)
        for block in self.h:
            x = block(x)
        return self.lm_head(x)


def make(settings: Settings) -> Peer:
    mx.random.seed(settings.seed)
    return mlx_loop.make_peer(NanoLux(settings), settings)


def shuffled_batches(
    tokens: np.ndarray, starts: np.ndarray, settings: Settings, rng: np.random.Generator
) -> Iterator[Batch]:
    """Batches of the windows that begin at `starts`, without replacement, shuffled anew when all have been seen."""
    while True:
        order = rng.permutation(starts)
        for i in range(0, len(order) - settings.batch_size + 1, settings.batch_size):
            yield windows(tokens, order[i : i + settings.batch_size], settings.block_size)


def main(
    num_iter: Annotated[int, typer.Option(help="Training steps.")] = NANOLUX_TRAIN.num_iter,
    seed: Annotated[int, typer.Option(help="Of the weights, the windows and dropout.")] = NANOLUX_TRAIN.seed,
    eval_iters: Annotated[
        int, typer.Option(help="Batches of each split in the final evaluation.")
    ] = NANOLUX_TRAIN.eval_iters,
) -> None:
    """Train NanoLux's model as NanoLux does, and compare the final losses with the published ones."""
    text = gpt.load_corpus(TINYSHAKESPEARE).text.removesuffix("\n")  # NanoLux joins lines and so loses the last end
    tokens = gpt.CharTokenizer.of(text).encode(text)
    starts = np.arange(len(tokens) - NANOLUX_GPT.block_size - 2)  # it leaves out the last two windows
    boundary = round(NANOLUX_TRAIN.train_fraction * len(starts))

    settings = record.settings_of(NANOLUX_GPT, replace(NANOLUX_TRAIN, seed=seed))
    peer = make(settings)
    rng = np.random.default_rng(seed)
    batches = shuffled_batches(tokens, starts[:boundary], settings, rng)
    print(f"{peer.num_parameters:,} parameters, {boundary:,} + {len(starts) - boundary:,} windows")

    begun = time.perf_counter()
    for first in range(0, num_iter, REPORT_INTERVAL):
        count = min(REPORT_INTERVAL, num_iter - first)
        losses = peer.train(list(islice(batches, count)))
        print(
            f"iteration {first + count}: mean training loss {np.mean(losses):.4f}, {time.perf_counter() - begun:.0f} s"
        )

    def estimate(part: np.ndarray) -> float:
        evaluated = islice(shuffled_batches(tokens, part, settings, rng), eval_iters)
        return peer.evaluate(EvaluationSet(list(evaluated), tokens))

    train_loss, valid_loss = estimate(starts[:boundary]), estimate(starts[boundary:])
    published = PUBLISHED["Reactant"]
    within = abs(train_loss - published.train_loss) < TOLERANCE and abs(valid_loss - published.valid_loss) < TOLERANCE
    print(f"train {train_loss:.4f} (published {published.train_loss}), valid {valid_loss:.4f} ({published.valid_loss})")
    result = record.circumstances("benchmarks/peers/nanolux.py") | {
        "num_iter": num_iter,
        "seed": seed,
        "eval_windows_per_split": eval_iters * settings.batch_size,
        "num_parameters": peer.num_parameters,
        "train_loss": train_loss,
        "valid_loss": valid_loss,
        "published_train_loss": published.train_loss,
        "published_valid_loss": published.valid_loss,
        "tolerance": TOLERANCE,
        "within_tolerance": within,
        "seconds": time.perf_counter() - begun,
    }
    print(f"written to {record.write_json(f'nanolux-seed{seed}', result)}")
    if not within:
        print(f"not within {TOLERANCE} of the published losses, which took {NANOLUX_TRAIN.num_iter} iterations")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
