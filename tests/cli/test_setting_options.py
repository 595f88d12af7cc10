"""The promises of the options that come from settings: each field is one, and the help and the README tell it as it is."""

import re
from dataclasses import fields

import typer
from mlx_nanogpt import GPTConfig, TrainConfig
from mlx_nanogpt_cli.app import app


def test_every_field_of_the_configurations_is_an_option_with_its_default():
    options = {option.name: option for option in typer.main.get_command(app).commands["train"].params}
    for field in (*fields(GPTConfig), *fields(TrainConfig)):
        if field.name != "vocab_size":  # the text's to say
            assert options[field.name].default == field.default, field.name


def test_help_is_grouped_and_tells_the_defaults(mlx_gpt, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    result = mlx_gpt("train", "--help")
    assert result.status == 0
    assert all(
        f"─ {panel} ─" in result.out
        for panel in ("Text", "Model", "Training", "Optimizer", "Evaluation", "Machine", "Run")
    )
    assert re.search(r"--num-iter +<steps> +How often the weights are updated\. .*\[default: 5000\]", result.out)
    assert re.search(r"(?s)--data .*\[default: tinyshakespeare\]", result.out)  # on the lines below
