"""A model as one HTML file, which computes in the browser and needs nothing else: no network, no server, no library."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from mlx.utils import tree_flatten

from ..errors import UserError
from ..model import GPT, own_class
from ..runs.run import Run
from ..text.characters import MARK
from ..text.tokenizer import Tokenizer
from .inspection import find_excerpt

HERE = Path(__file__).parent
SCRIPTS = ("model.js", "tokens.js", "worker.js")  # of the worker
MOST_PARAMETERS = 25_000_000  # of all models of a page: 67 MB
MOST_IN_FLOAT32 = 2_000_000  # more are rounded to float16
HALF = np.finfo(np.float16)
FEW_LINES, MOST_TEXT = 3, 1000  # lines and characters of the text at first
FRAME = "width: 100%; height: 52rem; border: 0"  # of a page in a notebook


@dataclass(frozen=True)
class Stop:
    """A model on a page that may have several, as one `run` at several steps, which `title` tells from each other; `about` is the
    heading of the page."""

    model: GPT
    tokenizer: Tokenizer
    run: str
    title: str
    about: str


@dataclass(frozen=True)
class Page:
    """A page, which begins with `text`, and has no room for some snapshots, `left_out`. A notebook shows it: end a cell with it."""

    html: str
    text: str
    left_out: int

    def __repr__(self) -> str:
        return f"<Page of {len(self.html) / 1e6:.1f} MB>"

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{html.escape(self.html)}" style="{FRAME}"></iframe>'


def page(*runs: Run, last: bool = False) -> Page:
    """Return the page on `runs`, at least one: the snapshots of each, as far as there is room, and then its best weights, or its `last`
    ones. It begins as the validation text of the last run, or as its first document; with nothing if that text is not there any more.

    Raises `UserError` as `model_page` does, and for runs without weights.
    """
    try:
        text = _cut_lines(runs[-1].tokenizer.decode(find_excerpt(runs[-1])).partition(MARK)[0])[:MOST_TEXT]
    except UserError:
        text = ""
    finals = [_final_stop(run, last) for run in runs]
    room = (MOST_PARAMETERS - _count(finals)) // len(runs)  # parameters, for the snapshots of each run
    stops, left_out = [], 0
    for run, final in zip(runs, finals):
        shown = run.position(run.takes_best(last)).iteration  # its snapshot would be the same again
        found = [step for step in run.snapshots() if step != shown]
        fit = max(room // final.model.num_parameters(), 0)
        kept = found[:: max(-(-len(found) // fit), 1)] if fit else []  # evenly, from the first
        left_out += len(found) - len(kept)
        stops += [replace(final, model=run.load_model(snapshot=step), title=_after(run, step)) for step in kept]
        stops.append(final)
    return Page(model_page(stops, text), text, left_out)


def _final_stop(run: Run, last: bool) -> Stop:
    """The stop with the best or the last weights of a run. Others may read the page: so the folders of the text, and most of the run's
    own, are not named."""
    texts = " + ".join(Path(source).name for source in run.corpus.sources)
    best = run.takes_best(last)
    title = f"{_after(run, run.position(best).iteration)}, its {'best' if best else 'last'} weights"
    name = "/".join(run.path.absolute().parts[-2:])
    return Stop(run.load_model(last), run.tokenizer, name, title, f"A GPT that learned from {texts}")


def _after(run: Run, step: int) -> str:
    return f"after {step:,} of {run.train_config.num_iter:,} steps" if step else "untrained"


def _cut_lines(text: str) -> str:
    """Cut the first line and the last one, which may be parts of lines, off a longer text."""
    return "\n".join(lines[1:-1]) if len(lines := text.split("\n")) > FEW_LINES else text


def _count(stops: Sequence[Stop]) -> int:
    return sum(stop.model.num_parameters() for stop in stops)


def model_page(stops: Sequence[Stop], text: str = "") -> str:
    """Return the page on `stops`, at least one, which begins with `text`, of which the models did not learn.

    Raises `UserError` for a model of the user's own class, and for models that are too large together.
    """
    data, weights = pack(stops)
    parts = {
        "WORKER": "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS),
        "PAGE": (HERE / "page.js").read_text(encoding="utf-8"),
        "DATA": as_script(data | {"text": text.replace("\r", "␍")}),  # tokens.js knows the sign
        "WEIGHTS": "".join(f'<script class="weights" type="text/plain">{part}</script>' for part in weights),
    }
    return fill(HERE / "page.html", parts)


def pack(stops: Sequence[Stop]) -> tuple[dict, list[str]]:
    """Return what worker.js reads of `stops`, but for their weights, and the weights of each in base64: float32, or float16 if there
    are more than `MOST_IN_FLOAT32`. Raises `UserError` as `model_page` does."""
    for stop in stops:
        if own := own_class(stop.model):
            problem = f"the model of {stop.run} is not the GPT of this library, which a page computes: it has {own}"
            raise UserError(problem, "give a model without parts of your own")
    if (count := _count(stops)) > MOST_PARAMETERS:
        problem = f"{count:,} parameters are too many for a page, which holds {MOST_PARAMETERS:,}"
        raise UserError(problem, "name fewer runs" if len(stops) > 1 else "train a smaller model for a page")
    is_half = count > MOST_IN_FLOAT32
    tokenizers = list(dict.fromkeys(stop.tokenizer for stop in stops))
    packed, weights = [], []
    for stop in stops:
        named = [(name, np.array(array).ravel()) for name, array in tree_flatten(stop.model.parameters())]
        numbers = np.concatenate([array for _, array in named])
        if not np.isfinite(numbers).all():
            raise UserError(f"some weights of {stop.run} {stop.title} are not finite", "take another run")
        numbers = np.clip(numbers, HALF.min, HALF.max).astype("<f2") if is_half else numbers.astype("<f4")
        weights.append(base64.b64encode(numbers.tobytes()).decode())
        packed.append(
            {
                "run": stop.run,
                "title": stop.title,
                "about": stop.about,
                "config": asdict(stop.model.config),
                "parameters": stop.model.num_parameters(),
                "tokenizer": tokenizers.index(stop.tokenizer),
                "shapes": [(name, array.size) for name, array in named],
                "half": is_half,
            }
        )
    described = [
        {"json": own.to_json(), "kind": own.kind, "start": own.start_token, "end": own.end_token, "marks": own.marks}
        for own in tokenizers
    ]
    return {"stops": packed, "tokenizers": described}, weights


def as_script(value: object) -> str:
    """Return JSON that can stand in a script, which "<" could end."""
    return json.dumps(value).replace("<", "\\u003c")


def fill(template: Path, parts: Mapping[str, str]) -> str:
    """Return the page of `template`, which has a `/*NAME*/` in the place of each part."""
    before, *rest = template.read_text(encoding="utf-8").split("/*")
    return before + "".join(parts[name] + text for name, text in (piece.split("*/", 1) for piece in rest))
