"""The promises of a run's log: it has every tenth step and each evaluation's text, exactly once, whatever happened in between."""

import json
from dataclasses import replace
from typing import NamedTuple

import mlx_nanogpt as gpt
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_nanogpt import Progress, Sample, training
from conftest import DATA, asked, finish, loss_fn, tiny_run, tiny_train, trained_run
from mlx.utils import tree_flatten
from mlx_nanogpt.config import tokens_per_step
from mlx_nanogpt.optimizer import rate_at
from mlx_nanogpt.runs.log import from_text, is_logged, to_text
from mlx_nanogpt.text.batches import training_batch


def timeless(lines) -> list:
    """Lines without their speed, which is that of the moment."""
    return [replace(line, tokens_per_second=0.0) if isinstance(line, Progress) else line for line in lines]


def iterations(run: gpt.Run, kind: type) -> list[int]:
    return [line.iteration for line in run.log() if isinstance(line, kind)]


# ---- what is logged


def test_the_log_has_every_tenth_step_and_a_text_for_each_evaluation():
    run = tiny_run(num_iter=25, eval_interval=15)
    finish(run, sample_tokens=12)
    assert iterations(run, Progress) == [10, 20]
    assert iterations(run, Sample) == [15, 25]
    assert all(len(line.text) == 12 for line in run.log() if isinstance(line, Sample))


def test_without_samples_the_log_has_no_texts():
    run = trained_run(num_iter=20, eval_interval=20)
    assert iterations(run, Sample) == []


def test_a_log_line_is_reported_when_its_step_is_known():
    run = tiny_run(num_iter=25)
    reported = [event for event in finish(run) if isinstance(event, Progress)]
    assert reported == run.log() and all(line.tokens_per_second > 0 for line in reported)


class Device:
    """A device that takes a second for a step."""

    def __init__(self):
        self.built, self.clock = 0, 0.0

    def step(self, idx, targets):
        self.built += 1
        return Loss(self, self.built), Loss(self, 0)


class Loss(NamedTuple):
    device: Device
    step: int

    def item(self) -> float:
        self.device.clock = max(self.device.clock, self.step)
        return 1.0


@pytest.mark.parametrize("eval_interval", [1, 9, 10, 15])
@pytest.mark.parametrize("stop", [None, 30])
def test_the_speed_of_a_line_is_that_of_its_steps(eval_interval, stop, monkeypatch):
    device = Device()
    monkeypatch.setattr(training, "make_step", lambda *_: device.step)
    monkeypatch.setattr(training.mx, "async_eval", lambda *arrays: None)
    monkeypatch.setattr(training.time, "perf_counter", lambda: device.clock)
    monkeypatch.setattr(training, "split_losses", lambda *_: [gpt.SplitLoss(1, 1.0)])
    run = tiny_run(num_iter=40, eval_interval=eval_interval)
    if stop:
        finish(run, asked(stop))
    finish(run)
    speeds = [line.tokens_per_second for line in run.log()]
    assert speeds == [tokens_per_step(run.gpt_config, run.train_config)] * 4


def test_a_long_run_has_a_short_log():
    logged = [iteration for iteration in range(10, 10**6 + 1, 10) if is_logged(iteration)]
    assert len(logged) == 1000 + 900 + 900 and not any(map(is_logged, range(1, 10)))
    assert logged[:2] == [10, 20] and logged[999:1002] == [10_000, 10_100, 10_200] and logged[-1] == 10**6


@pytest.mark.parametrize("changes", [{}, {"grad_clip": 0.01}, {"backend": "eager", "gradient_accumulation_steps": 2}])
def test_the_norm_is_that_of_the_gradients_before_they_are_clipped(changes):
    run = tiny_run(num_iter=10, eval_interval=10, **changes)
    finish(run, asked(10))  # nine steps
    assert run.position().iteration == 9
    config, model = run.train_config, run.load_model()
    batch = training_batch(DATA.train_tokens, config.seed, 9, config.batch_size, 8, config.gradient_accumulation_steps)
    loss, grads = nn.value_and_grad(model, loss_fn)(model, *map(mx.array, batch))
    finish(run)
    (line,) = run.log()
    expected = np.sqrt(sum(np.square(np.array(array, np.float64)).sum() for _, array in tree_flatten(grads)))
    assert line.grad_norm == pytest.approx(expected, rel=1e-4)
    assert line.loss == pytest.approx(loss.item(), rel=1e-5)


