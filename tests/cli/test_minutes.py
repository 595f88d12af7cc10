"""The promises of --minutes: the length is chosen, said and kept, and a machine that becomes slower is told once."""

from dataclasses import asdict

import mlx_nanogpt as gpt
import pytest
from conftest import TINY
from helpers import is_a_sentence
from mlx_nanogpt.measure.length import Pace, fit_length
from mlx_nanogpt_cli.screen import time_limit
from mlx_nanogpt_cli.screen.describe import format_duration

SHORT = [option for option in TINY if not option.startswith("--num-iter")]
SLOW = "The machine takes "


@pytest.fixture
def pace(monkeypatch):
    """Let a length be 6 steps of a pace, and tell of a slow machine at once."""

    def choose(step: float) -> None:
        monkeypatch.setattr(time_limit, "fit_length", lambda *_: (6, Pace(step, step, 0.0)))

    monkeypatch.setattr(time_limit, "SURE_SECONDS", 0.0)
    return choose


def test_the_length_is_in_the_header_and_in_the_settings_with_the_end_of_the_rate(mlx_gpt, pace):
    pace(60.0)
    result = mlx_gpt("train", "--minutes=7", "--preset=minute", *SHORT)
    assert (
        result.status == 0
        and "  Time      7 minutes: 6 steps of 60 s and 3 evaluations of 60 s, as measured\n" in result.out
    )
    assert SLOW not in result.out and result.out.splitlines()[-1].endswith(" of 7 minutes.")
    settings = asdict(gpt.open_run(1).train_config)
    assert [settings[name] for name in ("num_iter", "lr_decay_iters", "warmup_iters")] == [6, 6, 3]


def test_a_machine_that_became_slower_is_told_once_and_the_steps_stay(mlx_gpt, pace):
    pace(1e-9)
    result = mlx_gpt("train", "--minutes=1", *SHORT)
    assert result.out.count(SLOW) == 1 and "the end comes after some" in result.out
    assert gpt.open_run(1).position().iteration == 6


@pytest.mark.usefixtures("small_protocol")
def test_it_is_measured_for_real(mlx_gpt, monkeypatch):
    found = []

    def measure(*arguments):
        found.append(fit_length(*arguments))
        return 6, found[0][1]  # the run need not take its ten minutes

    monkeypatch.setattr(time_limit, "fit_length", measure)
    result = mlx_gpt("train", "--minutes=10", *SHORT, "--eval-interval=1000000")
    (steps, pace), num_iter = found[0], gpt.open_run(1).train_config.num_iter
    assert (
        result.status == 0
        and f"10 minutes: {num_iter:,} steps of {format_duration(pace.step)} and 1 evaluation of" in result.out
    )
    assert 0 < pace.seconds(steps, 1) <= 600 and steps > num_iter


@pytest.mark.parametrize("minutes", ["0", "-1", "inf", "nan", "1e7"])
def test_a_number_out_of_range_is_a_sentence(mlx_gpt, minutes):
    result = mlx_gpt("train", f"--minutes={minutes}", *SHORT)
    assert is_a_sentence(result) and "is out of range; give a number from 0.01 to 1,000,000" in result.err


def test_what_it_cannot_be_given_with_is_a_sentence(mlx_gpt, run):
    result = mlx_gpt("train", "--minutes=1", *TINY)
    assert is_a_sentence(result) and "--minutes and --num-iter exclude each other" in result.err
    result = mlx_gpt("train", "--resume=1", "--minutes=1")
    assert is_a_sentence(result) and "--minutes and --resume exclude each other" in result.err
