"""The promises of `mlx-gpt generate`: standard output carries the text alone, and a seed repeats it."""

import shlex
import signal
import subprocess
import sys

import pytest
from conftest import TEXT, in_a_process, trained_run, worsened_run
from helpers import is_a_sentence


def test_standard_output_carries_the_text_alone(mlx_gpt, run):
    result = mlx_gpt("generate", "--tokens=40", "--prompt=to be ")
    assert result.status == 0 and "play.txt, iteration 8" in result.err
    assert result.out.startswith("to be ") and result.out.endswith("\n") and len(result.out) == 6 + 40 + 1


def test_the_same_seed_writes_the_same_text(mlx_gpt, run):
    texts = [mlx_gpt("generate", "--tokens=60", f"--seed={seed}").out for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_samples_are_written_with_the_seeds_that_follow(mlx_gpt, run):
    both = mlx_gpt("generate", "--tokens=30", "--num-samples=2", "--seed=7").out
    assert both == "\n".join(mlx_gpt("generate", "--tokens=30", f"--seed={seed}").out for seed in (7, 8))


@pytest.mark.parametrize("option", ["--temperature=0.3", "--top-k=2", "--top-p=0.3", "--prompt=or"])
def test_every_option_of_generate_has_an_effect(mlx_gpt, run, option):
    assert mlx_gpt("generate", "--tokens=60", option).out != mlx_gpt("generate", "--tokens=60").out


def test_temperature_0_needs_no_seed(mlx_gpt, run):
    assert len({mlx_gpt("generate", "--tokens=30", "--temperature=0", f"--seed={seed}").out for seed in range(3)}) == 1


def test_the_newest_run_writes_unless_one_is_named(mlx_gpt):
    trained_run()
    trained_run(seed=9)
    newest, first, second = (
        mlx_gpt("generate", "--tokens=60", *named).out for named in ([], ["--run=runs/1"], ["--run=runs/2"])
    )
    assert newest == second != first


def test_a_prompt_may_be_longer_than_the_context(mlx_gpt, run):
    out = mlx_gpt("generate", "--tokens=5", f"--prompt={TEXT[:100]}").out
    assert out.startswith(TEXT[:100]) and len(out) == 106


def test_a_reader_that_leaves_early_gets_no_traceback(run):
    command = f"{shlex.quote(sys.executable)} -m mlx_nanogpt_cli generate --tokens=3000 | head -c 10"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert len(result.stdout) == 10 and "Traceback" not in result.stderr


def test_the_best_weights_write_when_asked(mlx_gpt):
    run = worsened_run()
    last, best = mlx_gpt("generate", "--tokens=60"), mlx_gpt("generate", "--tokens=60", "--best")
    assert last.out != best.out
    assert "iteration 8 of 8" in last.err and f"iteration {run.position(best=True).iteration} of 8" in best.err


def test_ctrl_c_while_writing_is_130_without_a_traceback():
    trained_run()
    with in_a_process("-m", "mlx_nanogpt_cli", "generate", "--tokens=1000000") as process:
        process.stdout.read(20)
        process.send_signal(signal.SIGINT)
        process.stdout.close()
        err = process.stderr.read()
    assert process.wait() == 130 and "Traceback" not in err


@pytest.mark.parametrize(
    "option, reason",
    [
        ("--prompt=to b€", "never seen '€'; remove them from the text: it knows"),
        ("--temperature=-1", "temperature -1.0 is out of range"),
        ("--top-k=0", "top_k 0 is out of range"),
        ("--top-p=1.5", "top_p 1.5 is out of range"),
        ("--run=nowhere", "nowhere holds no run"),
    ],
)
def test_a_bad_wish_is_a_sentence(mlx_gpt, run, option, reason):
    result = mlx_gpt("generate", option)
    assert is_a_sentence(result) and reason in result.err and result.out == ""


def test_no_run_yet_is_a_sentence_with_the_way_to_get_one(mlx_gpt):
    result = mlx_gpt("generate")
    assert is_a_sentence(result) and "train one first, or name one with --run" in result.err
