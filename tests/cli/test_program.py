"""The promises of all commands: the version, usage errors, and a sentence where weights or a GPU are missing."""

import errno
import fcntl
import re
import warnings
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import pytest
import typer
from conftest import TINY, asked, finish, tiny_run, worsened_run
from helpers import is_a_sentence
from mlx_nanogpt_cli.app import app
from mlx_nanogpt_cli.meant import COMMANDS, OPTIONS


def test_it_prints_its_version(mlx_gpt):
    assert mlx_gpt("--version").out == f"mlx-gpt {version('mlx-nanogpt')}\n"


@pytest.mark.parametrize("command", ["eval", "generate", "inspect"])
def test_a_command_uses_the_best_weights_of_the_newest_run_unless_others_are_named(mlx_gpt, run, command):
    best = worsened_run().position(best=True).iteration

    def use(*options: str) -> str:
        result = mlx_gpt(command, *options, *(["--seed=7", "--tokens=30"] if command == "generate" else []))
        return result.out + "".join(line for line in result.err.splitlines() if "iteration" in line)  # not its speed

    newest, first, second = use(), use("runs/1"), use("runs/2")
    assert newest == second == use("2") != first == use("1")
    assert f"runs/2: play.txt, iteration {best} of 8, best weights" in newest and "runs/1: " in first
    assert "runs/2: play.txt, iteration 8 of 8, last weights" in use("--last") != use("2")


@pytest.mark.parametrize("command", ["eval", "generate"])
def test_weights_that_are_not_there_are_a_sentence(mlx_gpt, command):
    result = mlx_gpt(command)
    assert is_a_sentence(result) and "train one first, or name one by its path" in result.err
    finish(tiny_run(), asked(2))  # a checkpoint, but no evaluation
    result = mlx_gpt(command)
    assert result.status == 0 and "last weights (no evaluation has chosen the best yet)" in result.out + result.err
    tiny_run("untrained")
    result = mlx_gpt(command, "untrained")
    assert is_a_sentence(result) and "has no checkpoint: none was written yet" in result.err and result.out == ""


def test_a_damaged_checkpoint_is_a_sentence(mlx_gpt, run):
    run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:-1])
    for command in (["generate", "--last"], ["eval", "--last"], ["train", "--resume=runs/1", "--num-iter=12"]):
        result = mlx_gpt(*command)
        assert is_a_sentence(result) and "is damaged" in result.err and result.out == ""


@pytest.mark.skipif(mx.is_available(mx.gpu), reason="there is a GPU here")
@pytest.mark.parametrize("command", [["train", *TINY], ["generate"], ["eval"]])
def test_a_gpu_that_is_not_there_is_a_sentence(mlx_gpt, command):
    result = mlx_gpt(*command, "--device=gpu")
    assert is_a_sentence(result) and "--device gpu finds no GPU" in result.err


@pytest.mark.parametrize(
    "arguments",
    [["train", "--colour=red"], ["train", "--num-iter=many"], ["train", "--backend=zygote"], ["train", "--device=abacus"],
     ["train", "--learning-rate=0,1"], ["train", "--dtype=float16"],
     ["generate", "--tokens=0"], ["generate", "--num-samples=0"], ["generate", "--seed=-1"], ["eval", "--split=test"], ["dance"]],
    ids=" ".join,
)  # fmt: skip
def test_a_command_that_makes_no_sense_is_a_usage_error(mlx_gpt, arguments):
    result = mlx_gpt(*arguments)
    assert result.status == 2 and result.err.startswith("Usage: ") and result.out == ""
    assert arguments[-1].split("=")[0] in result.err  # the option or the command
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "arguments, meant",
    [
        (["train", "my text.txt"], "did you mean --data 'my text.txt'?"),
        (["generate", "1", "To", "be"], "did you mean --prompt 'To be'?"),
        (["plan", "laptop"], "did you mean --preset laptop?"),
        (["presets", "all"], "leave it out"),
    ],
)
def test_a_word_without_an_option_is_answered_with_the_option(mlx_gpt, arguments, meant):
    result = mlx_gpt(*arguments)
    assert result.status == 2 and f"belongs to no option; {meant}" in " ".join(result.err.replace("│", "").split())
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "arguments, meant",
    [
        (["inspect", "To be"], "there is no run 'To be'; did you mean --prompt 'To be'?"),
        (["generate", "play.txt"], "there is no run play.txt; did you mean --prompt-file play.txt?"),
        (["eval", "play.txt"], "there is no run play.txt; did you mean --data play.txt?"),
        (["train", "--lr", "1e-3"], "No such option: --lr; did you mean --learning-rate?"),
        (["train", "--max_iters=3"], "did you mean --num-iter?"),
        (["train", "--n-head=3"], "did you mean --head-size? --n-embd divided by it is the number of heads"),
        (["generate", "--start=ROMEO"], "did you mean --prompt?"),
        (["generate", "--run", "1"], "No such option: --run; name the run without an option, by its number or its folder"),
        (["eval", "--best"], "the best weights are taken without an option, and the last with --last"),
        (["train", "--learnin-rate=1"], "--learning-rate"),
        (["sample"], "No such command 'sample'; did you mean mlx-gpt generate?"),
        (["inspect", "--html=x"], "did you mean mlx-gpt page? It writes the model itself as a page"),
        (["chat"], "did you mean mlx-gpt play? It continues what you type, and does not answer"),
        (["genrate"], "Did you mean 'generate'?"),
    ],
    ids=str,
)  # fmt: skip
def test_words_of_other_programs_and_wrong_spellings_are_answered_with_what_is_meant(mlx_gpt, arguments, meant):
    result = mlx_gpt(*arguments)
    assert result.status == 2 and meant in " ".join(result.err.replace("│", "").split())


