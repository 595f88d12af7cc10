"""The promises of `mlx-gpt plan --minutes`: it tries models, recommends one with its command, and the run compares itself with that."""

import re
from itertools import islice
from pathlib import Path

import mlx_nanogpt as gpt
import pytest
from conftest import TEXT
from helpers import command_after, is_a_sentence
from mlx_nanogpt.measure import recommend
from mlx_nanogpt.measure.length import Pace
from mlx_nanogpt.measure.recommend import Candidate
from mlx_nanogpt_cli.screen import recommendation, time_limit

SMALL = {"n_layer": 1, "n_embd": 16, "head_size": 8, "block_size": 8, "batch_size": 4, "eval_iters": 1}
PLAN = ("plan", "--minutes=20", "--data=play.txt")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Tiny models."""
    monkeypatch.setattr(recommend, "SIZES", (SMALL, SMALL | {"n_embd": 24}))
    monkeypatch.setattr(recommend, "FIRST_STEPS", 2)
    monkeypatch.setattr(recommend, "EVALUATED", (16, 64))


@pytest.fixture
def foreseen(monkeypatch):
    """Let each candidate take a second a step, and foresee 3 bits, a wide one 2."""

    def try_on(own: Candidate) -> None:
        own.steps += 1
        own.pace = Pace(1.0, 0.0, 0.0)
        own.points.append((1, 1.0))
        own.seconds.append(50.0 * (len(own.points) > 1))  # of 120: a third trial would take too long

    monkeypatch.setattr(Candidate, "try_on", try_on)
    monkeypatch.setattr(
        Candidate, "predict", lambda own, _: 2.0 if own.gpt.n_embd == 24 and own.kind == "char" else 3.0
    )


def test_the_command_trains_what_was_recommended_and_compares_its_end(mlx_gpt, foreseen, monkeypatch):
    out = mlx_gpt(*PLAN, "--tokenizer=char").out
    assert re.search(r"^In 20 minutes here: 0.0M parameters, characters, about 2.00 bits per character.$", out, re.M)
    assert re.search(r"^ *[\d,]+ +characters .* 2.00$", out, re.M)
    command = command_after("Next:", out)
    assert not Path("runs").exists() and "--n-embd" in command
    monkeypatch.setattr(time_limit, "fit_length", lambda *_: (6, Pace(1.0, 1.0, 0.0)))
    end = mlx_gpt(*command).out
    run = gpt.open_run(1)
    assert run.gpt_config.n_embd == 24 and run.train_config.expected_bits == 2.0
    bits = run.history()[-1].valid_loss / 0.6931471805599453
    assert (
        f"expected 2.000 bits per character on the validation split. It is {bits:.3f}, {bits / 2 - 1:.1%} more.\n"
        in end
    )


def test_a_short_text_gets_less_time_and_the_reason(mlx_gpt, foreseen, monkeypatch):
    for module in (recommend, recommendation):
        monkeypatch.setattr(module, "MOST_PASSES", 2)
    out = mlx_gpt(*PLAN, "--tokenizer=char").out
    steps = 2 * int(0.8 * len(TEXT)) // 32
    assert f"In {steps:,} steps here: " in out and f"mlx-gpt train --preset modern --num-iter {steps} --n-layer" in out
    assert "That is less than 20 minutes. By then it has read the text 2 times, and begins to learn it by heart" in out
    assert mlx_gpt(*command_after("Next:", out)).status == 0
    train = gpt.open_run(1).train_config
    assert (train.num_iter, train.lr_decay_iters) == (steps, steps)


def test_it_is_tried_for_real(mlx_gpt, monkeypatch):
    monkeypatch.setattr(recommendation, "try_candidates", lambda *chosen: islice(recommend.try_candidates(*chosen), 5))
    result = mlx_gpt(*PLAN, "--tokenizer=bpe", "--vocab-size=260")
    assert result.status == 0 and "260 byte pairs" in result.out
    assert not re.search(r"^ *[\d,]+ +characters", result.out, re.M)
    assert "--tokenizer bpe" in result.out and "--vocab-size 260" in result.out


@pytest.mark.parametrize("option", ["--preset=modern", "--n-embd=16", "--num-iter=3"])
def test_it_chooses_the_settings_itself(mlx_gpt, option):
    result = mlx_gpt(*PLAN, option)
    assert is_a_sentence(result) and option.split("=")[0] in result.err and "leave out one" in result.err
