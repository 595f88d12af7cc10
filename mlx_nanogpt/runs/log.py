"""The log of a run: what training looked like every few steps, and what the model wrote at each evaluation.

It is for people and pictures. A run trains on without it, and lines that cannot be read are left out.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

from ..files import DAMAGE, check_counts, check_measures


@dataclass(frozen=True)
class Measurement:
    """A step: its loss in nats per token, its learning rate, the norm of its gradients before they are clipped, and tokens per
    second since the line or the evaluation before. Raises `ValueError` for impossible values."""

    iteration: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens_per_second: float

    def __post_init__(self) -> None:
        check_counts(self.iteration)
        check_measures(self.loss, self.learning_rate, self.grad_norm, self.tokens_per_second)


@dataclass(frozen=True)
class Excerpt:
    """What the model wrote after `iteration` steps: the same number of tokens each time, from an empty prompt and the run's seed."""

    iteration: int
    text: str

    def __post_init__(self) -> None:
        check_counts(self.iteration)
        if not isinstance(self.text, str):
            raise ValueError(f"{self.text!r} is no text")
        self.text.encode()  # half a pair of surrogates is none, either


Line = Measurement | Excerpt


def measurements(lines: Iterable[Line]) -> list[Measurement]:
    """The steps among `lines`."""
    return [line for line in lines if isinstance(line, Measurement)]


def is_logged(iteration: int, interval: int) -> bool:
    """Whether a step is logged: every `interval` steps up to iteration 10,000, a tenth as often up to 100,000, and so on. So a run
    of a million steps has 2,800 lines with an interval of 10."""
    digits = len(str(iteration - 1))
    return iteration % (interval * 10 ** max(0, digits - 4)) == 0


def to_text(lines: Iterable[Line]) -> str:
    return "".join(json.dumps(asdict(line)) + "\n" for line in lines)


def from_text(text: str, last: int) -> list[Line]:
    """The lines of `text` that can be read, up to the iteration `last`. Of two lines of a kind and an iteration the first counts."""
    found: dict[tuple[type, int], Line] = {}
    for each in text.splitlines():
        if (line := _line(each)) and line.iteration <= last:
            found.setdefault((type(line), line.iteration), line)
    return list(found.values())


def _line(text: str) -> Line | None:
    try:
        said = json.loads(text)
        kind = next(kind for kind in (Measurement, Excerpt) if said.keys() == {field.name for field in fields(kind)})
        return kind(**said)
    except (*DAMAGE, StopIteration):
        return None
