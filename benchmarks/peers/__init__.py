"""The peers: the same small GPT in other people's frameworks and styles, each in one file, all behind one interface.

A peer's file has a function `make(settings) -> Peer`, with a keyword for each variant. `PEERS` lists them all.

This module and the PyTorch and JAX peers must not import `mlx_nanogpt`: it loads MLX and a BLAS into the process, and
each peer is to be alone in its own. The MLX peers must import it, and before `mlx.core`, to have the BLAS that we have.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module

import numpy as np

Batch = tuple[np.ndarray, np.ndarray]  # token ids and their targets one token later, both (B, T), unsigned integers


@dataclass(frozen=True)
class Settings:
    """The settings of every peer. No defaults: they are the product's (see `record.settings_of`)."""

    vocab_size: int
    block_size: int
    n_layer: int
    n_embd: int
    head_size: int
    batch_size: int
    learning_rate: float
    seed: int
    init_std: float
    start_token: int

    @property
    def n_head(self) -> int:
        return self.n_embd // self.head_size

    @property
    def residual_std(self) -> float:
        """That of the layers that write to the residual stream, two per layer (GPT-2)."""
        return self.init_std / math.sqrt(2 * self.n_layer)


@dataclass(frozen=True)
class EvaluationSet:
    """Windows as batches of equal size, and the text (N,) that they come from, from which the product cuts the same."""

    batches: Sequence[Batch]
    tokens: np.ndarray

    @property
    def num_windows(self) -> int:
        return sum(len(idx) for idx, _ in self.batches)


@dataclass(frozen=True)
class Peer:
    """A model and its optimizer on a device. Every function returns only when all that it started is computed.

    `train` makes one step per batch and returns each step's loss before its update. `evaluate` returns the mean loss,
    forward only. `generate` returns that many token ids after the start token; None where it would measure nothing new.
    """

    device: str
    num_parameters: int
    train: Callable[[Sequence[Batch]], list[float]]
    evaluate: Callable[[EvaluationSet], float]
    generate: Callable[[int], list[int]] | None = None


@dataclass(frozen=True)
class Entry:
    """Where a peer is made: the file, the package that it needs, the keywords that choose the variant."""

    title: str
    module: str
    package: str
    variant: Mapping[str, object] = field(default_factory=dict)
    same_model: bool = True

    def make(self, settings: Settings) -> Peer:
        return import_module(f"{__name__}.{self.module}").make(settings, **self.variant)


OURS = "ours"
PEERS = {
    OURS: Entry("mlx_nanogpt, compiled", "ours", "mlx", {"backend": "compiled"}),
    "ours-eager": Entry("mlx_nanogpt, eager", "ours", "mlx", {"backend": "eager"}),
    "mlx-examples": Entry("MLX as in its examples, compiled", "mlx_examples", "mlx"),
    "torch-lecture": Entry("PyTorch as in the lecture, eager", "torch_lecture", "torch"),
    "torch-fused": Entry("PyTorch with fused attention, eager", "torch_fused", "torch"),
    "torch-compiled": Entry("PyTorch with fused attention, torch.compile", "torch_fused", "torch", {"compiled": True}),
    "jax": Entry("JAX, jit (XLA)", "jax_jit", "jax"),
    "nanolux": Entry("NanoLux's model in MLX, compiled", "nanolux", "mlx", same_model=False),
}
