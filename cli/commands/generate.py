"""`mlx-gpt generate`: writes text with a run. Standard output carries the text alone; all else goes to standard error."""

import time
from collections.abc import Sequence
from itertools import chain, count
from typing import Annotated

import mlx_nanogpt as gpt
import typer
from mlx_nanogpt import UserError
from mlx_nanogpt.generation import make_writer, until
from mlx_nanogpt.text.characters import quote_some
from mlx_nanogpt.text.tokenizer import Tokenizer, encode_prompt

from ..options import writing
from ..options.prompt import PromptFileOption, PromptOption, UnknownOption, read_prompt
from ..options.shared import DeviceOption, InitFromOption, LastOption, RunArgument, not_empty, use_device
from ..screen.consoles import errors, show_text


def generate(
    run: RunArgument = None,
    prompt: PromptOption = None,
    prompt_file: PromptFileOption = None,
    unknown: UnknownOption = "refuse",
    tokens: writing.TokensOption = 500,
    last: LastOption = False,
    init_from: InitFromOption = None,
    temperature: writing.TemperatureOption = 1.0,
    top_k: writing.TopKOption = None,
    top_p: writing.TopPOption = None,
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
    seed: writing.SeedOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Write text with a trained run, and print each token as it is drawn.

    A text that is longer than the model's context is continued from its last --block-size tokens, as in the lecture. A model of
    documents (names, files) begins a document, and stops at its end. Several samples are drawn together, and printed one after the other.
    """
    use_device(device)
    sample = gpt.make_sampler(temperature, top_k, top_p)
    model, tokenizer = writing.open_model(run, last, init_from)
    _check_stops(tokenizer, stop)
    begun = read_prompt(tokenizer, prompt, prompt_file, unknown) or ""
    ids = encode_prompt(tokenizer, begun)
    seed = writing.choose_seed(seed)
    seeds = f"seed {seed}" if num_samples == 1 else f"{num_samples:,} samples, seeds {seed} to {seed + num_samples - 1}"
    errors.print(seeds, style="dim")
    write, drawn, started, lines = make_writer(model, sample), count(), time.perf_counter(), 0
    for each, new in enumerate(write(ids, tokens, range(seed, seed + num_samples), tokenizer.end_token), seed):
        if lines > 1:
            show_text([])  # a line between two texts of several lines
            errors.print(f"seed {each}", style="dim")
        texts = tokenizer.stream(token for token, _ in zip(new, drawn))
        lines = show_text(chain([begun], until(texts, stop)))
    errors.print(f"{next(drawn) / (time.perf_counter() - started):,.0f} tokens/s", style="dim")


def _check_stops(tokenizer: Tokenizer, stops: Sequence[str]) -> None:
    """Raise `UserError` if one of `stops` has a character that the model never writes."""
    if never := tokenizer.unknown("".join(stops)):
        remedy = "give another `stop`; in a shell, $'\\n' is the end of a line"
        raise UserError(f"the model never writes {quote_some(never)}, at which it should stop", remedy)
