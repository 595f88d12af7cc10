"""The promises of a length: as many steps as fit, with their evaluations, and no more."""

from types import SimpleNamespace

import mlx_nanogpt as gpt
import pytest
from conftest import lively_model, tiny_gpt, tiny_train
from mlx_nanogpt.measure import length, timing
from mlx_nanogpt.measure.length import Pace, fit_length, measure_pace

PACE = Pace(step=0.5, evaluation=3.0, once=2.0)


@pytest.mark.parametrize("seconds", [0.0, 2.4, 5.4, 5.5, 6.9, 10.0, 12.9, 13.0, 13.4, 17.0, 100.0, 1234.5])
def test_one_step_more_would_not_fit(seconds):
    steps = PACE.steps_within(seconds, 10)
    assert steps == 0 or PACE.seconds(steps, -(-steps // 10)) <= seconds
    assert PACE.seconds(steps + 1, -(-(steps + 1) // 10)) > seconds


@pytest.mark.usefixtures("small_protocol")
def test_a_run_is_measured_with_its_evaluation_its_sample_and_its_teachers():
    steps, pace = fit_length(tiny_gpt(), tiny_train(), 30.0, 4, 8, [lively_model(tiny_gpt())])
    assert steps > 8 and min(pace.step, pace.evaluation, pace.once) > 0


@pytest.mark.parametrize("step", [0.001, 0.1, 3.0, 30.0])
@pytest.mark.parametrize("seconds", [1.0, 60.0, 3600.0])
def test_the_measurement_takes_a_small_part_of_the_time(monkeypatch, step, seconds):
    clock = SimpleNamespace(now=0.0)

    class Steps:
        state: list = []

        def __init__(self, *_):
            pass

        def work(self, count: int) -> None:
            clock.now += count * step

        def seconds(self) -> float:
            self.work(1)
            return step

    for module in (length, timing):
        monkeypatch.setattr(module.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(length, "Trial", Steps)
    monkeypatch.setattr(length, "estimate_loss", lambda *_: None)
    pace = measure_pace(tiny_gpt(), tiny_train(), seconds, 0, 0, [])
    assert pace.step == pytest.approx(step) and clock.now <= 0.06 * seconds + 2 * step


@pytest.mark.usefixtures("small_protocol")
def test_what_cannot_fit_is_a_sentence():
    with pytest.raises(gpt.UserError, match="the time is too short: 0 s are left after .*; give more `minutes`, fewer"):
        fit_length(tiny_gpt(), tiny_train(), 0.006)
