"""What a run is: `GPTConfig` says which model, `TrainConfig` how it is trained. Every default lives here, once, and so do
the presets, which are other places to start from.

Both are checked where they are built: a value that cannot work raises `UserError` with a remedy. Imports only `errors`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple, get_args

from .errors import UserError

Backend = Literal["compiled", "eager"]
Bias = Literal["lecture", "all", "none"]
Activation = Literal["relu", "gelu"]
Dtype = Literal["float32", "bfloat16"]
LEAST_RATE = 1.17549435e-38  # float32's smallest normal number: a smaller rate may become 0, which trains nothing


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT. The defaults are NanoLux's, with the architecture of the lecture: 311,361 parameters.

    `vocab_size` is the tokenizer's to say; 65 is tiny Shakespeare's. `bias` says which layers have one: "all" as in GPT-2,
    "none" as in nanoGPT's training, or all but the queries, keys and values, as in the lecture. A `tied` head is the
    token embedding itself, without a bias (GPT-2). "gelu" is GPT-2's, the one with a tanh.
    """

    vocab_size: int = 65
    block_size: int = 64
    n_layer: int = 6
    n_embd: int = 64
    head_size: int = 16
    dropout: float = 0.0
    bias: Bias = "lecture"
    tied: bool = False
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        bounds = {"vocab_size": 2**24, "block_size": 2**20, "n_layer": 1000, "n_embd": 2**16, "head_size": 2**16}
        for name, most in bounds.items():
            _check_whole(name, getattr(self, name), most)
        if self.n_embd % self.head_size:
            sizes = ", ".join(str(size) for size in range(1, self.n_embd + 1) if self.n_embd % size == 0)
            raise UserError(f"head_size {self.head_size} does not divide n_embd {self.n_embd}; these sizes do: {sizes}")
        _check_real("dropout", self.dropout, lambda x: 0 <= x < 1, "at least 0 and less than 1")
        check_choice("bias", self.bias, Bias)
        _check_bool("tied", self.tied)
        check_choice("activation", self.activation, Activation)

    @property
    def n_head(self) -> int:
        return self.n_embd // self.head_size


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained and how often it is looked at. The defaults are NanoLux's, but for `eval_iters`.

    Units: `num_iter`, `eval_interval`, `warmup_iters` and `lr_decay_iters` count steps; a step learns from
    `gradient_accumulation_steps` batches of `batch_size` windows of `block_size` tokens; an evaluation reads
    `eval_iters * batch_size` windows of each split (NanoLux's protocol is 1,000). `train_fraction` of the text trains, the
    rest validates.

    The rate rises linearly to `learning_rate` over `warmup_iters` steps, then falls along a cosine to `min_lr` at step
    `lr_decay_iters` and stays there; with 0 it does not fall. `weight_decay` is AdamW's, on matrices only. `grad_clip`
    is the largest norm of all gradients together; 0 leaves them as they are. `patience` is how many evaluations in a row
    may bring no better validation loss before the training ends; 0 is any number. In "bfloat16" the model computes with
    rounded copies of its float32 weights; evaluations are always float32.
    """

    num_iter: int = 5000
    batch_size: int = 32
    gradient_accumulation_steps: int = 1
    learning_rate: float = 1e-3
    warmup_iters: int = 0
    lr_decay_iters: int = 0
    min_lr: float = 0.0
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    grad_clip: float = 0.0
    dtype: Dtype = "float32"
    train_fraction: float = 0.8
    seed: int = 1337
    backend: Backend = "compiled"
    eval_interval: int = 500
    eval_iters: int = 200
    patience: int = 0

    def __post_init__(self) -> None:
        bounds = {
            "num_iter": 10**9,
            "batch_size": 2**16,
            "gradient_accumulation_steps": 1024,
            "eval_interval": 10**9,
            "eval_iters": 10**6,
        }
        for name, most in bounds.items():
            _check_whole(name, getattr(self, name), most)
        for name in ("warmup_iters", "lr_decay_iters", "patience"):
            _check_whole(name, getattr(self, name), 10**9, least=0)
        _check_whole("seed", self.seed, 2**63 - 1, least=0)
        _check_real("learning_rate", self.learning_rate, lambda x: LEAST_RATE <= x <= 1, f"from {LEAST_RATE} to 1")
        _check_real("weight_decay", self.weight_decay, lambda x: 0 <= x <= 10, "from 0 to 10")
        _check_real("beta1", self.beta1, lambda x: 0 <= x < 1, "at least 0 and less than 1")
        _check_real("beta2", self.beta2, lambda x: 0 <= x < 1, "at least 0 and less than 1")
        _check_real("grad_clip", self.grad_clip, lambda x: x >= 0, "of 0 (off) or more")
        _check_real("train_fraction", self.train_fraction, lambda x: 0 < x < 1, "more than 0 and less than 1")
        check_choice("backend", self.backend, Backend)
        check_choice("dtype", self.dtype, Dtype)
        self._check_schedule()

    def _check_schedule(self) -> None:
        _check_real(
            "min_lr",
            self.min_lr,
            lambda x: 0 <= x <= self.learning_rate,
            f"from 0 to learning_rate, {self.learning_rate:g}",
        )
        if self.lr_decay_iters == 0 and self.min_lr > 0:
            raise UserError(
                f"min_lr {self.min_lr:g} is never reached without a decay; give lr_decay_iters, too, or a min_lr of 0"
            )
        if 0 < self.lr_decay_iters <= self.warmup_iters:
            raise UserError(
                f"lr_decay_iters {self.lr_decay_iters} is not after warmup_iters {self.warmup_iters}; give a larger one"
            )


class Preset(NamedTuple):
    """A place to start from: one line on what it is for, and the fields of both configurations that it sets."""

    description: str
    settings: dict[str, object]


# What nanoGPT's configurations have in common, and what those for tiny Shakespeare's characters do. The share of the text
# is that of its Shakespeare, also for GPT-2: OpenWebText, of which it keeps 0.05%, is a thousand times longer.
_NANOGPT = {
    "bias": "none",
    "tied": True,
    "activation": "gelu",
    "weight_decay": 0.1,
    "grad_clip": 1.0,
    "train_fraction": 0.9,
}
_SHAKESPEARE_CHAR = _NANOGPT | {"warmup_iters": 100, "min_lr": 1e-4, "beta2": 0.99, "eval_interval": 250}

PRESETS = {
    "nanolux": Preset("NanoLux's benchmark, with its long evaluation", {"eval_iters": 1000}),
    "laptop": Preset(
        "nanoGPT's for the CPU of a laptop",
        _SHAKESPEARE_CHAR
        | {"n_layer": 4, "n_embd": 128, "head_size": 32}
        | {"num_iter": 2000, "lr_decay_iters": 2000, "batch_size": 12, "eval_iters": 20},
    ),
    "baby": Preset(
        "nanoGPT's baby GPT, for a GPU",
        _SHAKESPEARE_CHAR
        | {"n_embd": 384, "head_size": 64, "block_size": 256, "dropout": 0.2}
        | {"lr_decay_iters": 5000, "batch_size": 64},
    ),
    "gpt2": Preset(
        "GPT-2 124M as nanoGPT trains it",
        _NANOGPT
        | {"tokenizer": "gpt2", "vocab_size": 50257, "block_size": 1024, "n_layer": 12, "n_embd": 768, "head_size": 64}
        | {"num_iter": 600_000, "batch_size": 12, "gradient_accumulation_steps": 40, "dtype": "bfloat16"}
        | {"learning_rate": 6e-4, "warmup_iters": 2000, "lr_decay_iters": 600_000, "min_lr": 6e-5, "beta2": 0.95}
        | {"eval_interval": 1000},
    ),
}


def configurations(settings: Mapping[str, object]) -> tuple[GPTConfig, TrainConfig]:
    """Both configurations with the values that `settings` has for their fields, and the defaults for the rest. Its other
    names are not looked at. Raises `UserError` for a value that cannot work."""
    gpt, train = (
        {field.name: settings[field.name] for field in fields(config) if field.name in settings}
        for config in (GPTConfig, TrainConfig)
    )
    return GPTConfig(**gpt), TrainConfig(**train)


def _check_whole(name: str, value: int, most: int, least: int = 1) -> None:
    if type(value) is not int or not least <= value <= most:
        raise UserError(f"{name} {value!r} is out of range; give a whole number from {least} to {most}")


def _check_real(name: str, value: float, fits: Callable[[float], bool], remedy: str) -> None:
    if type(value) not in (int, float) or not (math.isfinite(value) and fits(value)):
        raise UserError(f"{name} {value!r} is out of range; give a number {remedy}")


def _check_bool(name: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise UserError(f"{name} {value!r} is neither true nor false; give one of them")


def check_choice(name: str, value: str, choices: object) -> None:
    """Raise `UserError` unless `value` is one of `choices`, a `Literal`."""
    if value not in get_args(choices):
        raise UserError(f"{name} {value!r} is not known; choose one of: {', '.join(get_args(choices))}")
