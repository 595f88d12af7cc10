"""What a run is measured by: NanoLux's six metrics, its published values, and the settings that they belong to."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from .checkpoint import Evaluation
from .config import GPTConfig, TrainConfig

SEED_GPT = GPTConfig()
SEED_TRAIN = TrainConfig(eval_iters=1000)
SEED_FREE = ("vocab_size", "seed", "backend")  # what the published settings leave open


@dataclass(frozen=True)
class SeedMetrics:
    """NanoLux's table. Times in seconds, losses in nats per character; an epoch is 500 steps, its "batches".

    The first epoch includes compilation, the average is over the others and is None where there are none; an estimate
    is one evaluation of both splits; the total is all training and all estimates.
    """

    first_epoch: float
    average_epoch: float | None
    estimate: float
    total: float
    train_loss: float
    valid_loss: float


# rkube/NanoLux, README: a Mac M4 Pro, on its CPU
PUBLISHED = {
    "Reactant": SeedMetrics(86.94, 15, 27, 504, 1.54838, 1.78198),
    "Zygote": SeedMetrics(55.58, 33, 49, 873, 1.54454, 1.78110),
}


def seed_metrics(history: Sequence[Evaluation]) -> SeedMetrics:
    """The metrics of a run from its evaluations, at least one; an epoch is what lies between two of them."""
    train = [each.train_seconds for each in history]
    estimates = [each.eval_seconds for each in history]
    return SeedMetrics(
        first_epoch=train[0],
        average_epoch=sum(train[1:]) / len(train[1:]) if train[1:] else None,
        estimate=sum(estimates) / len(estimates),
        total=sum(train) + sum(estimates),
        train_loss=history[-1].train_loss,
        valid_loss=history[-1].valid_loss,
    )


def seed_differences(gpt: GPTConfig, train: TrainConfig) -> dict[str, tuple[object, object]]:
    """Where a run departs from the settings of the published table: name -> (the run's value, the published one's)."""
    here = asdict(gpt) | asdict(train)
    published = asdict(SEED_GPT) | asdict(SEED_TRAIN)
    return {
        name: (here[name], value) for name, value in published.items() if name not in SEED_FREE and here[name] != value
    }
