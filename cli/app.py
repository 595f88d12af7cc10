"""The program: its commands, one file each, and its error messages."""

import sys
import warnings
from contextlib import suppress
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer
from mlx_nanogpt import UserError
from mlx_nanogpt.errors import printable
from mlx_nanogpt.machine import machine
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from .commands.bench import bench
from .commands.config import config
from .commands.doctor import doctor
from .commands.eval import evaluate
from .commands.export import export
from .commands.generate import generate
from .commands.inspect import inspect_text
from .commands.launch import launch
from .commands.page import page
from .commands.plan import plan
from .commands.play import play
from .commands.prepare import prepare
from .commands.presets import presets
from .commands.report import report
from .commands.runs import runs
from .commands.train import train
from .meant import COMMANDS, OPTIONS, meant, misplaced_words
from .options.settings import with_options
from .screen.consoles import errors, print_error

UsageError = typer.BadParameter.__mro__[1]  # typer does not name it


class WithFlags:
    """A command whose help shows no <bool>, the type of a flag."""

    def get_params(self, ctx: typer.Context) -> list:
        for parameter in (parameters := super().get_params(ctx)):
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
        return parameters


class Program(WithFlags, TyperGroup):
    """The program, which answers the commands of other programs with what was meant."""

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> tuple:
        sentence = meant(args[0], COMMANDS, COMMANDS)
        if sentence and not ctx.resilient_parsing:  # as the shell's completion parses
            ctx.fail(f"No such command {args[0]!r}; {sentence}")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Program,
    help="NanoGPT native to Apple silicon: train a small GPT on a text, let it write, measure the machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # NanoLux spells its options with underscores: --num_iter is --num-iter
    context_settings={
        "token_normalize_func": lambda token: token.replace("_", "-"),
        "help_option_names": ["-h", "--help"],
    },
)


class Command(WithFlags, TyperCommand):
    """A command that answers a word without an option, as in `mlx-gpt train my.txt`, and the options of other programs, with what
    was meant."""

    allow_extra_args = True

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        names = {name for parameter in self.params for name in (parameter.name, *parameter.opts)}
        try:
            args = super().parse_args(ctx, args)
        except UsageError as error:
            error.message = printable(error.message)  # it may hold words that a terminal would obey
            if sentence := meant(getattr(error, "option_name", ""), OPTIONS, names):
                error.message, error.possibilities = f"{error.message}; {sentence}", None
            raise
        misplaced = misplaced_words(ctx.params.get("run"), ctx.args, names)
        if misplaced and not ctx.resilient_parsing:
            ctx.fail(misplaced)
        return args


# Options after `train` belong to train.
OWN_SETTINGS = {"launch": {"ignore_unknown_options": True, "allow_interspersed_args": False}}

for name, command in {
    "train": train,
    "launch": launch,
    "plan": plan,
    "prepare": prepare,
    "generate": generate,
    "play": play,
    "inspect": inspect_text,
    "page": page,
    "runs": runs,
    "report": report,
    "eval": evaluate,
    "bench": bench,
    "doctor": doctor,
    "presets": presets,
    "config": config,
    "export": export,
}.items():
    app.command(name, cls=Command, context_settings=OWN_SETTINGS.get(name))(command)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"mlx-gpt {version('mlx-nanogpt')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and stop.")
    ] = False,
) -> None:
    """Options before a command; the callback of --version has run already."""


def run() -> None:
    """Run the program. An error that the user can correct becomes a sentence on standard error, and exit status 1."""
    warnings.showwarning = _warn
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # here, so that a failure is reported below
    except UserError as error:
        _fail(with_options(str(error)))
    except BrokenPipeError:  # the reader has what it wants
        sys.exit(1)
    except (OSError, MemoryError, RuntimeError) as error:
        if explained := machine().explain(error):
            _fail(with_options(str(explained)))
        if not isinstance(error, OSError):
            raise
        _fail(
            f"{error.filename or 'the output'} cannot be used ({error.strerror}); check the disk and the rights to it"
        )


def _warn(message: Warning | str, *place: object) -> None:
    with errors.capture() as text:
        errors.print(Text.assemble(("Warning: ", "yellow"), printable(str(message))), soft_wrap=True)
    with suppress(OSError):
        sys.stderr.write(text.get())  # appears above a progress bar; what a console prints would tear the bar


def _fail(sentence: str) -> NoReturn:
    with suppress(OSError):  # standard error may be full, too
        print_error(sentence)
    sys.exit(1)
