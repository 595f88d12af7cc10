"""`mlx-gpt config`: all settings of a run or a preset as a TOML file, alone on standard output."""

import sys
from dataclasses import asdict
from typing import Annotated

import mlx_nanogpt as gpt
import typer
from mlx_nanogpt import UserError
from mlx_nanogpt.config_file import preset_settings, write_config_file
from mlx_nanogpt.runs.find import find_run
from mlx_nanogpt.text.corpus import TINYSHAKESPEARE, is_token_folder
from mlx_nanogpt.text.identity import Texts

from ..options.shared import RunArgument
from ..options.start import PRESET_NAME
from ..screen.describe import describe_packages, describe_versions


def config(
    run: RunArgument = None,
    preset: Annotated[
        str | None, typer.Option(help="Print this preset instead of a run: mlx-gpt presets lists them.", **PRESET_NAME)
    ] = None,
) -> None:
    """Print all settings of a run as TOML, to repeat it or to start another: mlx-gpt train --config FILE.

    On the same machine, with the same versions and text, the new run has the same weights bit for bit.
    """
    if run and preset:
        raise UserError("a run and `preset` exclude each other", "leave out one of them")
    if preset:
        settings = preset_settings(preset)
        gpt_config, train_config = gpt.preset(preset)
        texts, about = Texts((TINYSHAKESPEARE,)), f"The preset {preset}: {gpt.PRESETS[preset].description}"
        origin = [f"Versions: {describe_versions()}"]
    else:
        source = find_run(run)
        gpt_config, train_config, texts = source.gpt_config, source.train_config, source.corpus
        made_by = describe_packages(source.versions())
        about = f"The settings of {source.path}"
        origin = [f"Text: {source.corpus.name} (sha256 {source.corpus.sha256})", f"Versions: {made_by}"]
        if source.init_from:
            settings = {"init_from": source.init_from}
        else:
            settings = {"tokenizer": source.tokenizer.kind}
        if source.teachers:
            settings["teacher"] = [teacher.path for teacher in source.teachers]
    settings |= {"data": texts.sources} | ({"valid_data": texts.valid} if texts.valid else {})
    if not is_token_folder(texts.sources):
        settings["documents"] = texts.documents
    settings |= asdict(gpt_config) | asdict(train_config)
    if settings.get("tokenizer") != "bpe":
        del settings["vocab_size"]  # the text or the tokenizer determines it
    text = write_config_file(settings, [about, *origin, "Train with them: mlx-gpt train --config THIS_FILE"])
    sys.stdout.reconfigure(encoding="utf-8")  # as TOML is, whatever the terminal
    sys.stdout.write(text)