def test_the_rate_is_the_one_of_the_step():
    changes = {"warmup_iters": 4, "lr_decay_iters": 40, "min_lr": 1e-4}
    run = trained_run(num_iter=40, eval_interval=40, **changes)
    config = tiny_train(num_iter=40, **changes)
    assert [line.learning_rate for line in run.log()] == [rate_at(config, line.iteration - 1) for line in run.log()]
    assert run.log()[0].learning_rate > run.log()[-1].learning_rate > 1e-4
    assert rate_at(tiny_train(), 7) == 1e-3


# ---- after a stop, a kill or damage


def test_a_resumed_run_has_the_log_of_one_that_never_stopped():
    never_stopped, stopped = (tiny_run(num_iter=20, eval_interval=10) for _ in range(2))
    finish(never_stopped, sample_tokens=5)
    for calls in (3, 9, 6, 100):  # one call for a step and one for an evaluation
        finish(stopped, asked(calls), sample_tokens=5)
    assert timeless(stopped.log()) == timeless(never_stopped.log())


def test_lines_after_the_checkpoint_are_dropped():
    run = trained_run(num_iter=20, eval_interval=20)
    before = timeless(run.log())
    with (run.path / "log.jsonl").open("a") as file:  # as a kill between the log and the checkpoint leaves it
        file.write(to_text([Progress(30, 9.0, 1e-3, 1.0, 1.0), Sample(24, "from a life that was lost")]))
    assert timeless(run.log()) == before
    longer = run.extended(num_iter=40)
    finish(longer)
    assert iterations(longer, Progress) == [10, 20, 30, 40] and timeless(longer.log())[:2] == before


def test_a_run_without_a_log_resumes():
    run = trained_run(num_iter=20, eval_interval=20)
    (run.path / "log.jsonl").unlink()
    assert run.log() == []
    finish(run.extended(num_iter=30))
    assert iterations(run, Progress) == [30]


DAMAGED = [
    "", "null", "[]", "{", "\0", "�", '{"iteration": 10}', '{"iteration": 1e999, "text": "x"}', "[" * 100_000,
    '{"iteration": 10, "loss": NaN, "learning_rate": 1, "grad_norm": 1, "tokens_per_second": 1}',
    '{"iteration": -1, "text": "x"}', '{"iteration": 5, "text": "\\ud800"}', '{"iteration": 5, "text": 7}', '{"iteration": ' + "9" * 5000 + ', "text": "x"}',
]  # fmt: skip


@pytest.mark.parametrize("line", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_line_is_left_out_and_no_other(line):
    good = [Progress(10, 2.0, 1e-3, 1.0, 1.0), Sample(20, "to be")]
    first, second = to_text(good).splitlines()
    assert from_text(f"{first}\n{line}\n{second}\n{first}", last=20) == good


def test_a_log_of_bytes_breaks_nothing():
    run = trained_run(num_iter=20, eval_interval=20)
    rng, file = np.random.default_rng(3), run.path / "log.jsonl"
    whole = file.read_bytes()
    for _ in range(200):
        damaged = bytearray(whole)
        for at in rng.integers(len(whole), size=3):
            damaged[at] = rng.integers(256)
        file.write_bytes(damaged)
        assert all(isinstance(line, Progress | Sample) for line in run.log())


def test_a_line_is_plain_json():
    run = tiny_run(num_iter=10)
    finish(run, sample_tokens=3)
    progress, sample = map(json.loads, (run.path / "log.jsonl").read_text().splitlines()[-2:])
    assert progress.keys() == {"iteration", "loss", "learning_rate", "grad_norm", "tokens_per_second"}
    assert sample.keys() == {"iteration", "text"}
