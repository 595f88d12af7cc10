"""The options --prompt, --prompt-file and --unknown, and the text that they give."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from mlx_nanogpt import UserError
from mlx_nanogpt.text.corpus import read_source
from mlx_nanogpt.text.identity import STANDARD_INPUT
from mlx_nanogpt.text.tokenizer import Tokenizer, known_form, known_text

from .shared import PATH

PromptOption = Annotated[
    str | None, typer.Option(help="The text; - reads standard input.", metavar="TEXT", show_default=False)
]
PromptFileOption = Annotated[
    Path | None, typer.Option(help="A UTF-8 file that holds the text; its last line end counts.", **PATH)
]
UnknownOption = Annotated[
    Literal["refuse", "skip", "replace"],
    typer.Option(
        help="Characters of the text that the model does not know: skip leaves them out, replace takes the nearest known one "
        "(e for é), or a space."
    ),
]


def read_prompt(tokenizer: Tokenizer, prompt: str | None, file: Path | None, unknown: str) -> str | None:
    """The text that --prompt or --prompt-file gives, of characters that `tokenizer` knows; None without either option."""
    if prompt is not None and file is not None:
        raise UserError("`prompt` and `prompt_file` exclude each other", "leave out one of them")
    if file is not None or prompt == STANDARD_INPUT:
        prompt = read_source(str(file or STANDARD_INPUT))
    return None if prompt is None else choose_known(tokenizer, prompt, unknown)


def choose_known(tokenizer: Tokenizer, text: str, unknown: str) -> str:
    """`text` of characters that `tokenizer` knows, by --unknown."""
    if unknown != "refuse":
        return known_text(tokenizer, text, replace=unknown == "replace")
    text = known_form(tokenizer, text)
    try:
        tokenizer.encode(text)
    except UserError as error:
        raise UserError(error.problem, f"give `unknown` skip or replace, or {error.remedy}") from error
    return text
