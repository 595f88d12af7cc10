"""The records that training yields, and the state that it moves.

`Progress` and `Sample` are also the lines of a run's log, and `Evaluation` those of its history.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import mlx.core as mx
from mlx.optimizers import Optimizer

from .config import TrainConfig
from .errors import UserError
from .files import check_counts, check_measures
from .model import GPT

REPORT_EVERY = 10  # steps between two records of progress

End = Literal["finished", "interrupted", "out of patience", "at the target"]


@dataclass(frozen=True)
class Progress:
    """A step: its loss (of `GPT.loss`, in nats per token; with teachers, against their targets), its learning rate, the norm of its
    gradients before they are clipped, and tokens per second since the record before, or since the interval began. Raises
    `ValueError` for impossible values."""

    iteration: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens_per_second: float

    def __post_init__(self) -> None:
        check_counts(self.iteration)
        # a loss of the user's own may be negative
        check_measures(abs(self.loss), self.learning_rate, self.grad_norm, self.tokens_per_second)


@dataclass(frozen=True)
class Evaluating:
    """An evaluation is under way: `windows` of `total` are done, both splits together. The first record has 0."""

    iteration: int
    windows: int
    total: int


@dataclass(frozen=True)
class Evaluation:
    """The losses of both splits, in nats per token; tokens and seconds of training since the evaluation before; tokens of each
    split that this evaluation read, and its seconds. Raises `ValueError` for impossible values."""

    iteration: int
    train_loss: float
    valid_loss: float
    train_tokens: int
    train_seconds: float
    eval_tokens: int
    eval_seconds: float
    corpus: str
    device: str

    def __post_init__(self) -> None:
        check_counts(self.iteration, self.train_tokens, self.eval_tokens)
        check_measures(abs(self.train_loss), abs(self.valid_loss), self.train_seconds, self.eval_seconds)
        if not (isinstance(self.corpus, str) and isinstance(self.device, str)):
            raise ValueError("the corpus and the device of an evaluation are words")


@dataclass(frozen=True)
class Sample:
    """Text that the model wrote after `iteration` steps, from an empty prompt and the run's seed. Raises `ValueError` for text that
    is not Unicode."""

    iteration: int
    text: str

    def __post_init__(self) -> None:
        check_counts(self.iteration)
        if not isinstance(self.text, str):
            raise ValueError(f"{self.text!r} is not a text")
        self.text.encode()  # raises for half a pair of surrogates


@dataclass(frozen=True)
class Snapshot:
    """After `iteration` steps the run keeps a copy of the weights: see the setting `snapshots`."""

    iteration: int


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written. `path` is where the run is now: its directory may have been moved."""

    iteration: int
    path: Path


@dataclass(frozen=True)
class Done:
    """The end of training: all iterations are done, or the caller stopped it, or the validation loss stopped falling, or it fell to
    `target_loss`."""

    iteration: int
    end: End


Record = Progress | Evaluating | Evaluation | Sample | Snapshot | Saved | Done


class Diverged(UserError):
    """The loss is not finite."""


@dataclass
class State:
    """What training moves. `train_seconds` are those since the last evaluation of `history`. MLX's random state belongs to it. The
    `teachers` stay as they are."""

    model: GPT
    optimizer: Optimizer
    iteration: int = 0
    train_seconds: float = 0.0
    history: list[Evaluation] = field(default_factory=list)
    teachers: list[GPT] = field(default_factory=list)

    @property
    def evaluated(self) -> int:
        """The iteration of the last evaluation; 0 before the first."""
        return self.history[-1].iteration if self.history else 0

    @property
    def arrays(self) -> list:
        """All arrays that a step changes, for `mx.compile` and `mx.eval`."""
        return [self.model.state, self.optimizer.state, mx.random.state]


def since_best(history: list[Evaluation]) -> int:
    """The number of evaluations after the one with the lowest validation loss; `history` is not empty."""
    losses = [evaluation.valid_loss for evaluation in history]
    return len(losses) - 1 - losses.index(min(losses))


def reason_to_end(history: list[Evaluation], config: TrainConfig) -> End | None:
    """Why training with the evaluations of `history` is over; None if it is not."""
    if not history:
        return None
    if history[-1].iteration >= config.num_iter:
        return "finished"
    if history[-1].valid_loss <= config.target_loss and config.target_loss > 0:
        return "at the target"
    return "out of patience" if 0 < config.patience <= since_best(history) else None
