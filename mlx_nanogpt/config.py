"""The settings of model and training.

A field states its type, default, range, unit, help and group here, once. The command line, the settings file and the
table in `cli/README.md` are made from it. A configuration refuses a value that cannot work with a `UserError`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from .errors import UserError

Backend = Literal["compiled", "eager"]
Bias = Literal["lecture", "all", "none"]
Activation = Literal["relu", "gelu", "relu2", "swiglu"]
Norm = Literal["layernorm", "rmsnorm"]
PositionKind = Literal["learned", "rope"]
Init = Literal["gpt2", "zero"]
OptimizerName = Literal["adam", "muon"]
Schedule = Literal["cosine", "linear", "wsd"]
Dtype = Literal["float32", "bfloat16"]
Order = Literal["random", "passes"]

MOST_TOKENS = 2**24  # in a vocabulary
LEAST_RATE = 1.17549435e-38  # float32's smallest normal number: a smaller rate may become 0, which trains nothing
MANY = 10**9

TEXT, MODEL, TRAINING = "Text", "Model", "Training"
OPTIMIZER, EVALUATION, MACHINE = "Optimizer", "Evaluation", "Machine"


@dataclass(frozen=True)
class Setting:
    """The help, group, unit and range of a setting. `above` and `below` are outside the range."""

    help: str
    group: str
    unit: str = ""
    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf
    below: float = math.inf

    def range(self) -> str:
        """The range in words, for example "from 0 to less than 1"."""
        start = f"more than {_shown(self.above)}" if self.above > -math.inf else _shown(self.least)
        if self.below < math.inf:
            return f"from {start} to less than {_shown(self.below)}"
        return f"from {start} " + (f"to {_shown(self.most)}" if self.most < math.inf else "up")

    def values(self, kind: Any) -> str:
        """The values that a field of the type `kind` may have, in words."""
        if kind in (int, float):
            return f"{'a whole number' if kind is int else 'a number'} {self.range()}"
        return _list_values(kind)

    def check(self, name: str, value: Any, kind: Any) -> None:
        """Raise `UserError` unless the field `name` of the type `kind` may have this value."""
        if kind not in (int, float):
            check_choice(name, value, kind)
        elif type(value) not in (int, float):
            raise UserError(f"{name} {value!r} is not a number", f"give {self.values(kind)}")
        elif type(value) not in (int, kind) or not (
            self.least <= value <= self.most and self.above < value < self.below
        ):
            raise UserError(f"{name} {value!r} is out of range", f"give {self.values(kind)}")


def setting(default: Any, help: str, group: str, unit: str = "", **bounds: float) -> Any:
    """A field of a configuration, with its `Setting`."""
    return field(default=default, metadata={"setting": Setting(help, group, unit, **bounds)})


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT. The defaults are NanoLux's, with the architecture of the lecture: 311,361 parameters.

    "gelu" is GPT-2's, the one with a tanh. A tied head has no bias.
    """

    # the tokenizer sets it; 65 is tiny Shakespeare's
    vocab_size: int = setting(65, "Vocabulary size.", TEXT, "tokens", least=1, most=MOST_TOKENS)
    n_embd: int = setting(64, "Width: numbers per token between layers.", MODEL, "channels", least=1, most=2**16)
    head_size: int = setting(16, "Width of an attention head; divides n_embd.", MODEL, "channels", least=1, most=2**16)
    n_layer: int = setting(6, "Number of transformer blocks.", MODEL, "blocks", least=1, most=1000)
    block_size: int = setting(
        64, "Context: how many tokens the model sees at once.", MODEL, "tokens", least=1, most=2**20
    )
    dropout: float = setting(0.0, "Share of activations dropped in training.", MODEL, "share", least=0, below=1)
    bias: Bias = setting(
        "lecture",
        "Layers with biases: all (GPT-2), none (nanoGPT), or all but queries, keys and values (lecture).",
        MODEL,
    )
    tied: bool = setting(False, "Use the token embedding as the output layer, as in GPT-2.", MODEL)
    activation: Activation = setting(
        "relu", "Activation of the MLPs: gelu in GPT-2, swiglu in Llama and Qwen; relu2 is a squared ReLU.", MODEL
    )
    norm: Norm = setting("layernorm", "Norm before each layer; rmsnorm in Llama and Qwen.", MODEL)
    position: PositionKind = setting(
        "learned", "Position encoding: learned vectors, or rope (rotated queries and keys).", MODEL
    )
    qk_norm: bool = setting(False, "Normalise queries and keys, as Qwen3 does.", MODEL)
    init: Init = setting("gpt2", "Initial weights; zero: the head and the layers that end a branch start at 0.", MODEL)

    def __post_init__(self) -> None:
        _check_fields(self)
        if self.n_embd % self.head_size:
            sizes = ", ".join(str(size) for size in range(1, self.n_embd + 1) if self.n_embd % size == 0)
            problem = f"head_size {self.head_size} does not divide n_embd {self.n_embd}"
            raise UserError(problem, f"these sizes do: {sizes}")
        if self.position == "rope" and self.head_size % 2:
            problem = f"head_size {self.head_size} is odd, and position rope rotates pairs of channels"
            raise UserError(problem, "give an even head_size")

    @property
    def n_head(self) -> int:
        return self.n_embd // self.head_size

    @property
    def mlp_width(self) -> int:
        """Channels inside an MLP. The three matrices of a gated one have about as many numbers as the two of another."""
        if self.activation == "swiglu":
            return 16 * math.ceil(8 * self.n_embd / 3 / 16)
        return 4 * self.n_embd


