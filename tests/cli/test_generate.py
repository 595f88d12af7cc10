"""The promises of `mlx-gpt generate`: standard output carries the text alone, and a seed repeats it."""

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import mlx_nanogpt as gpt
import mlx_nanogpt_cli
import pytest
from conftest import TEXT, WAIT, in_a_process, tiny_gpt, tiny_train
from helpers import is_a_sentence, pipe
from mlx_nanogpt_cli.options import writing


def test_standard_output_carries_the_text_alone(mlx_gpt, run):
    result = mlx_gpt("generate", "--tokens=40", "--prompt=to be ")
    assert result.status == 0 and "play.txt, iteration 8" in result.err
    assert result.out.startswith("to be ") and result.out.endswith("\n") and len(result.out) == 6 + 40 + 1


def test_a_seed_and_every_option_has_an_effect_and_the_same_seed_writes_the_same_text(mlx_gpt, run):
    def write(*options: str) -> str:
        return mlx_gpt("generate", "--tokens=60", *options).out

    plain, second = write("--seed=7"), write("--seed=8")
    assert plain == write("--seed=7") != second and write("--seed=7", "--num-samples=2") == f"{plain}\n{second}"
    for option in ("--temperature=0.3", "--top-k=2", "--top-p=0.3", "--prompt=or"):
        assert write("--seed=7", option) != plain, option
    assert len({write("--temperature=0", f"--seed={seed}") for seed in range(3)}) == 1


def test_each_of_several_texts_stops_where_it_would_alone(mlx_gpt, run):
    options = "generate", "--tokens=60", "--stop=\n"
    alone = [mlx_gpt(*options, f"--seed={seed}").out for seed in range(7, 11)]
    assert mlx_gpt(*options, "--seed=7", "--num-samples=4").out == "".join(alone) and len(set(map(len, alone))) > 1


def test_each_text_is_another_and_its_seed_writes_it_again(mlx_gpt, run):
    first, second = (mlx_gpt("generate", "--tokens=60") for _ in range(2))
    assert first.out != second.out
    for result in (first, second):
        seed = re.search(r"^seed (\d+)$", result.err, re.MULTILINE)[1]
        assert mlx_gpt("generate", "--tokens=60", f"--seed={seed}").out == result.out


def test_a_prompt_may_be_longer_than_the_context(mlx_gpt, run):
    out = mlx_gpt("generate", "--tokens=5", f"--prompt={TEXT[:100]}").out
    assert out.startswith(TEXT[:100]) and len(out) == 106


def test_a_reader_that_leaves_early_gets_no_traceback(run):
    command = f"{shlex.quote(sys.executable)} -m mlx_nanogpt_cli generate --tokens=3000 | head -c 10"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=WAIT)
    assert len(result.stdout) == 10 and "Traceback" not in result.stderr


def test_ctrl_c_while_writing_is_130_without_a_traceback(run):
    with in_a_process("-m", "mlx_nanogpt_cli", "generate", "--tokens=1000000") as process:
        process.stdout.read(20)
        process.send_signal(signal.SIGINT)
        process.stdout.close()
        err = process.stderr.read()
    assert process.wait() == 130 and "Traceback" not in err


def test_a_prompt_from_a_file_or_standard_input_keeps_its_last_line_end(mlx_gpt, run, monkeypatch):
    Path("prompt.txt").write_text("to be\n")
    written = mlx_gpt("generate", "1", "--prompt=to be\n", "--seed=7").out
    for options in (["--prompt-file=prompt.txt"], ["--prompt", "-"], ["--prompt-file", "-"]):
        pipe(monkeypatch, "to be\n")
        assert mlx_gpt("generate", "1", *options, "--seed=7").out == written != ""


@pytest.mark.parametrize("how, prompt", [("skip", "to bnot"), ("replace", "to be-not")])
def test_unknown_characters_of_a_prompt_are_left_out_or_replaced(mlx_gpt, how, prompt):
    data = gpt.tokenize(gpt.Corpus(("play.txt",), TEXT.replace(";", "-")))
    run = gpt.create_run(tiny_gpt(vocab_size=data.tokenizer.vocab_size), tiny_train(), data)
    assert list(gpt.train(run, data))
    assert mlx_gpt("generate", "--prompt=to bé—not", "--unknown", how, "--tokens=5").out.startswith(prompt)
    assert mlx_gpt("inspect", "--prompt", "-5", "--unknown", how).status == 0


@pytest.mark.parametrize(
    "option, reason",
    [
        ("--prompt=to b€", "never seen '€'; give --unknown skip or replace, or remove them from the text: it knows"),
        ("--temperature=-1", "temperature -1.0 is out of range"),
        ("--top-k=0", "top_k 0 is out of range"),
        ("--top-p=1.5", "top_p 1.5 is out of range"),
        (
            "--prompt-file=nowhere",
            "nowhere cannot be read (No such file or directory); name a UTF-8 text file, or - for",
        ),
        ("runs/7", "runs/7 holds no run"),
    ],
)
def test_a_bad_wish_is_a_sentence(mlx_gpt, run, option, reason):
    result = mlx_gpt("generate", option)
    assert is_a_sentence(result) and reason in result.err and result.out == ""


OSC52 = "\x1b]52;c;eA=="  # a terminal would put it into the clipboard


def test_a_terminal_is_shown_control_characters_and_a_file_gets_them(mlx_gpt, run, monkeypatch):
    odd = gpt.CharTokenizer("".join(sorted(set(TEXT + OSC52 + "\x9b"))))
    monkeypatch.setattr(writing, "find_model", lambda *_: (gpt.GPT(tiny_gpt(vocab_size=odd.vocab_size)), odd, run))
    options = "generate", "--tokens=200", "--temperature=9", "--seed=1", f"--prompt={OSC52}"
    piped = mlx_gpt(*options).out
    monkeypatch.setattr(mlx_nanogpt_cli, "_open_standard_streams", lambda: None)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    shown = mlx_gpt(*options).out
    assert "\x1b" in piped and "\x1b" not in shown and "\\u001B]52;c;eA==" in shown
