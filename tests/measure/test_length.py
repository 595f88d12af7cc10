"""The promises of a length: as many steps as fit, with their evaluations, and no more."""

import mlx_nanogpt as gpt
import pytest
from conftest import lively_model, tiny_gpt, tiny_train
from mlx_nanogpt.measure.length import Pace, fit_length

PACE = Pace(step=0.5, compilation=2.0, evaluation=3.0)


@pytest.mark.parametrize("seconds", [0.0, 2.4, 5.4, 5.5, 6.9, 10.0, 12.9, 13.0, 13.4, 17.0, 100.0, 1234.5])
def test_one_step_more_would_not_fit(seconds):
    steps = PACE.steps_within(seconds, 10)
    assert steps == 0 or PACE.seconds(steps, -(-steps // 10)) <= seconds
    assert PACE.seconds(steps + 1, -(-(steps + 1) // 10)) > seconds


@pytest.mark.usefixtures("small_protocol")
def test_a_run_is_measured_with_its_evaluation_its_sample_and_its_teachers():
    steps, pace = fit_length(tiny_gpt(), tiny_train(), 30.0, 4, [lively_model(tiny_gpt())])
    assert steps > 8 and min(pace.step, pace.evaluation) > 0 <= pace.compilation


@pytest.mark.usefixtures("small_protocol")
def test_what_cannot_fit_is_a_sentence():
    with pytest.raises(
        gpt.UserError, match="too long for 0.0001 minutes; give more `minutes`, fewer `eval_iters`, or a"
    ):
        fit_length(tiny_gpt(), tiny_train(), 0.006)
