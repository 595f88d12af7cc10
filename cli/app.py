"""The commands of `mlx-gpt`, one file each, and how their errors are told. They read the library's defaults and show its
results."""

import shlex
import sys
import warnings
from contextlib import suppress
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer
from mlx_nanogpt import PRESETS, UserError
from mlx_nanogpt.errors import printable
from mlx_nanogpt.machine import machine
from rich.text import Text
from typer.core import TyperCommand

from .commands.bench import bench
from .commands.config import config
from .commands.doctor import doctor
from .commands.eval import evaluate
from .commands.export import export
from .commands.generate import generate
from .commands.inspect import inspect_text
from .commands.launch import launch
from .commands.plan import plan
from .commands.prepare import prepare
from .commands.presets import presets
from .commands.report import report
from .commands.runs import runs
from .commands.train import train
from .options.settings import with_options
from .screen.consoles import errors

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


def _given(words: list[str], option: typer.CallbackParam | None) -> str:
    """The value that `words` have for `option`."""
    for word, following in zip(words, [*words[1:], ""]):
        name, _, value = word.partition("=")
        if option and name.replace("_", "-") in option.opts:
            return value or following
    return "it"


def _plain(message: str, value: str) -> str:
    """What typer says of `value`, in plainer words."""
    for kind, example in (("integer", "a whole number, such as 500"), ("number", "a number, such as 0.001")):
        if message.startswith(f"Input should be a valid {kind}"):
            return f"{value} is not {example}"
    return message.removeprefix("Value error, ").replace("Input should be", f"{value} should be")


class Command(TyperCommand):
    """A command that answers a word without an option, as in `mlx-gpt train my.txt`, with the option that was meant."""

    allow_extra_args = True

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        words = list(args)  # typer empties `args`
        try:
            args = super().parse_args(ctx, args)
        except typer.BadParameter as error:
            error.message = _plain(error.message, _given(words, error.param))
            raise
        if ctx.args:
            word, names = shlex.quote(" ".join(ctx.args)), {each.name for each in self.params}
            order = (*(["preset"] if word in PRESETS else []), "prompt", "run", "data")
            meant = [f"did you mean --{name} {word}?" for name in order if name in names]
            ctx.fail(f"{word} belongs to no option; {[*meant, 'leave it out'][0]}")
        return args


# The options after `train` are those of train.
OWN_SETTINGS = {"launch": {"ignore_unknown_options": True, "allow_interspersed_args": False}}

for name, command in {
    "train": train,
    "launch": launch,
    "plan": plan,
    "prepare": prepare,
    "generate": generate,
    "inspect": inspect_text,
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
    """The options before a command; the callback of --version has done its work already."""


def run() -> None:
    """Run the program. A problem that the user can mend becomes a sentence on standard error, and exit status 1."""
    warnings.showwarning = _warn
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # here, so that a failure is told below
    except UserError as error:
        _fail(with_options(str(error)))
    except BrokenPipeError:  # the reader has what it wants
        sys.exit(1)
    except OSError as error:
        _fail(
            f"{error.filename or 'the output'} cannot be used ({error.strerror}); check the disk and the rights to it"
        )
    except (MemoryError, RuntimeError) as error:
        explained = machine().explain(error)
        if explained is None:
            raise
        _fail(with_options(str(explained)))


def _warn(message: Warning | str, *place: object) -> None:
    errors.print(Text.assemble(("Warning: ", "yellow"), printable(str(message))))


def _fail(sentence: str) -> NoReturn:
    with suppress(OSError):  # standard error may be full, too
        errors.print(Text.assemble(("Error: ", "bold red"), printable(sentence)))
    sys.exit(1)
