"""The command line, `mlx-gpt`: one file per command. It reads the library's defaults and renders its records."""

import sys
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer
from rich.text import Text

from mlx_nanogpt import UserError

from .bench import bench
from .config import config
from .eval import evaluate
from .export import export
from .generate import generate
from .prepare import prepare
from .presets import presets
from .screen import errors
from .train import train

app = typer.Typer(
    help="NanoGPT native to Apple silicon: train a small GPT on a text, let it write, measure the machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # NanoLux spells its options with underscores: --num_iter is --num-iter
    context_settings={
        "token_normalize_func": lambda token: token.replace("_", "-"),
        "help_option_names": ["-h", "--help"],
    },
)
app.command()(train)
app.command()(prepare)
app.command()(generate)
app.command("eval")(evaluate)
app.command()(bench)
app.command()(presets)
app.command()(config)
app.command()(export)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"mlx-gpt {version('mlx-nanogpt')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it and stop.")
    ] = False,
) -> None:
    """What comes before a command; the callback has done it already."""


def main() -> None:
    """Run the program; a problem that the user can put right is a sentence on standard error and exit status 1."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.reconfigure(
            errors="backslashreplace"
        )  # a name or a text that the terminal cannot show is no reason to stop
    try:
        app()
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        _fail(
            f"{error.filename or 'the output'} cannot be used ({error.strerror}); check the disk and the rights to it"
        )
    except (MemoryError, RuntimeError) as error:
        if "alloc" not in str(error).lower():
            raise
        _fail(f"there is not enough memory ({error}); lower --batch-size, --block-size, --n-layer or --n-embd")


def _fail(sentence: str) -> NoReturn:
    errors.print(Text.assemble(("Error: ", "bold red"), sentence))
    sys.exit(1)
