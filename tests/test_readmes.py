"""The promises of the READMEs: their links and their commands exist, and their example runs."""

import json
import re
import runpy
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import mean

import pytest
import typer
from mlx_nanogpt import PRESETS, CharTokenizer, Evaluation, GPTConfig, Record, TrainConfig, preset
from mlx_nanogpt.config import configurations
from mlx_nanogpt.measure.roofline import expected_seconds
from mlx_nanogpt_cli.app import app

ROOT = Path(__file__).parents[1]
NAMES = (
    "README.md",
    "cli/README.md",
    "mlx_nanogpt/README.md",
    "benchmarks/README.md",
    "benchmarks/machines.md",
    "benchmarks/recipes.md",
    ".github/CONTRIBUTING.md",
)
READMES = {name: (ROOT / name).read_text(encoding="utf-8") for name in NAMES}
PROGRAM = typer.main.get_command(app)
each_readme = pytest.mark.parametrize("name", NAMES)


def list_commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command in the shell blocks of `text`, and of each mlx-gpt command inside a line, without the
    file of a redirection."""
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.splitlines()]
    lines += [
        code.replace("\n", " ") for code in re.findall(r"`(mlx-gpt [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    ]
    for line in lines:
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        command: list[str] = []
        for word in words:
            if word == ">":
                next(words)
            elif set(word) <= set("|&;"):
                yield command
                command = []
            else:
                command.append(word)
        if command:
            yield command


def check_command(words: list[str]) -> None:
    """Raise an error unless mlx-gpt takes `words`; values may be anything."""
    name, *arguments = words
    if name == "launch" and "train" in arguments:  # which has options of its own before those of train
        check_command(arguments[arguments.index("train") :])
        arguments = arguments[: arguments.index("train")]
    command = PROGRAM if name.startswith("-") else PROGRAM.commands[name]
    context = typer.Context(command, **PROGRAM.context_settings)
    _, left, _ = command.make_parser(context).parse_args(words if command is PROGRAM else arguments)
    assert not left, f"{left} is not an option"


@each_readme
def test_every_link_leads_to_a_file_and_to_a_heading(name):
    for target, heading in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", READMES[name]):
        file = (ROOT / name).parent / target if target else ROOT / name
        assert file.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)", file.read_text(encoding="utf-8"), re.M)
            assert heading in [re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles]


@each_readme
def test_every_file_of_code_that_is_named_is_there(name):
    paths = re.findall(r"`((?:\w+/)+\w+\.py)`", READMES[name])
    folders = (ROOT, (ROOT / name).parent)
    assert not [path for path in paths if "NAME" not in path and not any((at / path).exists() for at in folders)]


@each_readme
def test_every_command_exists_with_all_its_options(name):
    for words in list_commands(READMES[name]):
        if words[0] == "mlx-gpt":
            check_command(words[1:])


@each_readme
def test_every_script_module_and_test_to_run_is_there(name):
    modules = re.findall(r"python -m (mlx_nanogpt\S*[^\s`])", READMES[name])
    assert not [module for module in modules if find_spec(module) is None]
    for words in list_commands(READMES[name]):
        if words[0] == "python":
            paths = [word for word in words[1:] if "/" in word and not word.startswith("runs/")]
            assert not [path for path in paths if not (ROOT / path).exists()]


@pytest.mark.parametrize(
    "words, wrong",
    [("trian", "trian"), ("train --n-layers 8", "--n-layers"), ("train my.txt", "my.txt"), ("train --data", "--data")],
)
def test_a_command_that_does_not_exist_is_noticed(words, wrong):
    with pytest.raises(Exception, match=wrong):
        check_command(shlex.split(words))


def test_commands_are_found_beside_pipes_files_and_comments():
    block = "```sh\ncat *.md | mlx-gpt train --data -  # a | b\nx && mlx-gpt eval > 'a file' && mlx-gpt bench\n```"
    assert list(list_commands(block)) == [
        ["cat", "*.md"],
        ["mlx-gpt", "train", "--data", "-"],
        ["x"],
        ["mlx-gpt", "eval"],
        ["mlx-gpt", "bench"],
    ]
    assert len(list(list_commands(READMES["README.md"]))) > 10


def test_the_gallery_of_machines_is_that_of_the_results():
    machines = runpy.run_path(str(ROOT / "benchmarks/machines.py"))
    assert READMES["benchmarks/machines.md"] == machines["write"](), "run python benchmarks/machines.py"


def test_the_recipes_are_those_of_the_logs(monkeypatch):
    recipes = script("recipes", monkeypatch)
    assert READMES["benchmarks/recipes.md"] == recipes["tables"](), "run python benchmarks/recipes.py tables"


def test_the_ladder_ends_at_the_preset_modern(monkeypatch):
    *_, (name, last) = script("recipes", monkeypatch)["ladder"]()
    assert configurations(last) == preset("modern", eval_interval=5000, eval_iters=1000)


def test_the_losses_of_the_presets_are_those_of_the_logs():
    logs = [log for kind in ("ladder", "presets") for log in ROOT.glob(f"benchmarks/results/*-{kind}.jsonl")]
    lines = [json.loads(line) for log in logs for line in log.read_text(encoding="utf-8").splitlines()]

    def what_is_trained(settings: dict) -> tuple:
        return configurations(settings | {"seed": 1, "eval_interval": 1, "eval_iters": 1})

    for known in PRESETS.values():
        own = what_is_trained(known.settings)
        losses = [line["valid_loss"] for line in lines if what_is_trained(line["settings"]) == own]
        assert known.loss == (round(mean(losses), 2) if losses else None), known


def script(name: str, monkeypatch) -> dict:
    """Return the names that a script of benchmarks/ defines."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return runpy.run_path(str(ROOT / f"benchmarks/{name}.py"))


