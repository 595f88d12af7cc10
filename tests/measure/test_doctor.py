"""The promises of the doctor: a machine that is right passes, and planted bugs do not."""

import errno
import fcntl
import os
import re

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx_nanogpt import generation, layers, model, training
from conftest import only_here
from mlx_nanogpt.machine import machine
from mlx_nanogpt.machine.linux_cpu import operations
from mlx_nanogpt.measure import doctor, roofline
from mlx_nanogpt.measure.doctor import CHECKS, Check, Wrong, examine
from mlx_nanogpt.measure.plan import Measured
from mlx_nanogpt.measure.timing import Rounds
from mlx_nanogpt.optimizer import make_optimizer
from mlx_nanogpt.runs.recorder import Recorder

QUICK = [name for name in CHECKS if name not in ("A kill loses nothing", "Speed")]


@pytest.mark.parametrize("name", QUICK)
def test_a_machine_that_is_right_passes(machine, name):
    assert CHECKS[name]()


@pytest.mark.slow
def test_a_machine_passes_a_kill_and_leaves_nothing_behind():
    assert re.search(r"killed at iteration \d+, resumed: the same weights", CHECKS["A kill loses nothing"]())
    assert os.listdir() == ["play.txt"]


# ---- planted bugs: each is caught by the check of its name

PLANTED = []  # a function that plants a bug, and the check that finds it


def planted(check: str, only_on_linux: bool = False):
    marks = [only_here] if only_on_linux else []
    return lambda plant: PLANTED.append(pytest.param(plant, check, id=plant.__name__, marks=marks))


def replace_operation(monkeypatch, name: str, wrong) -> None:
    """Replace an operation of the fast path by `wrong`, which gets the right one and the arguments."""
    right = getattr(operations, name)
    monkeypatch.setattr(operations, name, lambda *arguments: wrong(right, *arguments))


@planted("No token sees the future")
def inverted_mask(monkeypatch):
    monkeypatch.setattr(layers, "causal_mask", lambda T, dtype: mx.where(mx.tri(T).T > 0, 0.0, -mx.inf).astype(dtype))


@planted("No token sees the future")
def missing_mask(monkeypatch):
    monkeypatch.setattr(layers, "causal_mask", lambda T, dtype: mx.zeros((T, T), dtype))


@planted("No token sees the future", only_on_linux=True)
def leaking_fast_path(monkeypatch):
    monkeypatch.setattr(operations, "_mask", lambda shape: mx.zeros(shape))


@planted("It computes as the CPU does", only_on_linux=True)
def wrong_scale(monkeypatch):
    replace_operation(monkeypatch, "causal_attention", lambda right, q, k, v, scale: right(q, k, v, 1.1 * scale))


@planted("It computes as the CPU does", only_on_linux=True)
def wrong_norm(monkeypatch):
    replace_operation(monkeypatch, "layer_norm", lambda right, x, weight, bias, eps: right(x, weight, bias, 0.1))


@planted("It computes as the CPU does", only_on_linux=True)
def wrong_gradient(monkeypatch):
    replace_operation(monkeypatch, "linear", lambda right, x, w, bias=None: right(x, w, mx.stop_gradient(bias)))


@planted("The cache of a text is right")
def stale_cache(monkeypatch):
    monkeypatch.setattr(model.Cache, "advance", lambda self, T: None)


@planted("The cache of a text is right")
def cache_of_zeros(monkeypatch):
    write = model.LayerCache.write
    monkeypatch.setattr(model.LayerCache, "write", lambda self, k, v: write(self, 0 * k, v))


@planted("A step repeats", only_on_linux=True)
def shuffled_additions(monkeypatch):
    """As atomic additions do, in another order each time."""
    rng = np.random.default_rng()
    shuffled_sum = lambda x: mx.cumsum(x[mx.array(rng.permutation(len(x)))], axis=0)[-1]
    monkeypatch.setattr(operations, "_sum_of_rows", shuffled_sum)


@planted("Dropout draws anew")
def frozen_dropout(monkeypatch):
    right = mx.random.bernoulli
    monkeypatch.setattr(mx.random, "bernoulli", lambda p, shape: right(p, shape, key=mx.random.key(1)))


@planted("Compiled equals eager")
def wrong_compilation(monkeypatch):
    right = mx.compile

    def wrong(function, **more):
        compiled = right(function, **more)
        return lambda *arguments: [1.001 * output for output in compiled(*arguments)]

    monkeypatch.setattr(training.mx, "compile", wrong)


@planted("A batch is learned")
def an_optimizer_that_does_nothing(monkeypatch):
    monkeypatch.setattr(optim.Adam, "apply_single", lambda self, gradient, parameter, state: parameter)


