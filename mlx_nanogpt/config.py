"""What a run is: `GPTConfig` says which model, `TrainConfig` how it is trained. Every default lives here, once.

Both are checked where they are built: a value that cannot work raises `UserError` with a remedy. Imports only `errors`.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from .errors import UserError

Backend = Literal["compiled", "eager"]


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT. The defaults are NanoLux's, with the architecture of the lecture: 311,361 parameters.

    `vocab_size` is the tokenizer's to say; 65 is tiny Shakespeare's.
    """

    vocab_size: int = 65
    block_size: int = 64
    n_layer: int = 6
    n_embd: int = 64
    head_size: int = 16
    dropout: float = 0.0

    def __post_init__(self) -> None:
        bounds = {"vocab_size": 2**24, "block_size": 2**20, "n_layer": 1000, "n_embd": 2**16, "head_size": 2**16}
        for name, most in bounds.items():
            _check_whole(name, getattr(self, name), most)
        if self.n_embd % self.head_size:
            sizes = ", ".join(str(size) for size in range(1, self.n_embd + 1) if self.n_embd % size == 0)
            raise UserError(f"head_size {self.head_size} does not divide n_embd {self.n_embd}; these sizes do: {sizes}")
        _check_real("dropout", self.dropout, 0 <= self.dropout < 1, "at least 0 and less than 1")

    @property
    def n_head(self) -> int:
        return self.n_embd // self.head_size


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained and how often it is looked at. The defaults are NanoLux's, but for `eval_iters`.

    Units: `num_iter` and `eval_interval` count steps of one batch; `batch_size` counts windows of `block_size` tokens;
    an evaluation reads `eval_iters * batch_size` windows of each split (NanoLux's protocol is 1,000).
    """

    num_iter: int = 5000
    batch_size: int = 32
    learning_rate: float = 1e-3
    seed: int = 1337
    backend: Backend = "compiled"
    eval_interval: int = 500
    eval_iters: int = 200

    def __post_init__(self) -> None:
        bounds = {"num_iter": 10**9, "batch_size": 2**16, "eval_interval": 10**9, "eval_iters": 10**6}
        for name, most in bounds.items():
            _check_whole(name, getattr(self, name), most)
        _check_whole("seed", self.seed, 2**63 - 1, least=0)
        _check_real("learning_rate", self.learning_rate, 0 < self.learning_rate <= 1, "more than 0 and at most 1")
        if self.backend not in get_args(Backend):
            raise UserError(f"backend {self.backend!r} is not known; choose one of: {', '.join(get_args(Backend))}")


def _check_whole(name: str, value: int, most: int, least: int = 1) -> None:
    if not (isinstance(value, int) and least <= value <= most):
        raise UserError(f"{name} {value} is out of range; give a whole number from {least} to {most}")


def _check_real(name: str, value: float, fits: bool, remedy: str) -> None:
    if not (math.isfinite(value) and fits):
        raise UserError(f"{name} {value} is out of range; give a number {remedy}")
