"""The promises of the time that is left: evaluations count, compilation does not spoil it, and a past run is known."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlx_nanogpt as gpt
import pytest
from conftest import tiny_gpt, tiny_train
from mlx_nanogpt_cli.screen.forecast import FORWARD, Forecast

TRAIN = tiny_train(num_iter=1040, eval_interval=100, eval_iters=50)  # the last evaluation is not at an interval's end
STEP_TOKENS, WINDOWS = 4 * 8, 2 * 50 * 4


@dataclass(frozen=True)
class Machine:
    """Seconds that things take on it; what is compiled takes more for the first time."""

    step: float = 0.05
    window: float = 0.01
    compile_step: float = 3.0
    compile_window: float = 2.0
    sample: float = 0.1
    compile_sample: float = 1.0


def training(machine: Machine, evaluated: int = 0, train: gpt.TrainConfig = TRAIN) -> Iterator[tuple[gpt.Event, float]]:
    """The events of a training from iteration `evaluated` on, and the seconds that each took."""
    begun, iteration = evaluated, evaluated
    while evaluated < train.num_iter:
        target = min(train.num_iter, (evaluated // train.eval_interval + 1) * train.eval_interval)
        while iteration < target:
            steps = min(10 - iteration % 10, target - iteration)
            seconds = steps * machine.step + (machine.compile_step if iteration == begun else 0)
            iteration += steps
            event = gpt.Progress(iteration, 3.0, 1.0) if iteration % 10 == 0 else gpt.Evaluating(iteration, 0, WINDOWS)
            yield event, seconds
        yield gpt.Evaluating(iteration, 0, WINDOWS), 0.0
        compiled, reports = evaluated == begun, 8
        for report in range(1, reports + 1):
            seconds = WINDOWS // reports * machine.window + (machine.compile_window if compiled and report == 1 else 0)
            done = gpt.Evaluating(iteration, report * WINDOWS // reports, WINDOWS)
            yield (done if report < reports else evaluation(iteration, machine)), seconds
        yield gpt.Saved(iteration), 0.0
        if iteration < train.num_iter:
            yield gpt.Sample(iteration, (0,)), machine.sample + (machine.compile_sample if compiled else 0)
        evaluated = iteration
    yield gpt.Done(iteration, "finished", Path("runs/1")), 0.0


def evaluation(iteration: int, machine: Machine) -> gpt.Evaluation:
    seconds = 100 * machine.step, WINDOWS * machine.window
    return gpt.Evaluation(iteration, 1, 1, 100 * STEP_TOKENS, seconds[0], WINDOWS // 2 * 8, seconds[1], "a", "cpu")


def forecasts(events, forecast: Forecast) -> list[tuple[float, float, float | None]]:
    """After each event the share of the time that is over, what is left, and what is said to be."""
    events, elapsed, found = list(events), 0.0, []
    total = sum(seconds for _, seconds in events)
    for event, seconds in events:
        elapsed += seconds
        forecast.note(event, seconds)
        found.append((elapsed / total, total - elapsed, forecast.remaining()))
    return found


@pytest.mark.parametrize("ratio", [0.2, 0.3, 0.4])  # what a token costs an evaluation, of what it costs a step
def test_the_time_left_is_right_within_a_fifth_from_the_first_tenth_on(ratio):
    machine = Machine(window=ratio * Machine.step * 8 / STEP_TOKENS)
    found = forecasts(training(machine), Forecast(tiny_gpt(), TRAIN, [], 0))
    late = [(left, said) for share, left, said in found if 0.1 <= share < 0.99]
    assert len(late) > 100 and all(said == pytest.approx(left, rel=0.2) for left, said in late)


def test_the_time_left_is_exact_but_for_a_sample_once_all_was_measured_and_nothing_at_the_end():
    found = forecasts(training(Machine()), Forecast(tiny_gpt(), TRAIN, [], 0))
    late = [(left, said) for share, left, said in found if share > 0.4]
    assert all(said == pytest.approx(left, abs=0.1 + 1e-6) for left, said in late) and late[-1][1] == 0


def test_nothing_is_said_before_anything_is_known():
    forecast = Forecast(tiny_gpt(), TRAIN, [], 0)
    assert forecast.remaining() is None
    forecast.note(gpt.Progress(10, 3.0, 1.0), 4.0)
    assert forecast.remaining() > 0


def test_an_evaluation_is_guessed_from_the_steps_before_the_first():
    forecast = Forecast(tiny_gpt(), tiny_train(num_iter=20, eval_interval=20), [], 0)
    for iteration, seconds in ((10, 9.0), (20, 2.0)):  # the first with compilation
        forecast.note(gpt.Progress(iteration, 3.0, 1.0), seconds)
    windows = 2 * 2 * 4
    assert forecast.remaining() == pytest.approx(FORWARD * 0.2 * windows * 8 / STEP_TOKENS)


def test_the_compilation_of_a_short_evaluation_is_not_taken_for_its_cost():
    train = tiny_train(num_iter=100, eval_interval=10)
    forecast = Forecast(tiny_gpt(), train, [], 0)
    forecast.note(gpt.Progress(5, 3.0, 1.0), 5.0)
    forecast.note(gpt.Evaluating(10, 0, 16), 5.0)  # a second for a step
    forecast.note(evaluation(10, Machine()), 1000.0)
    assert forecast.remaining() == pytest.approx(90 + 9 * FORWARD * 16 * 8 / STEP_TOKENS)


def test_a_resumed_run_knows_what_it_took_before():
    machine = Machine(window=0.002)
    forecast = Forecast(tiny_gpt(), TRAIN, [evaluation(500, machine)], 500)
    expected = 540 * machine.step + 6 * WINDOWS * machine.window  # at 600, 700, ..., 1000 and 1040
    assert forecast.remaining() == pytest.approx(expected)
    found = forecasts(training(machine, evaluated=500), forecast)
    late = [(left, said) for share, left, said in found if 0.1 <= share < 0.99]
    assert all(said == pytest.approx(left, rel=0.2) for left, said in late)


def test_a_run_that_is_extended_is_evaluated_where_it_ended_and_at_the_next_interval():
    train = tiny_train(num_iter=14, eval_interval=4, eval_iters=50)
    forecast = Forecast(tiny_gpt(), train, [evaluation(6, Machine())], 6)
    assert forecast.remaining() == pytest.approx(8 * 0.05 + 3 * WINDOWS * 0.01)  # at 8, 12 and 14


def test_a_finished_run_has_nothing_left():
    assert Forecast(tiny_gpt(), tiny_train(num_iter=10), [evaluation(10, Machine())], 10).remaining() == 0
