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
    """Return how many tokens a page of `model` can have: fewer if it has many heads and a long context."""
    config = model.config
    heads = config.n_layer * config.n_head
    return max(MOST_WEIGHTS // (heads * config.block_size), min(config.block_size, math.isqrt(MOST_WEIGHTS // heads)))


def inside_page(model: GPT, tokenizer: Tokenizer, ids: Sequence[int] | np.ndarray, origin: str) -> str:
    """Return the page on the first `most_tokens(model)` of the tokens `ids`, (N,); `origin` is a line on the model.

    Raises `UserError` for a text without tokens, and for a model whose blocks are not those of `model.py`.
    """
    ids = ids[: most_tokens(model)]
    start = tokenizer.start_token
    inside, found = look_inside(model, ids, start), inspect(model, ids, start)

    def guesses(tokens: np.ndarray, probabilities: np.ndarray) -> list[tuple[int, str, float]]:
        return [(int(id), tokenizer.decode([int(id)]), round(float(p), 6)) for id, p in zip(tokens, probabilities)]

    layers, heads, _, width = inside.attention.shape
    data = {
        "about": _introduce(model, tokenizer, ids, found),
        "origin": origin,
        "ids": [int(id) for id in ids],
        "pieces": token_pieces(tokenizer, ids),
        "start": tokenizer.decode([start]),
        "surprise": found.surprise.round(4).tolist(),
        "expected": list(map(guesses, found.expected, found.probabilities)),
        "lens": [list(map(guesses, *layer)) for layer in zip(inside.lens, inside.probabilities)],
        "first": inside.first.tolist(),
        "width": width,
        "layers": layers,
        "heads": heads,
        # square roots, so that a byte tells small weights apart
        "attention": base64.b64encode((np.sqrt(inside.attention) * 255).round().astype(np.uint8).tobytes()).decode(),
    }
    return fill(TEMPLATE, {"DATA": as_script(data)})


def as_script(value: object) -> str:
    """Return JSON that can stand in a script, which "<" could end."""
    return json.dumps(value).replace("<", "\\u003c")


def fill(template: Path, parts: Mapping[str, str]) -> str:
    """Return the page of `template`, which has a `/*NAME*/` in the place of each part."""
    before, *rest = template.read_text(encoding="utf-8").split("/*")
    return before + "".join(parts[name] + text for name, text in (piece.split("*/", 1) for piece in rest))


def _introduce(model: GPT, tokenizer: Tokenizer, ids: Sequence[int] | np.ndarray, found: Inspection) -> str:
    config, right = model.config, np.mean(found.expected[:, 0] == np.asarray(ids))
    characters = " (here each is a character)" if isinstance(tokenizer, CharTokenizer) else ""
    return (
        f"A GPT of {model.num_parameters():,} parameters reads this text token by token{characters}, and guesses the next: "
        f"{config.n_layer} layers, {config.n_head} heads in each, up to {config.block_size:,} tokens in view. Its first guess "
        f"was right in {right:.0%} of the places. A token cost it {found.bits / len(ids):.2f} bits on average; a blind guess "
        f"among {config.vocab_size:,} costs {math.log2(config.vocab_size):.2f}."
    )