@dataclass(frozen=True)
class TrainConfig:
    """The settings of training and evaluation. The defaults are NanoLux's, but for `eval_iters`.

    The rate rises linearly over `warmup_iters` steps, then falls by `schedule` to `min_lr` at step `lr_decay_iters`, and
    stays there. Without `lr_decay_iters` it does not fall. Evaluations are always float32.
    """

    train_fraction: float = setting(
        0.8, "Share of the text, from its beginning, to train on; the rest validates.", TEXT, "share", above=0, below=1
    )
    num_iter: int = setting(5000, "Number of training steps.", TRAINING, "steps", least=1, most=MANY)
    batch_size: int = setting(32, "Windows of block_size tokens in a batch.", TRAINING, "windows", least=1, most=2**16)
    gradient_accumulation_steps: int = setting(
        1, "Batches per step: a large batch in little memory.", TRAINING, "batches", least=1, most=1024
    )
    order: Order = setting(
        "random",
        "Order of windows; random: from anywhere. passes: through all of the text before a part comes again.",
        TRAINING,
    )
    distill: float = setting(
        0.9, "Share of the loss from what the teachers expect.", TRAINING, "share", above=0, most=1
    )
    seed: int = setting(1337, "Random seed of initial weights, batches and dropout.", TRAINING, least=0, most=2**63 - 1)
    optimizer: OptimizerName = setting(
        "adam", "adam; or muon for the matrices of the blocks, and adam for the rest.", OPTIMIZER
    )
    learning_rate: float = setting(1e-3, "Adam's highest learning rate.", OPTIMIZER, least=LEAST_RATE, most=1)
    muon_lr: float = setting(
        0.02, "Muon's highest learning rate; the same schedule.", OPTIMIZER, least=LEAST_RATE, most=1
    )
    schedule: Schedule = setting(
        "cosine", "Decay of the rate until lr_decay_iters: cosine, linear, or wsd (in the last fifth).", OPTIMIZER
    )
    warmup_iters: int = setting(
        0, "Steps of linear warmup of the learning rate.", OPTIMIZER, "steps", least=0, most=MANY
    )
    lr_decay_iters: int = setting(
        0, "The rate falls until this step, then stays at min_lr; 0: no decay.", OPTIMIZER, "steps", least=0, most=MANY
    )
    min_lr: float = setting(0.0, "Rate from lr_decay_iters on.", OPTIMIZER, least=0, most=1)
    weight_decay: float = setting(0.0, "AdamW's decay of the matrices; 0: plain Adam.", OPTIMIZER, least=0, most=10)
    beta1: float = setting(0.9, "Adam's decay rate for the mean gradient.", OPTIMIZER, "share", least=0, below=1)
    beta2: float = setting(
        0.999, "Adam's decay rate for the mean squared gradient.", OPTIMIZER, "share", least=0, below=1
    )
    grad_clip: float = setting(0.0, "Largest global gradient norm; 0: no clipping.", OPTIMIZER, least=0)
    eval_interval: int = setting(
        500, "Steps between two evaluations; each writes a checkpoint.", EVALUATION, "steps", least=1, most=MANY
    )
    eval_iters: int = setting(
        200, "Batches of each split in an evaluation; NanoLux reads 1000.", EVALUATION, "batches", least=1, most=10**6
    )
    patience: int = setting(
        0,
        "Stop after so many evaluations in a row without a lower validation loss; 0: never.",
        EVALUATION,
        "evaluations",
        least=0,
        most=MANY,
    )
    target_loss: float = setting(
        0.0, "Stop when the validation loss is this low; 0: never.", EVALUATION, "nats", least=0
    )
    expected_bits: float = setting(
        0.0,
        "The loss that mlx-gpt plan predicted, printed beside the one reached; 0: none.",
        EVALUATION,
        "bits per character",
        least=0,
    )
    snapshots: int = setting(
        0, "Copies of the weights on the way, to watch it learn; 0: none.", EVALUATION, "copies", least=0, most=1000
    )
    backend: Backend = setting("compiled", "compiled: through mx.compile. eager: one operation at a time.", MACHINE)
    dtype: Dtype = setting("float32", "Type of the computation in training; weights stay float32.", MACHINE)

    def __post_init__(self) -> None:
        _check_fields(self)
        if self.min_lr > self.learning_rate:
            remedy = f"give a number from 0 to learning_rate, {self.learning_rate:g}"
            raise UserError(f"min_lr {self.min_lr:g} is out of range", remedy)
        if self.lr_decay_iters == 0 and self.min_lr > 0:
            problem = f"min_lr {self.min_lr:g} is never reached without a decay"
            raise UserError(problem, "give lr_decay_iters, too, or a min_lr of 0")
        if self.lr_decay_iters == 0 and self.schedule != "cosine":
            raise UserError(f"schedule {self.schedule} is never used without a decay", "give lr_decay_iters, too")
        if self.optimizer != "muon" and self.muon_lr != TrainConfig.muon_lr:
            problem = f"muon_lr {self.muon_lr:g} is never used by the optimizer {self.optimizer}"
            raise UserError(problem, "leave it out, or give the optimizer muon")
        if self.snapshots == 1:
            raise UserError("snapshots 1 is out of range", "give 2 or more, the untrained model and the last; or 0")
        if 0 < self.lr_decay_iters <= self.warmup_iters:
            problem = f"lr_decay_iters {self.lr_decay_iters} is not after warmup_iters {self.warmup_iters}"
            raise UserError(problem, "give a larger one, or fewer warmup_iters")