@pytest.mark.parametrize("shell, begins", [("bash", "_mlx_gpt_completion() {"), ("zsh", "#compdef mlx-gpt")])
def test_the_shells_completion_is_printed(mlx_gpt, monkeypatch, shell, begins):
    monkeypatch.setattr("shellingham.detect_shell", lambda: (shell, f"/bin/{shell}"))
    assert mlx_gpt("--show-completion").out.startswith(begins)


@pytest.mark.parametrize(
    "words, completed",
    [
        ("generate ", ["1", "runs/1"]),
        ("train --resume r", ["runs/1"]),
        ("train --preset m", ["minute", "modern"]),
        ("config --preset l", ["laptop"]),
        ("gen", ["generate"]),
        ("export --la", ["--last"]),
        ("generate To b", []),
        ("chat ex", ["export"]),
    ],
)
def test_commands_options_runs_and_presets_are_completed(mlx_gpt, monkeypatch, words, completed):
    tiny_run()
    monkeypatch.setenv("_MLX_GPT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"mlx-gpt {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" "))))
    assert mlx_gpt().out.split() == completed


@pytest.mark.parametrize("command", ["train", "plan", "generate", "--version"])
def test_the_help_has_no_type_of_a_flag_and_begins_with_what_people_use_first(mlx_gpt, command):
    out = mlx_gpt(command, "--help").out if command != "--version" else mlx_gpt("--help").out
    assert "<bool>" not in out and "--help" in out
    if command == "train":
        first = re.findall(r"^│ (--[\w-]+)", out, re.MULTILINE)[:6]
        assert first == ["--data", "--num-iter", "--preset", "--minutes", "--resume", "--init-from"]


def test_every_word_that_is_answered_is_unknown_and_its_meaning_exists():
    program = typer.main.get_command(app)
    options = {name for command in program.commands.values() for option in command.params for name in option.opts}
    assert {*OPTIONS} <= options and not {word for words in OPTIONS.values() for word in words.split()} & options
    assert {meaning.split()[1] for meaning in COMMANDS} <= {*program.commands}
    assert not {word for words in COMMANDS.values() for word in words.split()} & {*program.commands}


def test_a_warning_of_the_library_is_a_sentence(mlx_gpt, monkeypatch):
    def refuse(descriptor, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = mlx_gpt("train", *TINY)
    assert (
        result.status == 0 and "Warning: the disk of runs/1 has no locks (No locks available); let no two" in result.err
    )


@pytest.mark.parametrize(
    "words", [["train", "\x1b]52;c;eA==\x07"], ["train", "--\x1b[31m"], ["train", "--n-layer=\x9b31m"]], ids=ascii
)
def test_a_usage_error_shows_the_users_words_and_a_terminal_obeys_none(mlx_gpt, words):
    result = mlx_gpt(*words)
    assert result.status == 2 and not set("\x1b\x07\x9b") & set(result.err)
