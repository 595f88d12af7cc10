"""The loss on a text, in the usual units."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class SplitLoss:
    """The cost of predicting `tokens` tokens: `nats` in all."""

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
        """The number of equally likely tokens among which a choice costs as much."""
        try:
            return math.exp(self.mean)
        except OverflowError:  # a diverged run gets there
            return math.inf

    def bits_per_character(self, characters: int) -> float:
        """Bits per character; `characters` is the length of the tokens' text."""
        return self.nats / math.log(2) / characters
