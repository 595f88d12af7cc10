"""What a run is: `GPTConfig` says which model, `TrainConfig` how it is trained, `PRESETS` are other places to start from.

A setting says everything about itself here, once: type, default, range, unit, help and group. The command line, the settings
file and the table in `cli/README.md` are made from that. A value that cannot work raises `UserError` with a remedy where a
configuration is built. Imports only `errors`.
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

MOST_TOKENS = 2**24  # in a vocabulary
LEAST_RATE = 1.17549435e-38  # float32's smallest normal number: a smaller rate may become 0, which trains nothing
MANY = 10**9

MODEL, TEXT, TRAINING, OPTIMIZER, EVALUATION, MACHINE = (
    "Model",
    "Text",
    "Training",
    "Optimizer",
    "Evaluation",
    "Machine",
)


@dataclass(frozen=True)
class Setting:
    """What a field says of itself beside its type and its default: what it is for, the group it belongs to, what it counts,
    and the numbers that it may be."""

    help: str
    group: str
    unit: str = ""
    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf
    below: float = math.inf

    def values(self, kind: Any) -> str:
        """The values that a field of the type `kind` may have, in words."""
        if kind is bool:
            return "true or false"
        if kind not in (int, float):
            return ", ".join(get_args(kind))
        number = "a whole number" if kind is int else "a number"
        if self.least > -math.inf and self.most < math.inf:
            return f"{number} from {_shown(self.least)} to {_shown(self.most)}"
        start = f"of {_shown(self.least)} or more" if self.least > -math.inf else f"more than {_shown(self.above)}"
        return f"{number} {start}" + (f" and less than {_shown(self.below)}" if self.below < math.inf else "")

    def allows(self, kind: type, value: Any) -> bool:
        """Whether a field of the type `kind`, int or float, may be `value`."""
        if type(value) not in (int, kind):
            return False
        return self.least <= value <= self.most and self.above < value < self.below


def setting(default: Any, help: str, group: str, **more: Any) -> Any:
    """A field of a configuration; `more` are the other fields of its `Setting`."""
    return field(default=default, metadata={"setting": Setting(help, group, **more)})


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT. The defaults are NanoLux's, with the architecture of the lecture: 311,361 parameters.

    "gelu" is GPT-2's, the one with a tanh. A tied head has no bias.
    """

    # the tokenizer says how many there are; 65 is tiny Shakespeare's
    vocab_size: int = setting(65, "Different tokens.", TEXT, least=1, most=MOST_TOKENS)
    n_embd: int = setting(
        64, "Width: how many numbers stand for a token between layers.", MODEL, unit="channels", least=1, most=2**16
    )
    head_size: int = setting(
        16,
        "Width of one attention head; divides n_embd, which gives the number of heads.",
        MODEL,
        unit="channels",
        least=1,
        most=2**16,
    )
    n_layer: int = setting(6, "Depth: how many transformer blocks.", MODEL, unit="blocks", least=1, most=1000)
    block_size: int = setting(
        64, "Context: how much of the text the model sees at once.", MODEL, unit="tokens", least=1, most=2**20
    )
    dropout: float = setting(0.0, "Share of activations dropped while training.", MODEL, unit="share", least=0, below=1)
    bias: Bias = setting(
        "lecture",
        "Which layers have biases: all (GPT-2), none (nanoGPT), or all but queries, keys and values (lecture).",
        MODEL,
    )
    tied: bool = setting(False, "Let the output layer be the token embedding, as in GPT-2.", MODEL)
    activation: Activation = setting(
        "relu", "Nonlinearity of the MLPs: GPT-2 has gelu, Llama and Qwen swiglu; relu2 is a squared ReLU.", MODEL
    )
    norm: Norm = setting("layernorm", "What normalises the input of each layer; Llama and Qwen have rmsnorm.", MODEL)
    position: PositionKind = setting(
        "learned", "How the model knows where a token is: learned vectors, or rope (rotated queries and keys).", MODEL
    )
    qk_norm: bool = setting(False, "Normalise queries and keys, as Qwen3 does.", MODEL)
    init: Init = setting(
        "gpt2", "Initial weights; zero: the layers that end a branch, and the head, start at 0.", MODEL
    )

    def __post_init__(self) -> None:
        _check_fields(self)
        if self.n_embd % self.head_size:
            sizes = ", ".join(str(size) for size in range(1, self.n_embd + 1) if self.n_embd % size == 0)
            raise UserError(
                f"head_size {self.head_size} does not divide n_embd {self.n_embd}", f"these sizes do: {sizes}"
            )

        if self.position == "rope" and self.head_size % 2:
            raise UserError(
                f"head_size {self.head_size} is odd, and position rope rotates pairs of channels",
                "give an even head_size",
            )

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
    """How a model is trained and how often it is looked at. The defaults are NanoLux's, but for `eval_iters`.

    The rate rises linearly over `warmup_iters` steps, then falls as `schedule` says to `min_lr` at step `lr_decay_iters`, and
    stays there. Without `lr_decay_iters` it does not fall. Evaluations are always float32.
    """

    train_fraction: float = setting(
        0.8,
        "Share of the text, from its beginning, to learn from; the rest validates.",
        TEXT,
        unit="share",
        above=0,
        below=1,
    )
    num_iter: int = setting(5000, "How often the weights are updated.", TRAINING, unit="steps", least=1, most=MANY)
    batch_size: int = setting(
        32, "Windows of block_size tokens in a batch.", TRAINING, unit="windows", least=1, most=2**16
    )
    gradient_accumulation_steps: int = setting(
        1,
        "How many batches make a step, one after the other: a large batch in little memory.",
        TRAINING,
        unit="batches",
        least=1,
        most=1024,
    )
    seed: int = setting(
        1337,
        "Start of all random numbers: the initial weights, the batches and dropout.",
        TRAINING,
        least=0,
        most=2**63 - 1,
    )
    optimizer: OptimizerName = setting(
        "adam", "adam; or muon for the matrices of the blocks, and adam for the rest.", OPTIMIZER
    )
    learning_rate: float = setting(1e-3, "Adam's step size, at its highest.", OPTIMIZER, least=LEAST_RATE, most=1)
    muon_lr: float = setting(
        0.02, "Muon's step size, at its highest; it changes as Adam's does.", OPTIMIZER, least=LEAST_RATE, most=1
    )
    schedule: Schedule = setting(
        "cosine", "How the rate falls until lr_decay_iters: cosine, linear, or wsd (in the last fifth).", OPTIMIZER
    )
    warmup_iters: int = setting(
        0,
        "Steps over which the rate rises to learning_rate; 0: it starts there.",
        OPTIMIZER,
        unit="steps",
        least=0,
        most=MANY,
    )
    lr_decay_iters: int = setting(
        0,
        "The rate falls until this step, and then stays at min_lr; 0: it does not fall.",
        OPTIMIZER,
        unit="steps",
        least=0,
        most=MANY,
    )
    min_lr: float = setting(0.0, "The rate from lr_decay_iters on.", OPTIMIZER, least=0, most=1)
    weight_decay: float = setting(
        0.0, "How much AdamW shrinks weights, matrices only; 0: plain Adam.", OPTIMIZER, least=0, most=10
    )
    beta1: float = setting(
        0.9, "Share of its mean gradient that Adam keeps at a step.", OPTIMIZER, unit="share", least=0, below=1
    )
    beta2: float = setting(
        0.999, "The same for the mean of squared gradients.", OPTIMIZER, unit="share", least=0, below=1
    )
    grad_clip: float = setting(
        0.0, "Gradients are scaled down to this norm, of all together; 0: never.", OPTIMIZER, least=0
    )
    eval_interval: int = setting(
        500,
        "How many steps are between two evaluations; each is followed by a checkpoint.",
        EVALUATION,
        unit="steps",
        least=1,
        most=MANY,
    )
    eval_iters: int = setting(
        200,
        "How much of each split an evaluation reads; NanoLux reads 1000.",
        EVALUATION,
        unit="batches",
        least=1,
        most=10**6,
    )
    patience: int = setting(
        0,
        "The training stops after this many evaluations in a row without a better validation loss; 0: never.",
        EVALUATION,
        unit="evaluations",
        least=0,
        most=MANY,
    )
    target_loss: float = setting(
        0.0,
        "The training stops at the first evaluation whose validation loss is no higher; 0: never.",
        EVALUATION,
        unit="nats",
        least=0,
    )
    backend: Backend = setting("compiled", "compiled: through mx.compile. eager: one operation at a time.", MACHINE)
    dtype: Dtype = setting("float32", "What training computes in; the weights themselves stay float32.", MACHINE)

    def __post_init__(self) -> None:
        _check_fields(self)
        if self.min_lr > self.learning_rate:
            raise UserError(
                f"min_lr {self.min_lr:g} is out of range",
                f"give a number from 0 to learning_rate, {self.learning_rate:g}",
            )
        if self.lr_decay_iters == 0 and self.min_lr > 0:
            raise UserError(
                f"min_lr {self.min_lr:g} is never reached without a decay", "give lr_decay_iters, too, or a min_lr of 0"
            )
        if self.lr_decay_iters == 0 and self.schedule != "cosine":
            raise UserError(f"schedule {self.schedule} is never used without a decay", "give lr_decay_iters, too")
        if self.optimizer != "muon" and self.muon_lr != TrainConfig.muon_lr:
            raise UserError(
                f"muon_lr {self.muon_lr:g} is never used by the optimizer {self.optimizer}",
                "leave it out, or give the optimizer muon",
            )
        if 0 < self.lr_decay_iters <= self.warmup_iters:
            raise UserError(
                f"lr_decay_iters {self.lr_decay_iters} is not after warmup_iters {self.warmup_iters}",
                "give a larger one, or fewer warmup_iters",
            )


