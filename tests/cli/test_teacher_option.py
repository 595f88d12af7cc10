"""The promises of --teacher: the header names the teachers, and a file of settings repeats them."""

from pathlib import Path

import mlx_nanogpt as gpt
import pytest
from conftest import TEXT, TINY, checkpoint_arrays, same, trained_run
from helpers import is_a_sentence
from mlx_nanogpt_cli.screen import time_limit


def test_the_command_line_names_teachers_and_repeats_them_from_a_file(mlx_gpt):
    trained_run(), trained_run(seed=6)
    options = [*TINY[:-1], "--data=play.txt", "--seed=3"]
    result = mlx_gpt("train", *options, "--teacher=1", "--teacher=runs/2", "--teacher=1", "--distill=0.5")
    assert result.status == 0 and "Teachers  runs/1, runs/2: 0.5 of the loss is from what they expect" in result.out
    Path("again.toml").write_text(mlx_gpt("config", "3").out)
    assert mlx_gpt("train", "--config=again.toml").status == 0
    assert same(*(checkpoint_arrays(gpt.open_run(number)) for number in (3, 4)))
    assert "teacher runs/1, teacher runs/2" in mlx_gpt("runs").out


def test_a_teacher_on_another_text_is_named(mlx_gpt):
    trained_run()
    options = [option for option in TINY if "--data" not in option]
    Path("other.txt").write_text(TEXT[::-1])  # of the same characters
    for data, is_named in (("play.txt", False), ("other.txt", True)):
        result = mlx_gpt("train", *options, f"--data={data}", "--teacher=1")
        assert result.status == 0 and ("Note: runs/1 learned from another text, " in result.out) is is_named


def test_what_cannot_be_done_is_a_sentence_before_it_is_measured_or_made(mlx_gpt, monkeypatch):
    trained_run()
    monkeypatch.setattr(time_limit, "fit_length", lambda *_: pytest.fail("measured"))
    refusals = {
        "--distill=0.5": "leave it out, or name trained runs with --teacher",
        "--teacher=1 --block-size=9 --minutes=1": "the teacher runs/1 sees 8 tokens and cannot read 9; give --block-size 8",
        "--teacher=7": "runs/7 holds no run",
    }
    for options, reason in refusals.items():
        result = mlx_gpt("train", *(word for word in TINY if "num-iter" not in word), *options.split())
        assert is_a_sentence(result) and reason in " ".join(result.err.split())
    result = mlx_gpt("train", "--resume=1", "--teacher=1", "--num-iter=9")
    assert is_a_sentence(result) and "--teacher and --resume exclude each other" in result.err
    assert not Path("runs/2").exists()
