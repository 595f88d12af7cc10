"""Options from settings. A field of `GPTConfig` or `TrainConfig` says its type, default, range, unit, help and group; here
it becomes an option of the command line."""

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import Field
from typing import Annotated, Any, get_args

import typer
from mlx_nanogpt.config import EVALUATION, MACHINE, MODEL, OPTIMIZER, SETTINGS, TEXT, TRAINING, Setting

RUN = "Run"
PANELS = [TEXT, MODEL, TRAINING, OPTIMIZER, EVALUATION, MACHINE, RUN]  # of the help, in its order
LONGEST_BOUND = 5  # characters of a bound that the help shows


def option_name(setting_name: str) -> str:
    return f"--{setting_name.replace('_', '-')}"


def with_options(sentence: str) -> str:
    """A sentence of the library. It names parameters in backticks; here they become options, `run_dir` becomes --run-dir."""
    return re.sub(r"`(\w+)`", lambda parameter: option_name(parameter.group(1)), sentence)


def setting_help(field: Field) -> str:
    """The help of a field. It names other settings as options, as `--block-size`."""
    return re.sub(r"\w+_\w+", lambda name: _as_option(name.group()), field.metadata["setting"].help)


def _as_option(word: str) -> str:
    return option_name(word) if word in SETTINGS else word


def setting_option(field: Field, **changes: Any) -> typer.models.OptionInfo:
    """The option of a field. `changes` go before what the field says: a command may use a setting for something else."""
    about = field.metadata["setting"]
    more = {"help": f"{setting_help(field)} {_range(about)}".rstrip(), "rich_help_panel": about.group}
    if about.unit:
        more["metavar"] = f"<{about.unit}>"
    return typer.Option(**more | changes)


def with_settings(command: Callable, settings: Mapping[str, Field] = SETTINGS) -> Callable:
    """Give `command` an option for each of `settings`; it gets their values as keyword arguments.

    Typer reads options from a signature, so `command` gets one that names the settings in place of `**settings`.
    """
    own = inspect.signature(command).parameters.values()
    named = [each for each in own if each.kind is not inspect.Parameter.VAR_KEYWORD]
    parameters = sorted([*named, *map(_parameter, settings.values())], key=_panel_number)
    command.__signature__ = inspect.Signature([each.replace(kind=each.KEYWORD_ONLY) for each in parameters])
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def _parameter(field: Field) -> inspect.Parameter:
    annotation = Annotated[field.type, setting_option(field)]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)


def _panel_number(parameter: inspect.Parameter) -> int:
    """Where the panel of an option stands in the help; -1 for a parameter that is no option."""
    options = [each for each in get_args(parameter.annotation) if isinstance(each, typer.models.OptionInfo)]
    return PANELS.index(options[0].rich_help_panel) if options else -1


def _range(about: Setting) -> str:
    """The range of a number as a sentence. It is empty without two bounds, and where one of them is long."""
    starts = {"From": about.least, "From more than": about.above}
    ends = {"to": about.most, "to less than": about.below}
    bounds = [(word, f"{bound:.10g}") for word, bound in (starts | ends).items() if math.isfinite(bound)]
    if len(bounds) < 2 or max(len(bound) for _, bound in bounds) > LONGEST_BOUND:
        return ""
    return " ".join(f"{word} {bound}" for word, bound in bounds) + "."
