"""A model as one HTML file, which computes in the browser and needs nothing else: no network, no server, no library."""

import base64
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
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
FRAME = "width: 100%; height: 52rem; border: 0"  # of a page in a notebook


@dataclass(frozen=True)
class Stop:
    """A model on a page that may have several, as the same one at several steps. `title` tells it from the others; `about` is
    the heading of the page."""

    model: GPT
    tokenizer: Tokenizer
    title: str
    about: str


@dataclass(frozen=True)
class Page:
    """A page, which begins with `text`. A notebook shows it: end a cell with it."""

    html: str
    text: str

    def __repr__(self) -> str:
        return f"<Page of {len(self.html) / 1e6:.1f} MB>"

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{html.escape(self.html)}" style="{FRAME}"></iframe>'


def page(*runs: Run, last: bool = False) -> Page:
    """Return the page on `runs`, at least one: the snapshots of each and then its best weights, or its `last` ones. It begins as the
    validation text of the last run, or as its first document; with nothing if that text is not there any more.

    Raises `UserError` as `model_page` does, and for runs without weights.
    """
    try:
        text = runs[-1].tokenizer.decode(find_excerpt(runs[-1])).partition(MARK)[0]
    except UserError:
        text = ""
    return Page(model_page([stop for run in runs for stop in _make_stops(run, last)], text), text)


def _make_stops(run: Run, last: bool) -> Iterator[Stop]:
    """Yield the snapshots of the run, and then its best or last weights. Others may read the page: so the folders of the text, and most
    of the run's own, are not named."""
    name, texts = "/".join(run.path.parts[-2:]), " + ".join(Path(source).name for source in run.corpus.sources)
    about = f"A GPT that learned from {texts}"
    for step in run.snapshots():
        after = f"after {step:,} iterations" if step else "untrained"
        yield Stop(run.load_model(snapshot=step), run.tokenizer, f"{name}, {after}", about)
    best = run.takes_best(last)
    title = f"{name}, its {'best' if best else 'last'} weights, after {run.position(best).iteration:,} iterations"
    yield Stop(run.load_model(last), run.tokenizer, title, about)


def model_page(stops: Sequence[Stop], text: str = "") -> str:
    """Return the page on `stops`, at least one, which begins with `text`.

    Raises `UserError` for a model of the user's own class, and for models that are too large together.
    """
    data, weights = pack(stops)
    parts = {
        "WORKER": "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS),
        "PAGE": (HERE / "page.js").read_text(encoding="utf-8"),
        "DATA": as_script(data | {"text": text}),
        "WEIGHTS": "".join(f'<script class="weights" type="text/plain">{part}</script>' for part in weights),
    }
    return fill(HERE / "page.html", parts)


def pack(stops: Sequence[Stop]) -> tuple[dict, list[str]]:
    """Return what worker.js reads of `stops`, but for their weights, and the weights of each in base64: float32, or float16 if there
    are more than `MOST_IN_FLOAT32`. Raises `UserError` as `model_page` does."""
    for stop in stops:
        if own := own_class(stop.model):
            problem = f"the model {stop.title} is not the GPT of this library, which a page computes: it has {own}"
            raise UserError(problem, "give a model without parts of your own")
    count = sum(stop.model.num_parameters() for stop in stops)
    if count > MOST_PARAMETERS:
        problem = f"{count:,} parameters are too many for a page, which holds {MOST_PARAMETERS:,}"
        remedy = (
            "name fewer runs, or train with fewer `snapshots`" if len(stops) > 1 else "train a smaller model for a page"
        )
        raise UserError(problem, remedy)
    is_half = count > MOST_IN_FLOAT32
    tokenizers = list(dict.fromkeys(stop.tokenizer for stop in stops))
    packed, weights = [], []
    for stop in stops:
        named = [(name, np.array(array).ravel()) for name, array in tree_flatten(stop.model.parameters())]
        numbers = np.concatenate([array for _, array in named])
        numbers = np.clip(numbers, HALF.min, HALF.max).astype("<f2") if is_half else numbers.astype("<f4")
        weights.append(base64.b64encode(numbers.tobytes()).decode())
        packed.append(
            {
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
