"""The promises of `mlx-gpt runs`: every run has a row, the newest comes first, and a damaged one is told, not shown."""

import os
import re
from pathlib import Path

import mlx_nanogpt as gpt
import pytest
from conftest import CORPUS, TINY, asked, byte_pairs, finish, tiny_gpt, tiny_run, tiny_train, trained_run
from helpers import command_after, is_a_sentence


def rows(out: str) -> dict[str, list[str]]:
    return {cells[0]: cells[1:] for line in out.splitlines() if len(cells := line.split()) == 7 and line[0] != " "}


def test_each_run_has_a_row_and_the_newest_comes_first(mlx_gpt):
    first, second = trained_run(), trained_run(n_layer=1, dropout=0.1)
    for run, at in ((first, 2_000_000_000), (second, 1_000_000_000)):
        for file in run.path.iterdir():
            os.utime(file, (at, at))
    result = mlx_gpt("runs")
    assert result.status == 0 and list(rows(result.out)) == ["runs/1", "runs/2"]
    for run in (first, second):
        written, text, parameters, steps, best, speed = rows(result.out)[str(run.path)]
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", written) and text == "play.txt" and steps == "8"
        assert parameters == f"{gpt.GPT(run.gpt_config).num_parameters():,}" and float(speed.replace(",", "")) > 0
        assert best == f"{min(each.valid_loss for each in run.history()):.4f}"
    assert "n_layer 1" in result.out.split("\nruns/2 ")[1] and "dropout 0.1" in result.out.split("\nruns/2 ")[1]


def test_an_unfinished_run_says_what_is_left(mlx_gpt):
    run = tiny_run()
    finish(run, asked(3))
    result = mlx_gpt("runs")
    assert rows(result.out)["runs/1"][3:] == ["2", "-", "-"] and "6 steps left" in result.out


def test_a_run_without_a_checkpoint_is_listed(mlx_gpt):
    tiny_run()
    assert rows(mlx_gpt("runs").out)["runs/1"][3] == "0"


def test_other_tokens_are_told(mlx_gpt):
    data = gpt.tokenize(CORPUS, byte_pairs())
    gpt.create_run(tiny_gpt(vocab_size=data.tokenizer.vocab_size), tiny_train(), data)
    assert f"tokenizer {data.tokenizer.kind}" in mlx_gpt("runs").out


def test_a_damaged_run_is_told_with_its_reason(mlx_gpt):
    trained_run()
    whole = mlx_gpt("runs").out
    damaged = trained_run()
    (damaged.path / "config.json").write_text("{}")
    result = mlx_gpt("runs")
    assert result.status == 0 and list(rows(result.out)) == ["runs/1"] and whole.splitlines()[1] in result.out
    assert "runs/2 cannot be listed: runs/2 is damaged" in result.out


def test_its_commands_work(mlx_gpt):
    mlx_gpt("train", *TINY)
    listed = mlx_gpt("runs").out
    for words in ("measure it:", r"--num-iter 8\n ", r"generate --run runs/1\n "):
        command = command_after(words, listed)
        assert mlx_gpt(*command).status == 0, command
    assert gpt.open_run(Path("runs/1")).position().iteration == 8


@pytest.mark.parametrize(
    "option, reason, remedy",
    [("--target-loss=9", "at the target", "--target-loss 0"), ("--patience=1", "out of patience", "--patience 0")],
)
def test_a_training_that_ended_before_its_last_step_can_go_on(mlx_gpt, option, reason, remedy):
    rising = ["--learning-rate=1", "--warmup-iters=40"] if "patience" in option else []
    assert mlx_gpt("train", *TINY, "--num-iter=40", option, *rising).status == 0
    before = gpt.open_run(Path("runs/1")).position().iteration
    listed = mlx_gpt("runs").out
    assert before < 40 and f"\n     {reason}, " in listed and remedy in listed
    assert mlx_gpt(*command_after("measure it:", listed)).status == 0
    assert gpt.open_run(Path("runs/1")).position().iteration > before


def test_other_files_in_a_run_change_nothing(mlx_gpt):
    run = trained_run()
    before = mlx_gpt("runs").out
    (run.path / "gone").symlink_to("nowhere")
    (run.path / "notes.txt").write_text("a note")
    os.utime(run.path / "notes.txt", (2_000_000_000, 2_000_000_000))
    assert mlx_gpt("runs").out == before


def test_without_a_run_it_says_how_to_get_one(mlx_gpt):
    result = mlx_gpt("runs")
    assert is_a_sentence(result) and "there is no run in" in result.err


def test_a_long_name_is_cut(mlx_gpt):
    name = "a-long-name-of-a-text.txt"
    Path(name).write_text(CORPUS.text)
    assert mlx_gpt("train", *TINY[:-1], f"--data={name}").status == 0
    assert rows(mlx_gpt("runs").out)["runs/1"][1] == "a-long-name-of…"