# The settings that a user chooses, by name: the tokenizer says how large the vocabulary is.
SETTINGS = {each.name: each for kind in (GPTConfig, TrainConfig) for each in fields(kind) if each.name != "vocab_size"}


def tokens_per_step(gpt: GPTConfig, train: TrainConfig) -> int:
    """The tokens that the weights are updated for, once."""
    return train.gradient_accumulation_steps * train.batch_size * gpt.block_size


def configurations(settings: Mapping[str, Any]) -> tuple[GPTConfig, TrainConfig]:
    """Both configurations with the values that `settings` has for their fields, and the defaults for the rest. Other
    names are ignored. Raises `UserError` for a value that cannot work."""
    gpt, train = (
        {field.name: settings[field.name] for field in fields(config) if field.name in settings}
        for config in (GPTConfig, TrainConfig)
    )
    return GPTConfig(**gpt), TrainConfig(**train)


def _check_fields(config: GPTConfig | TrainConfig) -> None:
    for each in fields(config):
        value, about = getattr(config, each.name), each.metadata["setting"]
        if each.type in (int, float):
            if not about.allows(each.type, value):
                problem = "is out of range" if type(value) in (int, float) else "is no number"
                raise UserError(f"{each.name} {value!r} {problem}", f"give {about.values(each.type)}")
        elif each.type is bool:
            if type(value) is not bool:
                raise UserError(f"{each.name} {value!r} is neither true nor false", "give one of them")
        else:
            check_choice(each.name, value, each.type)


def check_choice(name: str, value: str, choices: object) -> None:
    """Raise `UserError` unless `value` is one of `choices`, a `Literal`."""
    if value not in get_args(choices):
        raise UserError(f"{name} {value!r} is not known", f"choose one of: {', '.join(get_args(choices))}")


def _shown(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:.9g}"
