"""Options from settings: each field is one, in the help and in the README as it is."""

import re
from dataclasses import dataclass, fields

import pytest
import typer
from mlx_nanogpt import TrainConfig
from mlx_nanogpt.config import SETTINGS, TRAINING, setting
from mlx_nanogpt_cli.app import app
from mlx_nanogpt_cli.options.settings import FIRST, PANELS, with_settings
from settings_table import README, with_table

TRAIN = {option.name: option for option in typer.main.get_command(app).commands["train"].params}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_field_is_an_option_and_a_row_of_the_table_with_its_default_and_help(name):
    field, option = SETTINGS[name], TRAIN[name]
    about, flag = field.metadata["setting"], f"--{name.replace('_', '-')}"
    assert flag in option.opts and option.default == field.default
    assert option.rich_help_panel == (None if name in FIRST else about.group)
    assert option.metavar == (f"<{about.unit}>" if about.unit else None)
    assert option.help.replace("-", "_").replace("__", "").startswith(about.help.replace("-", "_"))
    row = re.search(rf"^\| `{flag}` \| .*$", README.read_text(encoding="utf-8"), re.M)
    assert row and f"| {str(field.default).lower() if field.default is False else field.default} |" in row.group()


@pytest.mark.parametrize(
    "name, end",
    [
        ("n_layer", "blocks. From 1 to 1000."),
        ("dropout", "training. From 0 to less than 1."),
        ("train_fraction", "validates. From more than 0 to less than 1."),
        ("num_iter", "steps."),  # without a billion
        ("learning_rate", "rate."),
        ("grad_clip", "no clipping."),
    ],
)
def test_the_help_of_an_option_ends_with_a_short_range(name, end):
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
    assert with_table(readme) == readme, "run python tests/cli/settings_table.py"


def test_help_is_grouped_and_shows_the_defaults(mlx_gpt, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    result = mlx_gpt("train", "--help")
    assert result.status == 0
    assert re.findall(r"─ (\w+) ─", result.out) == ["Options", *PANELS]
    assert re.search(r"--num-iter +<steps> +Number of training steps\. .*\[default: 5000\]", result.out)
    assert re.search(r"(?s)--data .*\[default: tinyshakespeare\]", result.out)  # on the lines below
