"""The inside of a model on a text as one HTML file, which needs nothing else and no network."""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..model import GPT
from ..text.characters import CharTokenizer
from ..text.tokenizer import Tokenizer, token_pieces
from .inspection import Inspection, inspect, look_inside

TEMPLATE = Path(__file__).with_name("inside.html")
MOST_WEIGHTS = 4_000_000  # of attention, a byte each: a file of some 6 MB


def most_tokens(model: GPT) -> int:
    """How many tokens a page of `model` can have: fewer if it has many heads, and a long context."""
    config = model.config
    heads = config.n_layer * config.n_head
    return max(MOST_WEIGHTS // (heads * config.block_size), min(config.block_size, math.isqrt(MOST_WEIGHTS // heads)))


def inside_page(model: GPT, tokenizer: Tokenizer, ids: Sequence[int] | np.ndarray, origin: str) -> str:
    """The page on the first `most_tokens(model)` of the tokens `ids`, (N,); `origin` is a line on the model. Raises `UserError` for a
    text without tokens."""
    ids = ids[: most_tokens(model)]
    start = tokenizer.start_token
    found, inside = inspect(model, ids, start), look_inside(model, ids, start)

    def options(tokens: np.ndarray, probabilities: np.ndarray) -> list[tuple[int, str, float]]:
        return [(int(id), tokenizer.decode([int(id)]), round(float(p), 6)) for id, p in zip(tokens, probabilities)]

    layers, heads, _, width = inside.attention.shape
    data = {
        "about": _introduction(model, tokenizer, ids, found),
        "origin": origin,
        "ids": [int(id) for id in ids],
        "pieces": token_pieces(tokenizer, ids),
        "start": tokenizer.decode([start]),
        "surprise": found.surprise.round(4).tolist(),
        "expected": [options(*each) for each in zip(found.expected, found.probabilities)],
        "lens": [[options(*each) for each in zip(*layer)] for layer in zip(inside.lens, inside.probabilities)],
        "first": inside.first.tolist(),
        "width": width,
        "layers": layers,
        "heads": heads,
        # square roots, so that a byte tells small weights apart
        "attention": base64.b64encode((np.sqrt(inside.attention) * 255).round().astype(np.uint8).tobytes()).decode(),
    }
    return filled(TEMPLATE, {"DATA": as_script(data)})


def as_script(value: object) -> str:
    """JSON that can stand in a script, which "<" could end."""
    return json.dumps(value).replace("<", "\\u003c")


def filled(template: Path, parts: Mapping[str, str]) -> str:
    """The page of `template`, which has a `/*NAME*/` where a part belongs."""
    before, *rest = template.read_text(encoding="utf-8").split("/*")
    return before + "".join(parts[name] + text for name, text in (each.split("*/", 1) for each in rest))


def _introduction(model: GPT, tokenizer: Tokenizer, ids: Sequence[int] | np.ndarray, found: Inspection) -> str:
    config, right = model.config, np.mean(found.expected[:, 0] == np.asarray(ids))
    characters = " (here each is a character)" if isinstance(tokenizer, CharTokenizer) else ""
    return (
        f"A GPT of {model.num_parameters():,} parameters reads this text token by token{characters}, and guesses the next: {config.n_layer} layers, "
        f"{config.n_head} heads in each, up to {config.block_size:,} tokens in view. Its first guess was right in {right:.0%} of the "
        f"places. A token cost it {found.bits / len(ids):.2f} bits on average; a blind guess among {config.vocab_size:,} costs "
        f"{math.log2(config.vocab_size):.2f}."
    )
