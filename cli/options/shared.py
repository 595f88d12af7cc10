"""Options that several commands share, and the device."""

from pathlib import Path
from typing import Annotated, Literal

import mlx.core as mx
import typer
from mlx_nanogpt import UserError
from mlx_nanogpt.runs.find import named_run, run_folders
from mlx_nanogpt.text.corpus import BUILT_IN
from mlx_nanogpt.text.documents import Documents
from mlx_nanogpt.text.tokenizer import TokenizerName


def not_empty(name: str) -> str:
    if not name:
        raise typer.BadParameter("it is empty")
    return name


def _complete_run(incomplete: str) -> list[str]:
    names = [name for path in run_folders() for name in (path.name, str(path)) if named_run(name) == str(path)]
    return [name for name in names if name.startswith(incomplete)]


# For an option that names a file or a folder. Path("") would be the current folder.
PATH = {"parser": lambda name: Path(not_empty(name)), "metavar": "PATH"}
RUN_PATH = {"parser": lambda name: Path(named_run(not_empty(name))), "metavar": "RUN", "autocompletion": _complete_run}
NAME = {"parser": not_empty, "metavar": "TEXT"}

TEXTS = (
    f"{', '.join(f'{name} ({text.note})' for name, text in BUILT_IN.items())}, a UTF-8 text file, a folder of texts of any "
    f"kind, or - for standard input; give it again to add another."
)
TokenizerOption = Annotated[
    TokenizerName,
    typer.Option(
        help="char: one token per character of the text. bpe: byte pairs, learned from its training split. gpt2: GPT-2's byte "
        "pairs.",
        rich_help_panel="Text",
    ),
]
VOCAB_SIZE = 1024
VocabSizeOption = Annotated[
    int | None,
    typer.Option(
        help="The vocabulary size of --tokenizer bpe.",
        show_default=str(VOCAB_SIZE),
        metavar="<tokens>",
        rich_help_panel="Text",
    ),
]
DocumentsOption = Annotated[
    Documents | None,
    typer.Option(
        help="What a document is: a line (names, sums), a file (notes, code), or none. No document is cut between the splits.",
        show_default="files for a folder, lines for JSON Lines, else none",
        rich_help_panel="Text",
    ),
]
ValidDataOption = Annotated[
    list[str],
    typer.Option(
        help="Validate on this text instead of on a part of --data; give it again to add another.",
        show_default="what a folder names valid, else a part of --data",
        rich_help_panel="Text",
        **NAME,
    ),
]
DeviceOption = Annotated[
    Literal["auto", "cpu", "gpu"], typer.Option(help="auto: the GPU if there is one.", rich_help_panel="Machine")
]
RunArgument = Annotated[
    Path | None,
    typer.Argument(
        help="The number of a run in runs/, or the folder of any run.", show_default="the newest in runs/", **RUN_PATH
    ),
]
RunsArgument = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Numbers of runs in runs/, or folders of runs.", show_default="the newest in runs/", **RUN_PATH
    ),
]
LastOption = Annotated[
    bool, typer.Option("--last", help="Use the last weights, and not the best: those of the lowest validation loss.")
]
InitFromOption = Annotated[
    str | None,
    typer.Option(
        help="Use this model and no run: an exported folder, or a name on the Hugging Face hub.",
        show_default="a run",
        **NAME,
    ),
]


def given_options(ctx: typer.Context) -> dict:
    """The options on the command line, and their values."""
    return {name: value for name, value in ctx.params.items() if ctx.get_parameter_source(name).name == "COMMANDLINE"}


def use_device(name: str) -> None:
    """Make `name` (cpu or gpu) MLX's default device. For auto MLX chooses: the GPU if there is one."""
    if name == "gpu" and not mx.is_available(mx.gpu):
        raise UserError("`device` gpu finds no GPU: this MLX has neither Metal nor CUDA here", "leave the option out")
    if name != "auto":
        mx.set_default_device(getattr(mx, name))
