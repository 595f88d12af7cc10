"""The promises of the options that come from settings: each field is one, and the help and the README tell it as it is."""

import re
from dataclasses import dataclass, fields

import pytest
import typer
from mlx_nanogpt import GPTConfig, TrainConfig
from mlx_nanogpt.config import SETTINGS, TRAINING, setting
from mlx_nanogpt_cli.app import app
from mlx_nanogpt_cli.options.settings import PANELS, with_settings
from mlx_nanogpt_cli.options.settings_table import README, with_table

TRAIN = {option.name: option for option in typer.main.get_command(app).commands["train"].params}


def test_every_field_of_the_configurations_is_an_option_with_its_default():
    for field in (*fields(GPTConfig), *fields(TrainConfig)):
        if field.name != "vocab_size":  # the text's to say
            assert TRAIN[field.name].default == field.default, field.name


@pytest.mark.parametrize("name", SETTINGS)
def test_an_option_says_what_its_field_says(name):
    about, option = SETTINGS[name].metadata["setting"], TRAIN[name]
    assert f"--{name.replace('_', '-')}" in option.opts
    assert option.rich_help_panel == about.group and option.metavar == (f"<{about.unit}>" if about.unit else None)
    assert option.help.replace("-", "_").replace("__", "").startswith(about.help.replace("-", "_"))


@pytest.mark.parametrize(
    "name, end",
    [
        ("n_layer", "blocks. From 1 to 1000."),
        ("dropout", "training. From 0 to less than 1."),
        ("train_fraction", "validates. From more than 0 to less than 1."),
        ("num_iter", "updated."),  # a billion says nothing
        ("learning_rate", "highest."),
        ("grad_clip", "0: never."),
    ],
)
def test_an_option_tells_a_range_that_is_short(name, end):
    assert TRAIN[name].help.endswith(end)


def test_an_option_names_other_settings_as_options():
    assert TRAIN["batch_size"].help.startswith("Windows of --block-size tokens")
    assert "batches and dropout." in TRAIN["seed"].help  # a word, too


def test_a_field_that_is_added_is_an_option():
    @dataclass(frozen=True)
    class More(TrainConfig):
        smoothing: float = setting(0.0, "Share of a target.", TRAINING, unit="share", least=0, below=1)
        noisy: bool = setting(False, "Let it be noisy.", TRAINING)

    def command(device: str = "auto", **settings):
        return More(**settings)

    parser = typer.Typer()
    parser.command()(with_settings(command, {field.name: field for field in fields(More)}))
    arguments = ["--smoothing=0.5", "--noisy", "--num-iter=7"]
    config = typer.main.get_command(parser).main(arguments, standalone_mode=False)
    assert config == More(smoothing=0.5, noisy=True, num_iter=7)


def test_the_table_of_settings_in_the_readme_is_current():
    readme = README.read_text(encoding="utf-8")
    assert with_table(readme) == readme, "run python -m mlx_nanogpt_cli.options.settings_table"


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_has_a_row_in_the_table(name):
    option, default = f"--{name.replace('_', '-')}", SETTINGS[name].default
    row = re.search(rf"^\| `{option}` \| .*$", README.read_text(encoding="utf-8"), re.M)
    assert row and f"| {str(default).lower() if default is False else default} |" in row.group()


def test_help_is_grouped_and_tells_the_defaults(mlx_gpt, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    result = mlx_gpt("train", "--help")
    assert result.status == 0
    assert all(
        f"─ {panel} ─" in result.out
        for panel in ("Text", "Model", "Training", "Optimizer", "Evaluation", "Machine", "Run")
    )
    assert re.findall(r"─ (\w+) ─", result.out) == ["Options", *PANELS]
    assert re.search(r"--num-iter +<steps> +How often the weights are updated\. .*\[default: 5000\]", result.out)
    assert re.search(r"(?s)--data .*\[default: tinyshakespeare\]", result.out)  # on the lines below
