"""The promises of `mlx-gpt runs`: every run has a row, the newest comes first, and a damaged one has its reason."""

import math
import os
import re
import shutil
from datetime import datetime
from pathlib import Path

import mlx_nanogpt as gpt
import pytest
from conftest import CORPUS, DATA, asked, byte_pairs, finish, tiny_gpt, tiny_run, tiny_train, trained_run
from helpers import command_after, is_a_sentence
from mlx_nanogpt.config import configurations


def rows(out: str) -> dict[str, list[str]]:
    """The cells of each run but for the time, which is several words."""
    lines = (line.split() for line in out.splitlines() if re.match(r"\S+/\w+ +[A-Z][a-z]{2} \d\d ", line))
    return {cells[0]: cells[-6:] for cells in lines}


def test_each_run_has_a_row_and_the_newest_comes_first(mlx_gpt, run):
    first, second = run, trained_run(n_layer=1, dropout=0.1)
    for run, at in ((first, 2_000_000_000), (second, 1_000_000_000)):
        for file in run.path.iterdir():
            os.utime(file, (at, at))
    result = mlx_gpt("runs")
    assert result.status == 0 and list(rows(result.out)) == ["runs/1", "runs/2"]
    for run in (first, second):
        text, parameters, steps, best, bits, speed = rows(result.out)[str(run.path)]
        assert (text, steps, float(bits)) == ("play.txt", "8", pytest.approx(float(best) / math.log(2), abs=2e-4))
        assert parameters == f"{gpt.GPT(run.gpt_config).num_parameters():,}" and float(speed.replace(",", "")) > 0
        assert best == f"{min(line.valid_loss for line in run.history()):.4f}"
    assert re.search(r"^runs/1 +May 18  2033 ", result.out, re.MULTILINE)
    assert "n_layer 1" in result.out.split("\nruns/2 ")[1] and "dropout 0.1" in result.out.split("\nruns/2 ")[1]


def test_a_preset_is_named_with_what_differs_from_it_and_the_hour_of_a_run_of_this_year(mlx_gpt):
    for changes in ({}, {"num_iter": 300, "seed": 5}):
        given = gpt.PRESETS["modern"].settings | {"lr_decay_iters": changes.get("num_iter", 5000)} | changes
        gpt.create_run(*configurations(given | {"vocab_size": DATA.tokenizer.vocab_size}), DATA)
    gpt.create_run(*configurations({"vocab_size": DATA.tokenizer.vocab_size}), DATA)
    first, second, third = (mlx_gpt("runs").out.split(f"\nruns/{number} ")[1].splitlines() for number in (1, 2, 3))
    assert first[1].strip() == "5,000 steps left, preset modern" and third[1].strip() == "5,000 steps left"
    assert second[1].strip() == "300 steps left, preset modern, seed 5"
    assert f"{datetime.now():%H:}" in first[0] or f"{datetime.now():%M}" < "02"


def test_another_folder_is_listed_in_the_order_that_is_asked_for(mlx_gpt):
    runs = [trained_run("other/1"), trained_run("other/2", num_iter=12), tiny_run("other/3")]
    for run, at in zip(runs, (2_000_000_000, 1_000_000_000, 1_500_000_000)):
        for file in run.path.iterdir():
            os.utime(file, (at, at))

    def order(*options):
        return [path[-1] for path in rows(mlx_gpt("runs", "other", *options).out)]

    best, worse = sorted(runs[:2], key=lambda run: min(line.valid_loss for line in run.history()))
    assert order() == order("--sort=written") == ["1", "3", "2"] and order("--sort=steps") == ["2", "1", "3"]
    assert order("--sort=loss") == [best.path.name, worse.path.name, "3"] and order("--sort=speed")[2] == "3"
    assert mlx_gpt("runs").status == 1


def test_a_run_before_its_first_evaluation_has_a_row_with_the_steps_left(mlx_gpt):
    tiny_run()
    assert rows(mlx_gpt("runs").out)["runs/1"][2] == "0"
    finish(gpt.open_run(Path("runs/1")), asked(3))
    result = mlx_gpt("runs")
    assert rows(result.out)["runs/1"][2:] == ["2", "-", "-", "-"] and "6 steps left" in result.out


def test_other_tokens_are_named(mlx_gpt):
    data = gpt.tokenize(CORPUS, byte_pairs())
    gpt.create_run(tiny_gpt(vocab_size=data.tokenizer.vocab_size), tiny_train(), data)
    assert f"tokenizer {data.tokenizer.kind}" in mlx_gpt("runs").out


def test_a_damaged_run_is_named_with_its_reason(mlx_gpt, run):
    whole = mlx_gpt("runs").out
    shutil.copytree("runs/1", "runs/2")
    Path("runs/2/config.json").write_text("{}")
    result = mlx_gpt("runs")
    assert result.status == 0 and list(rows(result.out)) == ["runs/1"] and whole.splitlines()[1] in result.out
    assert "runs/2 cannot be listed: runs/2 is damaged" in result.out


def test_its_commands_work(mlx_gpt, run):
    listed = mlx_gpt("runs").out
    for words in ("measure it:", r"--num-iter 16\n ", r"generate runs/1\n "):
        command = command_after(words, listed)
        assert mlx_gpt(*command).status == 0, command
    assert gpt.open_run(Path("runs/1")).position().iteration == 16


@pytest.mark.parametrize(
    "options, reason, remedy",
    [
        ({"num_iter": 8, "target_loss": 9}, "at the target", "--target-loss 0"),
        ({"num_iter": 20, "patience": 1, "learning_rate": 1.0, "warmup_iters": 40}, "out of patience", "--patience 0"),
    ],
)
def test_a_run_that_ended_before_its_last_step_can_be_resumed(mlx_gpt, options, reason, remedy):
    run = trained_run(eval_interval=2, **options)
    before = run.position().iteration
    listed = mlx_gpt("runs").out
    assert before < options["num_iter"] and f"\n     {reason}, " in listed and remedy in listed
    assert mlx_gpt(*command_after("measure it:", listed)).status == 0
    assert run.position().iteration > before


def test_other_files_in_a_run_change_nothing(mlx_gpt, run):
    before = mlx_gpt("runs").out
    (run.path / "gone").symlink_to("nowhere")
    (run.path / "notes.txt").write_text("a note")
    os.utime(run.path / "notes.txt", (2_000_000_000, 2_000_000_000))
    assert mlx_gpt("runs").out == before


def test_without_a_run_the_way_to_get_one_is_printed(mlx_gpt):
    result = mlx_gpt("runs")
    assert is_a_sentence(result) and "there is no run in" in result.err


def test_a_long_name_is_cut(mlx_gpt):
    data = gpt.tokenize(gpt.Corpus(("a-long-name-of-a-text.txt",), CORPUS.text))
    gpt.create_run(tiny_gpt(), tiny_train(), data)
    assert rows(mlx_gpt("runs").out)["runs/1"][0] == "a-long-name-of…"
