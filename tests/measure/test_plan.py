"""The promises of a plan: its sums are right, real steps are measured where they can be."""

import pytest
from conftest import tiny_gpt, tiny_train
from mlx_nanogpt.machine import machine
from mlx_nanogpt.machine.memory import estimated_memory
from mlx_nanogpt.measure import plan as planning
from mlx_nanogpt.measure.plan import Plan, make_plan


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(planning, "MOST_STEPS", 3)
    monkeypatch.setattr(planning, "measure_matrix", lambda rounds: planning.Rounds.of([1e11]))


def planned(**changes) -> Plan:
    return make_plan(tiny_gpt(), tiny_train(**changes))


def test_a_plan_adds_up():
    plan = planned(num_iter=10, gradient_accumulation_steps=2)
    assert plan.tokens == 10 * 2 * 4 * 8 and plan.evaluations == 3  # after 4, 8 and 10 steps
    assert plan.least_step_seconds == pytest.approx(2 * 4 * 8 * plan.flops_per_token / 1e11)
    measured = plan.measured
    assert measured.step_seconds.rounds == 3 and measured.peak_memory == plan.memory > 0
    assert plan.training_seconds == measured.compile_seconds + 10 * measured.step_seconds.median
    assert plan.evaluation_seconds == 3 * 2 * 2 * 4 * measured.window_seconds  # both splits, 2 batches of 4 windows
    assert plan.total_seconds == plan.training_seconds + plan.evaluation_seconds


def test_steps_are_timed_for_a_limited_time(monkeypatch):
    monkeypatch.setattr(planning, "BUDGET", 0.0)
    assert planned().measured.step_seconds.rounds == 1


def test_a_step_that_takes_too_long_is_not_measured(monkeypatch):
    monkeypatch.setattr(planning, "LONGEST_STEP", 0.0)
    plan = planned()
    assert plan.measured is None and plan.memory == estimated_memory(plan.gpt, plan.train, machine().fuses_attention(8))
    assert plan.total_seconds == 8 * plan.least_step_seconds


def test_what_does_not_fit_is_not_tried(monkeypatch):
    monkeypatch.setattr(type(machine()), "memory", lambda _: 1)
    plan = planned()
    assert plan.measured is None and "takes about 0.0 GB of memory" in plan.problem
