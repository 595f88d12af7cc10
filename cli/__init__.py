"""The command line, `mlx-gpt`: one file per command. It reads the library's defaults and renders its records."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer
from rich.text import Text

from mlx_nanogpt import UserError

from .bench import bench
from .generate import generate
from .screen import INTERRUPTED, errors
from .train import train

app = typer.Typer(
    help="NanoGPT native to Apple silicon: train a small GPT on a text, let it write, measure the machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # NanoLux spells its options with underscores: --num_iter is --num-iter
    context_settings={"token_normalize_func": lambda token: token.replace("_", "-"), "help_option_names": ["-h", "--help"]},
)
app.command()(train)
app.command()(generate)
app.command()(bench)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"mlx-gpt {version('mlx-nanogpt')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it and stop.")] = False,
) -> None:
    """What comes before a command; the callback has done it already."""


def main() -> None:
    """Run the program; a problem that the user can put right is a sentence and exit status 1, Ctrl-C is 130."""
    try:
        app()
    except UserError as error:
        errors.print(Text.assemble(("Error: ", "bold red"), str(error)))
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("Stopped.")
        sys.exit(INTERRUPTED)