CONFIGS = (GPTConfig, TrainConfig)
# The settings that a user chooses, by name. The tokenizer sets vocab_size.
SETTINGS = {field.name: field for config in CONFIGS for field in fields(config) if field.name != "vocab_size"}


def tokens_per_step(gpt: GPTConfig, train: TrainConfig) -> int:
    """Tokens that one update of the weights reads."""
    return train.gradient_accumulation_steps * train.batch_size * gpt.block_size


def configurations(settings: Mapping[str, Any]) -> tuple[GPTConfig, TrainConfig]:
    """Both configurations with the values that `settings` has for their fields, and the defaults for the rest. Other names are
    ignored. Raises `UserError` for a value that cannot work."""
    gpt, train = (
        {field.name: settings[field.name] for field in fields(config) if field.name in settings} for config in CONFIGS
    )
    return GPTConfig(**gpt), TrainConfig(**train)


def check_choice(name: str, value: Any, kind: Any) -> None:
    """Raise `UserError` unless `value` is one of `kind`, a `Literal` or bool."""
    choices = (True, False) if kind is bool else get_args(kind)
    if type(value) is not type(choices[0]) or value not in choices:
        raise UserError(f"{name} {value!r} is not known", f"choose one of: {_list_values(kind)}")


def _check_fields(config: GPTConfig | TrainConfig) -> None:
    for own in fields(config):
        own.metadata["setting"].check(own.name, getattr(config, own.name), own.type)


def _list_values(kind: Any) -> str:
    return "true, false" if kind is bool else ", ".join(get_args(kind))


def _shown(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:.9g}"
