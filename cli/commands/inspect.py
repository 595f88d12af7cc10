"""`mlx-gpt inspect`: a text coloured by how much each token surprises a model, and what the model expected instead."""

from typing import Annotated

import numpy as np
import typer
from mlx_nanogpt import UserError
from mlx_nanogpt.exchange.pretrained import find_model
from mlx_nanogpt.pages.inspection import Inspection, find_excerpt, inspect
from mlx_nanogpt.text.tokenizer import Tokenizer, token_pieces
from rich.table import Table
from rich.text import Text

from ..options.prompt import PromptFileOption, PromptOption, UnknownOption, read_prompt
from ..options.shared import DeviceOption, InitFromOption, LastOption, RunArgument, use_device
from ..screen.consoles import ESCAPES, console, one_line, quote_token
from ..screen.describe import describe_weights

SHOWN = 20  # characters of the text before a surprise

# Colours by the least bits of a token. ColorBrewer's YlOrBr, which the colour-blind can tell apart.
COLOURS = {1: "black on #fff7bc", 2: "black on #fec44f", 4: "white on #cc4c02", 8: "white on #662506"}


def inspect_text(
    run: RunArgument = None,
    prompt: PromptOption = None,
    prompt_file: PromptFileOption = None,
    unknown: UnknownOption = "refuse",
    last: LastOption = False,
    init_from: InitFromOption = None,
    surprises: Annotated[int, typer.Option(help="How many of the greatest surprises to list.", min=0)] = 10,
    device: DeviceOption = "auto",
) -> None:
    """Show what surprises a trained model in a text, and what it expected there.

    Without a --prompt it takes the beginning of the run's validation split.

    A surprise is the cost of a token in bits: 1 for a token of probability 1/2, 2 for 1/4, and so on.
    """
    use_device(device)
    model, tokenizer, source = find_model(run, last, init_from)
    text = read_prompt(tokenizer, prompt, prompt_file, unknown)
    if text is not None:
        ids = tokenizer.encode(text)
    elif source:
        ids = find_excerpt(source)
    else:
        raise UserError("an exported model has no text of its own", "give one with `prompt`")
    found = inspect(model, ids, tokenizer.start_token)
    pieces = token_pieces(tokenizer, ids)
    console.print(describe_weights(source, last) if source else init_from, style="dim")
    console.print(_colour(pieces, found), soft_wrap=True)
    console.print()
    if console.is_terminal:
        console.print(_make_legend())
    console.print(
        f"{found.bits / len(ids):.2f} bits a token, {found.bits / max(sum(map(len, pieces)), 1):.2f} a character."
    )
    if surprises:
        console.print(_make_table(pieces, found, tokenizer, surprises))


def _colour(pieces: list[str], found: Inspection) -> Text:
    return Text.assemble(
        *((piece.translate(ESCAPES), _choose_style(bits)) for piece, bits in zip(pieces, found.surprise))
    )


def _choose_style(bits: float) -> str:
    return next((style for least, style in reversed(COLOURS.items()) if bits >= least), "")


def _make_legend() -> Text:
    parts = [(f" {least} ", style) for least, style in COLOURS.items()]
    return Text.assemble("Bits from ", *parts, " on; fewer have no colour.")


def _make_table(pieces: list[str], found: Inspection, tokenizer: Tokenizer, count: int) -> Table:
    """A table of the greatest surprises, the greatest first, and the three likeliest tokens in their places."""
    table = Table(title="What surprised it most", title_justify="left")
    for name in ("Bits", "After", "Token", "It expected"):
        table.add_column(name, justify="right" if name in ("Bits", "After") else "left", overflow="fold")
    for place in np.argsort(-found.surprise, kind="stable")[:count]:
        expected = (
            f"{quote_token(tokenizer.decode([int(token)]))} {probability:.0%}"
            for token, probability in zip(found.expected[place][:3], found.probabilities[place])
        )
        before = one_line("".join(pieces[:place])[-SHOWN:])
        table.add_row(f"{found.surprise[place]:.1f}", before, quote_token(pieces[place]), ", ".join(expected))
    return table
