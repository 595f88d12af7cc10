"""The log of a run: the progress of training, and the samples that the model wrote at each evaluation.

It is for reading and plotting. Training does not need it, and lines that cannot be read are left out.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, fields

from ..files import DAMAGE
from ..records import REPORT_EVERY, Progress, Sample

Line = Progress | Sample


def is_logged(iteration: int) -> bool:
    """Whether a step is logged: every tenth step up to iteration 10,000, a tenth as often up to 100,000, and so on. So a run of a
    million steps has 2,800 lines."""
    digits = len(str(iteration - 1))
    return iteration % (REPORT_EVERY * 10 ** max(0, digits - 4)) == 0


def to_text(lines: Iterable[Line]) -> str:
    return "".join(json.dumps(asdict(line)) + "\n" for line in lines)


def from_text(text: str, last: int) -> list[Line]:
    """The lines of `text` that can be read, up to the iteration `last`. Of two lines of a kind and an iteration the first counts."""
    found: dict[tuple[type, int], Line] = {}
    for text_line in text.splitlines():
        if (line := _parse(text_line)) and line.iteration <= last:
            found.setdefault((type(line), line.iteration), line)
    return list(found.values())


def _parse(text: str) -> Line | None:
    try:
        content = json.loads(text)
        kind = next(kind for kind in (Progress, Sample) if content.keys() == {field.name for field in fields(kind)})
        return kind(**content)
    except (*DAMAGE, StopIteration):
        return None
