"""The corpus `pastiche`: an endless mock-Elizabethan play, for when tiny Shakespeare cannot be fetched.

The play has tiny Shakespeare's length, symbols and layout, and one thing the original lacks: a known entropy. A small
grammar writes it, one weighted choice after another, and every choice can be read back from the text. The sum of -ln p
over the choices is therefore the loss of a reader who knows the grammar by heart: a floor under any model's loss.
"""

import functools
import math
import random
import re
from bisect import bisect, bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from .grammar import GRAMMAR

SYMBOLS = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
LENGTH = 1_115_394

# Zipf's law as Mandelbrot amended it: an alternative's weight is 1 / (rank + OFFSET). English has about this offset.
OFFSET = 2.7


def probabilities(count: int) -> list[float]:
    """The probability of each of a rule's `count` alternatives, likeliest first."""
    weights = [1 / (rank + OFFSET) for rank in range(1, count + 1)]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


@dataclass(frozen=True, repr=False)
class Pastiche:
    """A play, and the cost of each choice."""

    text: str
    starts: Sequence[int]  # the place of each choice's first character, ascending
    nats: Sequence[float]  # -ln p summed over the first 0, 1, 2, ... choices

    def floor(self, start: int, stop: int) -> float:
        """The loss, in nats per character, on text[start:stop] of a reader who knows the grammar and all text before.

        A choice counts at its first character, so a word that is cut belongs to the side where it begins. Raises `ValueError` if
        the slice is empty or reaches outside the text.
        """
        if not 0 <= start < stop <= len(self.text):
            raise ValueError(f"[{start}, {stop}) is not a slice of the play, which has {len(self.text):,} characters")
        first, last = bisect_left(self.starts, start), bisect_left(self.starts, stop)
        return (self.nats[last] - self.nats[first]) / (stop - start)


def compose(grammar: Mapping[str, Sequence[str]], length: int, seed: int) -> Pastiche:
    """Derive `length` characters from the rule "play", which must not end before."""
    templates = {rule: [re.findall(r"\{.*?\}|[^{]+", text) for text in grammar[rule]] for rule in grammar}
    chances = {rule: probabilities(len(grammar[rule])) for rule in grammar}
    ladders = {rule: list(accumulate(chances[rule])) for rule in grammar}
    costs = {rule: [-math.log(p) for p in chances[rule]] for rule in grammar}
    # Python promises the same sequence in every version for random() only.
    uniform = random.Random(seed).random

    text: list[str] = []
    starts: list[int] = []
    nats: list[float] = []
    kept: dict[str, str] = {}
    position = 0
    todo = ["{play}"]  # parts still to write, the next one last
    while position < length:
        part = todo.pop()
        if part[0] != "{":
            text.append(part)
            position += len(part)
            continue
        name, _, rule = part[1:-1].rpartition("=")
        if not name and rule in kept:
            todo.append(kept[rule])
            continue
        ladder = ladders[rule]
        choice = bisect(ladder, uniform() * ladder[-1], 0, len(ladder) - 1)
        starts.append(position)
        nats.append(costs[rule][choice])
        todo.extend(reversed(templates[rule][choice]))
        if name:
            kept[name] = grammar[rule][choice]
    return Pastiche("".join(text)[:length], tuple(starts), tuple(accumulate(nats, initial=0.0)))


@functools.cache
def write() -> Pastiche:
    """The text: LENGTH characters over SYMBOLS, the same on every machine."""
    # With this seed, of a few Shakespearean years, the floors of the two splits are the most equal.
    return compose(GRAMMAR, LENGTH, seed=1611)
