"""`mlx-gpt generate`: writes text with a run. Standard output carries the text alone; all else goes to standard error."""

import secrets
import sys
import time
from collections.abc import Sequence
from itertools import chain, count
from typing import Annotated

import mlx_nanogpt as gpt
import typer
from mlx_nanogpt import UserError
from mlx_nanogpt.config import SETTINGS
from mlx_nanogpt.exchange.pretrained import find_model
from mlx_nanogpt.generation import until
from mlx_nanogpt.text.characters import quote_some
from mlx_nanogpt.text.tokenizer import Tokenizer, encode_prompt

from ..options.prompt import PromptFileOption, PromptOption, UnknownOption, read_prompt
from ..options.settings import setting_option
from ..options.shared import DeviceOption, InitFromOption, LastOption, RunArgument, not_empty, use_device
from ..screen.consoles import ESCAPES, errors
from ..screen.describe import describe_weights

NEW_SEEDS = 10**6  # short to type again

# The setting `seed`, for the random draws of a text.
SEED = setting_option(
    SETTINGS["seed"],
    help="Start of the random draws: the same seed writes the same text.",
    show_default="another each time",
    rich_help_panel=None,
    min=0,
)


def generate(
    run: RunArgument = None,
    prompt: PromptOption = None,
    prompt_file: PromptFileOption = None,
    unknown: UnknownOption = "refuse",
    tokens: Annotated[int, typer.Option(help="Tokens to write, after the prompt.", min=1)] = 500,
    last: LastOption = False,
    init_from: InitFromOption = None,
    temperature: Annotated[float, typer.Option(help="Higher is bolder; 0 always takes the likeliest token.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k likeliest tokens.", show_default="all")] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Draw from the likeliest tokens that make up this probability.", show_default="all"),
    ] = None,
    stop: Annotated[
        list[str],
        typer.Option(
            parser=not_empty,
            metavar="TEXT",
            help="End before this text; give it again to add another.",
            show_default="none",
        ),
    ] = [],
    num_samples: Annotated[int, typer.Option(help="Texts to write, with the seeds that follow --seed.", min=1)] = 1,
    seed: Annotated[int | None, SEED] = None,
    device: DeviceOption = "auto",
) -> None:
    """Write text with a trained run, and print each token as it is drawn.

    A text that is longer than the model's context is continued from its last --block-size tokens, as in the lecture. A model of
    documents (names, files) begins a document, and stops at its end.
    """
    use_device(device)
    sample = gpt.make_sampler(temperature, top_k, top_p)
    model, tokenizer, source = find_model(run, last, init_from)
    if source:
        origin = describe_weights(source, last)
    else:
        origin = f"{init_from}: {model.num_parameters():,} parameters, context {model.config.block_size:,}"
    _check_stops(tokenizer, stop)
    begun = read_prompt(tokenizer, prompt, prompt_file, unknown) or ""
    ids = encode_prompt(tokenizer, begun)
    errors.print(origin, style="dim")
    # a terminal would obey control characters; a file gets them as they are
    shown = (lambda text: text.translate(ESCAPES)) if sys.stdout.isatty() else str
    seed = secrets.randbelow(NEW_SEEDS) if seed is None else seed
    seeds = f"seed {seed}" if num_samples == 1 else f"{num_samples:,} samples, seeds {seed} to {seed + num_samples - 1}"
    errors.print(seeds, style="dim")
    drawn, started, lines = count(), time.perf_counter(), 0
    for i in range(num_samples):
        if lines > 1:
            sys.stdout.write("\n")  # a line between two texts of several lines
            errors.print(f"seed {seed + i}", style="dim")
        new = gpt.generate(model, ids, tokens, seed + i, sample, tokenizer.end_token)
        texts = tokenizer.stream(token for token, _ in zip(new, drawn))
        lines = 1
        for text in chain([begun], until(texts, stop)):
            sys.stdout.write(shown(text))
            sys.stdout.flush()
            lines += text.count("\n")
        sys.stdout.write("\n")
    errors.print(f"{next(drawn) / (time.perf_counter() - started):,.0f} tokens/s", style="dim")


def _check_stops(tokenizer: Tokenizer, stops: Sequence[str]) -> None:
    """Raise `UserError` if one of `stops` has a character that the model never writes."""
    if never := tokenizer.unknown("".join(stops)):
        remedy = "give another `stop`; in a shell, $'\\n' is the end of a line"
        raise UserError(f"the model never writes {quote_some(never)}, at which it should stop", remedy)
