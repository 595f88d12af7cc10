"""The promises of `mlx-gpt plan`: it shows the cost of a run before it starts, and starts nothing."""

from pathlib import Path

import pytest
from mlx_nanogpt import PRESETS
from conftest import TEXT, TINY
from helpers import is_a_sentence, pipe
from mlx_nanogpt.machine import machine
from mlx_nanogpt.measure import plan as planning
from mlx_nanogpt_cli.commands.plan import format_duration


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(planning, "MOST_STEPS", 2)
    monkeypatch.setattr(planning, "measure_matrix", lambda rounds: planning.Rounds.of([1e11]))


def test_a_plan_shows_the_cost_of_a_run_and_trains_nothing(mlx_gpt):
    out = mlx_gpt("plan", *TINY, "--num-iter=8").out
    assert f"256 in 8 steps, 0.1 times the {int(0.8 * len(TEXT)):,} of the training split" in out
    for words in (
        " at the peak of a step (measured); ",
        " tokens/s\n",
        " of evaluation, 4 times\n",
        "It fits in memory.\n",
        "\nNext: mlx-gpt train --n-embd=16",
    ):
        assert words in out
    assert not Path("runs").exists()


def test_without_a_text_it_plans_for_the_size_of_tiny_shakespeare(mlx_gpt, monkeypatch):
    assert "the 892,315 of the training split" in mlx_gpt("plan", *TINY[:-1]).out
    monkeypatch.setattr(planning, "LONGEST_STEP", 0.0)  # of a large vocabulary nothing is measured
    assert "of the training split" not in mlx_gpt("plan", *TINY[:-1], "--tokenizer=gpt2").out


def test_a_plan_that_does_not_fit_gets_a_way_out(mlx_gpt, monkeypatch):
    monkeypatch.setattr(type(machine()), "memory", lambda _: 200_000)
    out = mlx_gpt("plan", *TINY, "--batch-size=64").out
    assert "(estimated)" in out and "It does not fit: training this model takes about 0.0 GB of memory" in out
    assert "; lower batch_size (64), " in out
    assert "tokens/s" not in out
    result = mlx_gpt("train", *TINY, "--batch-size=64")
    assert is_a_sentence(result) and "this machine has 0.0 GB for it" in result.err


def test_without_settings_it_plans_the_default_run(mlx_gpt, monkeypatch):
    monkeypatch.setattr(planning, "LONGEST_STEP", 0.0)
    assert "311,361 parameters" in mlx_gpt("plan").out


def test_a_plan_of_a_preset_names_its_loss_and_the_shortest_preset_if_that_is_better(mlx_gpt, monkeypatch):
    monkeypatch.setattr(planning, "LONGEST_STEP", 0.0)
    loss, least = (PRESETS[name].loss for name in ("laptop", "minute"))
    assert (
        f" reached a validation loss of {loss:.2f} on tiny Shakespeare; minute reached {least:.2f}: "
        in mlx_gpt("plan", "--preset=laptop").out
    )
    assert " reached a validation loss of 1.56 on tiny Shakespeare\n" in mlx_gpt("plan", "--preset=modern").out
    for options in (["--preset=laptop", "--num-iter=9"], ["--preset=baby"]):
        assert "tiny Shakespeare" not in mlx_gpt("plan", *options).out


def test_learned_byte_pairs_are_planned(mlx_gpt, monkeypatch):
    monkeypatch.setattr(planning, "LONGEST_STEP", 0.0)
    result = mlx_gpt("plan", "--tokenizer=bpe", "--vocab-size=300")
    assert result.status == 0 and "It fits in memory.\n" in result.out


@pytest.mark.parametrize(
    "seconds, words",
    [
        (0.0123, "12 ms"),
        (1.5, "1.5 s"),
        (119, "119 s"),
        (150, "2.5 min"),
        (7300, "2.0 h"),
        (200_000, "2.3 days"),
        (1e9, "31.7 years"),
    ],
)
def test_a_duration_is_in_a_unit_for_people(seconds, words):
    assert format_duration(seconds) == words


def test_a_preset_and_a_file_exclude_each_other(mlx_gpt):
    Path("mine.toml").write_text("n_layer = 1\n")
    result = mlx_gpt("plan", "--preset=laptop", "--config=mine.toml")
    assert is_a_sentence(result) and "--preset and --config exclude each other" in result.err


def test_a_plan_reads_the_text_from_a_pipe(mlx_gpt, monkeypatch):
    monkeypatch.setattr(planning, "LONGEST_STEP", 0.0)
    pipe(monkeypatch, TEXT)
    out = mlx_gpt("plan", *TINY[:-1], "--data=-").out
    assert f"times the {int(0.8 * len(TEXT)):,} of the training split" in out


def test_a_text_that_is_too_short_is_refused_as_in_train(mlx_gpt):
    Path("short.txt").write_text("to be")
    results = [mlx_gpt(command, *TINY[:-1], "--data=short.txt") for command in ("plan", "train")]
    assert all(is_a_sentence(result) and "block_size 8 does not fit" in result.err for result in results), results
