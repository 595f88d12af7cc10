"""Options from settings: a field of `GPTConfig` or `TrainConfig` becomes an option of the command line."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import Field
from typing import Annotated, Any, get_args

import typer
from mlx_nanogpt.config import EVALUATION, MACHINE, MODEL, OPTIMIZER, SETTINGS, TEXT, TRAINING

RUN = "Run"
PANELS = [TEXT, MODEL, TRAINING, OPTIMIZER, EVALUATION, MACHINE, RUN]  # of the help, in its order
FIRST = ["data", "num_iter", "preset", "minutes", "resume", "init_from", "run_dir"]  # options before all panels
LONGEST_BOUND = 5  # characters of a bound that the help shows


def option_name(setting_name: str) -> str:
    return f"--{setting_name.replace('_', '-')}"


def with_options(sentence: str) -> str:
    """A sentence of the library, in which `run_dir` becomes --run-dir."""
    return re.sub(r"`(\w+)`", lambda parameter: option_name(parameter.group(1)), sentence)


def setting_help(field: Field) -> str:
    """The help of a field; the names of other settings become options, such as --block-size."""
    text = field.metadata["setting"].help
    return re.sub(r"\w+_\w+", lambda word: option_name(word[0]) if word[0] in SETTINGS else word[0], text)


def setting_option(field: Field, **changes: Any) -> typer.models.OptionInfo:
    """The option of a field. `changes` replace its attributes in a command that uses the setting for something else."""
    about = field.metadata["setting"]
    bounds = about.range()
    short = all(len(word) <= LONGEST_BOUND for word in bounds.split() if word[0].isdigit())
    shown = f" {bounds.capitalize()}." if field.type in (int, float) and " to " in bounds and short else ""
    attributes = {"help": f"{setting_help(field)}{shown}", "rich_help_panel": about.group}
    if about.unit:
        attributes["metavar"] = f"<{about.unit}>"
    return typer.Option(**attributes | changes)


def with_settings(command: Callable, settings: Mapping[str, Field] = SETTINGS) -> Callable:
    """Give `command` an option for each of `settings`; it gets their values as keyword arguments.

    Typer reads options from a signature, so `command` gets one that names the settings in place of `**settings`.
    """
    own = inspect.signature(command).parameters.values()
    named = [parameter for parameter in own if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
    parameters = sorted([*named, *map(_parameter, settings.values())], key=_place)
    command.__signature__ = inspect.Signature(
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    )
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _parameter(field: Field) -> inspect.Parameter:
    option = setting_option(field, **{"rich_help_panel": None} if field.name in FIRST else {})
    annotation = Annotated[field.type, option]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)


def _place(parameter: inspect.Parameter) -> int:
    """The place of an option in `FIRST`, or else that of its panel, in the help; -1 for a parameter that is not an option."""
    if parameter.name in FIRST:
        return FIRST.index(parameter.name)
    for option in get_args(parameter.annotation):
        if isinstance(option, typer.models.OptionInfo):
            return len(FIRST) + PANELS.index(option.rich_help_panel)
    return -1
