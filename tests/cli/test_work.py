"""The promises of the time left: evaluations count, and a resumed run counts what it still has to do."""

import mlx_nanogpt as gpt
import pytest
from conftest import tiny_gpt, tiny_run, tiny_train
from mlx_nanogpt_cli.screen import training_display
from mlx_nanogpt_cli.screen.work import FORWARD, count_work

TRAIN = {"num_iter": 1040, "eval_interval": 100, "eval_iters": 50}  # the last evaluation is not at an interval's end
STEP, COMPILE_STEP, COMPILE_EVALUATION = 0.05, 3.0, 2.0  # seconds
EVALUATION_STEPS = 2 * 50 * FORWARD  # an evaluation takes as long, as the bar counts it


def training():
    """The records of a run, and the units of work between them: whether in an evaluation, how many, and the first ones."""
    for evaluated in range(0, 1040, 100):
        target = min(evaluated + 100, 1040)
        for iteration in range(evaluated + 10, target + 1, 10):
            yield gpt.Progress(iteration, 3.0, 0.1, 1.0, 640.0), 10 * STEP + COMPILE_STEP * (iteration == 10), 0
        for windows in range(9):
            compiled = COMPILE_EVALUATION * (evaluated == 0 and windows == 1)
            yield gpt.Evaluating(target, windows, 8), compiled, windows > 0
        yield gpt.Evaluation(target, 1.0, 1.0, 3200, 5.0, 1600, 1.0, "a", "cpu"), 0.0, 0


@pytest.mark.parametrize("ratio", [0.2, 0.3, 0.4])  # the cost of a token in an evaluation, divided by that in a step
def test_the_time_left_is_right_within_a_fifth_once_compilation_is_small(ratio):
    display = training_display._Display(tiny_run(**TRAIN), lambda: False)
    part = EVALUATION_STEPS * ratio / FORWARD * STEP / 8
    records = [(record, seconds + part * parts) for record, seconds, parts in training()]
    total, now = sum(seconds for _, seconds in records), 0.0
    display.bar.get_time = lambda: now
    (task,) = display.bar.tasks
    checked = 0
    for record, seconds in records:
        now += seconds
        display.show(record)
        if 0.3 <= now / total < 0.99:
            assert task.time_remaining == pytest.approx(total - now, rel=0.2, abs=0.03 * total)
            checked += 1
    assert checked > 100 and task.time_remaining < 1


@pytest.mark.parametrize(
    "num_iter, evaluated, evaluations",
    [(1040, 500, 6), (14, 6, 3), (10, 10, 0)],  # at 600, ..., 1000 and 1040; extended: at 8, 12 and 14; finished
)
def test_a_resumed_run_has_its_last_steps_and_evaluations_left(num_iter, evaluated, evaluations):
    configs = tiny_gpt(), tiny_train(num_iter=num_iter, eval_interval=100 if num_iter > 100 else 4, eval_iters=50)
    left = count_work(*configs, num_iter, num_iter) - count_work(*configs, evaluated, evaluated)
    assert left == pytest.approx(num_iter - evaluated + evaluations * EVALUATION_STEPS)
    assert count_work(*configs, 9, 8, share=0.5) - count_work(*configs, 9, 8) == pytest.approx(EVALUATION_STEPS / 2)
