"""What it costs to predict a text, in the units that are usual."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class SplitLoss:
    """What it cost to predict `tokens` tokens: `nats` in all."""

    tokens: int = 0
    nats: float = 0.0

    def __add__(self, other: "SplitLoss") -> "SplitLoss":
        return SplitLoss(self.tokens + other.tokens, self.nats + other.nats)

    @property
    def mean(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """Among how many equally likely tokens a choice would cost as much."""
        try:
            return math.exp(self.mean)
        except OverflowError:  # a training that went wrong can get there
            return math.inf

    def bits_per_character(self, characters: int) -> float:
        """Bits for each of the `characters` that the tokens stand for."""
        return self.nats / math.log(2) / characters