@planted("bfloat16 is close")
def half_the_bits(monkeypatch):
    """Weights with 2 bits instead of bfloat16's 8."""
    right = training.tree_map
    coarse = lambda p: right(lambda x: mx.round(x * 4) / 4 + 0.05, p)
    monkeypatch.setattr(training, "tree_map", lambda function, tree, *more: right(function, coarse(tree), *more))


@planted("An evaluation is exact")
def dropout_in_evaluations(monkeypatch):
    monkeypatch.setattr(nn.Module, "eval", lambda self: self)


@planted("A text repeats")
def a_seed_that_is_ignored(monkeypatch):
    keys = iter(range(200))
    right = mx.random.key
    monkeypatch.setattr(generation.mx.random, "key", lambda seed: right(next(keys)))


@planted("The disk is safe")
def a_disk_that_does_not_synchronise(monkeypatch):
    monkeypatch.setattr(os, "fsync", refuse)


@planted("The disk is safe")
def a_disk_without_locks(monkeypatch):
    monkeypatch.setattr(fcntl, "flock", refuse)


@planted("The disk is safe")
def locks_that_lock_nothing(monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda descriptor, how: None)


@planted("A kill loses nothing")
def a_disk_that_cannot_be_written(monkeypatch):
    monkeypatch.setattr(doctor.tempfile, "TemporaryDirectory", refuse)


@planted("The device")
def a_slow_blas(monkeypatch):
    monkeypatch.setattr(type(machine()), "has_fast_blas", False)


def refuse(*arguments, **more):
    raise OSError(errno.ENOTSUP, "Not supported")


@pytest.mark.parametrize("plant, name", PLANTED)
def test_a_planted_bug_is_found(monkeypatch, plant, name):
    plant(monkeypatch)
    monkeypatch.setattr(doctor, "SHAPES", doctor.SHAPES[:1])  # one is enough for a bug
    monkeypatch.setattr(doctor, "CHECKS", {name: CHECKS[name]})
    (check,) = examine()
    assert not check.passed and check.detail
    if plant.__name__ == "a_disk_without_locks":
        assert "has no locks (Not supported); let no two processes write there" in check.detail


@only_here
@pytest.mark.slow
def test_a_resume_that_forgets_is_found(monkeypatch):
    right = Recorder.restore

    def forgetful(self, model=None):
        state = right(self, model)
        state.optimizer = make_optimizer(self.run.train_config)
        state.optimizer.init(state.model.trainable_parameters())
        return state

    monkeypatch.setattr(Recorder, "restore", forgetful)
    with pytest.raises(Wrong, match="killed at iteration .* has other weights"):
        CHECKS["A kill loses nothing"]()


# ---- speed


def test_a_mac_that_is_too_slow_is_found_and_one_that_is_not_passes(monkeypatch):
    measured = Measured(Rounds.of([0.004]), 0.00003, 1.0, 10**8)
    monkeypatch.setattr(doctor, "measure", lambda *_: measured)
    monkeypatch.setattr(doctor, "measure_generation", lambda *_, **__: (Rounds.of([5000.0]), None))
    monkeypatch.setattr(doctor.mx, "default_device", lambda: mx.gpu)
    monkeypatch.setattr(doctor, "chip", lambda: "Apple M4 Pro")
    assert "4.0 ms a step" in CHECKS["Speed"]()
    monkeypatch.setattr(doctor, "measure_generation", lambda *_, **__: (Rounds.of([500.0]), None))
    with pytest.raises(Wrong, match="More than twice as slow: token"):
        CHECKS["Speed"]()


def test_a_chip_that_is_not_listed_has_no_expectation():
    assert roofline.expected_seconds("Apple M99") is None


@pytest.mark.parametrize("chip", roofline.CHIPS)
def test_an_expectation_is_a_range(chip):
    assert all(0 < low < high for low, high in roofline.expected_seconds(chip).values())


# ---- the examination


def test_a_check_that_cannot_be_made_has_failed_and_the_others_are_made(monkeypatch):
    def breaks():
        mx.set_default_device(mx.cpu)
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(doctor, "CHECKS", {"one": breaks, "two": lambda: "fine"})
    one, two = examine()
    assert (one.passed, one.detail) == (False, "RuntimeError: no such kernel")
    assert two == Check("two", True, "fine", two.seconds)


def test_a_difference_that_is_not_a_number_fails():
    with pytest.raises(Wrong, match="logits differ by nan"):
        doctor._check_within(float("nan"), 1.0, "logits")


def test_a_machine_without_a_compiler_passes_with_a_note(monkeypatch):
    monkeypatch.setattr(doctor, "can_compile", lambda: False)
    assert "mx.compile does nothing without g++" in CHECKS["The device"]()
