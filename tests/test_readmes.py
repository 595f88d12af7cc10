"""The promises of the READMEs: what they link to is there, what they tell the reader to type exists, and their example runs."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from mlx_nanogpt_cli.app import app

ROOT = Path(__file__).parents[1]
READMES = [*map(Path, ("README.md", "cli/README.md", "mlx_nanogpt/README.md", "benchmarks/README.md"))]
READMES.append(Path(".github/CONTRIBUTING.md"))
COMMANDS = typer.main.get_command(app).commands


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_every_link_leads_to_a_file(readme):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / readme).read_text(encoding="utf-8"))
    assert not [each for each in targets if not (ROOT / readme.parent / each).exists()]


def commands(text: str) -> list[list[str]]:
    """The arguments of every mlx-gpt command in the text's shell blocks and in its inline code."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += [code.replace("\n", " ") for code in re.findall(r"`(mlx-gpt [^`]+)`", text)]
    parts = [part for line in lines for part in re.split(r"&&|\||;", line)]
    words = [shlex.split(re.sub(r">.*", "", part), comments=True) for part in parts]
    return [each[1:] for each in words if each[:1] == ["mlx-gpt"]]


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_every_command_exists_with_all_its_options(readme):
    for name, *arguments in commands((ROOT / readme).read_text(encoding="utf-8")):
        if name.startswith("--"):
            continue
        options = {
            option for parameter in COMMANDS[name].params for option in (*parameter.opts, *parameter.secondary_opts)
        }
        used = {each.partition("=")[0] for each in arguments if each.startswith("--")} - {"--help"}
        assert used <= options, f"mlx-gpt {name} has no {used - options}"


def test_the_readmes_show_commands():
    assert len(commands((ROOT / "README.md").read_text(encoding="utf-8"))) > 10


@pytest.mark.parametrize("readme, most", [("README.md", 150), (".github/CONTRIBUTING.md", 60)])
def test_what_is_read_first_is_short(readme, most):
    assert len((ROOT / readme).read_text(encoding="utf-8").splitlines()) <= most


def test_the_example_of_the_library_runs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "mlx_nanogpt/README.md").read_text(encoding="utf-8"), re.S)
    settings = "num_iter=2, eval_iters=1, batch_size=2"
    exec(compile(example.replace("num_iter=500", settings), "mlx_nanogpt/README.md", "exec"), {})
    assert "Done(iteration=2, end='finished'" in capsys.readouterr().out