def test_the_peers_begin_a_text_as_we_do(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from peers.record import settings_of

    assert settings_of(GPTConfig(), TrainConfig()).start_token == CharTokenizer.of("First Citizen:\n").start_token


def test_a_mac_in_the_gallery_has_its_share_of_the_roofline():
    machines = runpy.run_path(str(ROOT / "benchmarks/machines.py"))
    result = json.loads((ROOT / "benchmarks/results/intel-xeon-bench.json").read_text(encoding="utf-8"))
    result["machine"] |= {"device": "gpu", "chip": "Apple M4 Pro"}
    best = expected_seconds("Apple M4 Pro")["step"][0]
    for backend, row in zip(result["backends"], machines["rows"](result)):
        assert row[0].startswith("Apple M4 Pro, GPU") and row[11] == f"{best / backend['step_seconds']['median']:.0%}"


@pytest.mark.parametrize("name, most", [("README.md", 170), (".github/CONTRIBUTING.md", 120)])
def test_a_readme_that_is_read_first_is_short(name, most):
    assert len(READMES[name].splitlines()) <= most


def test_the_example_of_the_library_runs_is_stopped_goes_on_and_writes(capsys):
    first, *examples = re.findall(r"```python\n(.*?)```", READMES["mlx_nanogpt/README.md"], re.S)
    Path("my.txt").write_text(Path("play.txt").read_text() + "The end")
    tiny = "n_layer=1, n_embd=32, block_size=8, batch_size=2, num_iter=3, eval_interval=2, eval_iters=1"

    def stop(record: Record) -> None:  # in the place of print
        if isinstance(record, Evaluation):
            raise KeyboardInterrupt

    names: dict = {"print": stop}
    with pytest.raises(KeyboardInterrupt):
        exec(first.replace('preset("minute")', f'preset("minute", {tiny})'), names)
    del names["print"]
    for example in examples:
        exec(example, names)
    evaluation, run, text = capsys.readouterr().out.split("\n", 2)
    assert evaluation.startswith("3 ") and run.startswith("<Run runs/1: my.txt, iteration 3 of 3")
    assert text.startswith("The ") and Path("my-gpt/config.json").exists()
