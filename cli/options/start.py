"""Settings to start from: a preset or a file, before the options that replace them."""

from pathlib import Path
from typing import Annotated

import typer
from mlx_nanogpt import PRESETS, UserError
from mlx_nanogpt.config_file import preset_settings, read_config_file, with_length

from .settings import RUN
from .shared import NAME, PATH

PRESET_NAME = NAME | {"autocompletion": lambda incomplete: [name for name in PRESETS if name.startswith(incomplete)]}
PresetOption = Annotated[
    str | None, typer.Option(help="Settings to start from, by name: mlx-gpt presets lists them.", **PRESET_NAME)
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        help="Settings to start from, as a TOML file: mlx-gpt config writes one.", rich_help_panel=RUN, **PATH
    ),
]


def starting_settings(preset: str | None, config: Path | None, given: dict) -> dict:
    """The settings of the preset or the file, if one is named. An option in `given` may replace a wrong value of the file."""
    if preset is not None and config is not None:
        raise UserError("`preset` and `config` exclude each other", "leave out one of them")
    if preset is None and config is None:
        return {}
    start = preset_settings(preset) if preset is not None else read_config_file(config, given)
    if given.get("tokenizer", start.get("tokenizer")) != "bpe":  # others have their own vocabulary size
        start.pop("vocab_size", None)
    if given.get("optimizer", "muon") != "muon":
        start.pop("muon_lr", None)
    return with_length(start, given["num_iter"]) if "num_iter" in given else start
