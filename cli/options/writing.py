"""What the commands that write texts share: their options, and the model that these name."""

import secrets
from pathlib import Path
from typing import Annotated

import typer
from mlx_nanogpt import GPT
from mlx_nanogpt.config import SETTINGS
from mlx_nanogpt.exchange.pretrained import find_model
from mlx_nanogpt.text.tokenizer import Tokenizer

from ..screen.consoles import errors
from ..screen.describe import describe_weights
from .settings import setting_option

NEW_SEEDS = 10**6  # short to type again

TokensOption = Annotated[int, typer.Option(help="Tokens to write; fewer if the text ends.", min=1)]
TemperatureOption = Annotated[float, typer.Option(help="Higher is bolder; 0 always takes the likeliest token.")]
TopKOption = Annotated[int | None, typer.Option(help="Draw from the k likeliest tokens.", show_default="all")]
TopPOption = Annotated[
    float | None, typer.Option(help="Draw from the likeliest tokens that make up this probability.", show_default="all")
]
SeedOption = Annotated[
    int | None,
    setting_option(
        SETTINGS["seed"],
        help="Start of the random draws: the same seed writes the same text.",
        show_default="another each time",
        rich_help_panel=None,
        min=0,
        max=SETTINGS["seed"].metadata["setting"].most,
    ),
]


def choose_seed(seed: int | None) -> int:
    return secrets.randbelow(NEW_SEEDS) if seed is None else seed


def open_model(run: Path | None, last: bool, init_from: str | None) -> tuple[GPT, Tokenizer]:
    """The model and the tokenizer of `find_model`. A line on standard error names them."""
    model, tokenizer, source = find_model(run, last, init_from)
    if source:
        origin = describe_weights(source, last)
    else:
        origin = f"{init_from}: {model.num_parameters():,} parameters, context {model.config.block_size:,}"
    errors.print(origin, style="dim")
    return model, tokenizer
