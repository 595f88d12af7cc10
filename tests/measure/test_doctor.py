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
from mlx_nanogpt import files, generation, gradients, layers, model, training
from conftest import SESSION_CACHE, fully_prepared, only_here
from mlx_nanogpt.machine import machine
from mlx_nanogpt.machine.linux_cpu import operations
from mlx_nanogpt.measure import doctor, roofline
from mlx_nanogpt.measure.doctor import CHECKS, Check, Wrong, examine
from mlx_nanogpt.measure.plan import Measured
from mlx_nanogpt.measure.timing import Rounds
from mlx_nanogpt.optimizer import make_optimizer
from mlx_nanogpt.runs.recorder import Recorder

pytestmark = fully_prepared
QUICK = [name for name in CHECKS if name not in ("A kill loses nothing", "Speed")]


@pytest.mark.parametrize("name", QUICK)
def test_a_machine_that_is_right_passes(machine, monkeypatch, name):
    monkeypatch.setattr(doctor, "SHAPES", doctor.SHAPES[::3])  # the smallest heads, and the largest
    assert CHECKS[name]()


@pytest.mark.slow
def test_a_machine_passes_a_kill_and_leaves_nothing_behind(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", SESSION_CACHE)
    assert re.search(r"killed at iteration \d+, resumed: the same weights", CHECKS["A kill loses nothing"]())
    assert os.listdir() == ["play.txt"]


# ---- planted bugs: each is caught by the check of its name

PLANTED = []


def plant(bug: str, check: str, owner, name: str, make_wrong) -> None:
    """`make_wrong` makes the wrong function of the right one, which is `name` of `owner`."""
    marks = [only_here] if owner is operations else []
    PLANTED.append(pytest.param(check, owner, name, make_wrong, id=bug, marks=marks))


def refuse(*arguments, **more):
    raise OSError(errno.ENOTSUP, "Not supported")


def sum_in_any_order(x):
    """As atomic additions do, in another order each time."""
    return mx.cumsum(x[mx.array(np.random.default_rng().permutation(len(x)))], axis=0)[-1]


def ignore_seeds(right):
    keys = iter(range(200))
    return lambda seed: right(next(keys))


def compile_wrongly(right):
    return lambda function, **more: lambda *arguments: [1.001 * y for y in right(function, **more)(*arguments)]


def round_coarsely(right):
    """To 2 bits instead of bfloat16's 8."""
    coarse = lambda p: mx.round(p * 4) / 4 + 0.05
    return lambda function, tree, *more: right(function, right(coarse, tree), *more)


FUTURE, CPU, CACHE = "No token sees the future", "It computes as the CPU does", "The cache of a text is right"
inverted = lambda T, dtype: mx.where(mx.tri(T).T > 0, 0.0, -mx.inf).astype(dtype)
plant("inverted mask", FUTURE, layers, "causal_mask", lambda right: inverted)
plant("missing mask", FUTURE, layers, "causal_mask", lambda right: lambda T, dtype: mx.zeros((T, T), dtype))
plant("leaking fast path", FUTURE, operations, "_mask", lambda right: mx.zeros)
plant("wrong scale", CPU, operations, "causal_attention", lambda right: lambda q, k, v, s: right(q, k, v, 1.1 * s))
plant(
    "wrong norm", CPU, operations, "layer_norm", lambda right: lambda x, weight, bias, eps: right(x, weight, bias, 0.1)
)
plant("wrong gradient", CPU, operations, "linear", lambda right: lambda x, w, b=None: right(x, w, mx.stop_gradient(b)))
plant("stale cache", CACHE, model.Cache, "advance", lambda right: lambda self, T: None)
plant("cache of zeros", CACHE, model.LayerCache, "write", lambda right: lambda self, kv: right(self, 0 * kv))
plant("shuffled additions", "A step repeats", operations, "_sum_of_rows", lambda right: sum_in_any_order)
same_key = lambda right: lambda p, shape: right(p, shape, key=mx.random.key(1))
plant("frozen dropout", "Dropout draws anew", mx.random, "bernoulli", same_key)
plant("wrong compilation", "Compiled equals eager", training.mx, "compile", compile_wrongly)
plant("idle optimizer", "A batch is learned", optim.Adam, "apply_single", lambda right: lambda self, g, p, state: p)
plant("few bits", "bfloat16 is close", gradients, "tree_map", round_coarsely)
plant("dropout in evaluations", "An evaluation is exact", nn.Module, "eval", lambda right: lambda self: self)
plant("ignored seed", "A text repeats", generation.mx.random, "key", ignore_seeds)
plant("unsynchronised disk", "The disk is safe", files, "_sync", lambda right: refuse)
plant("idle locks", "The disk is safe", fcntl, "flock", lambda right: lambda descriptor, how: None)
plant("read-only disk", "A kill loses nothing", doctor.tempfile, "TemporaryDirectory", lambda right: refuse)
plant("slow BLAS", "The device", type(machine()), "has_fast_blas", lambda right: False)


@pytest.mark.parametrize("check, owner, name, make_wrong", PLANTED)
def test_a_planted_bug_is_found(monkeypatch, check, owner, name, make_wrong):
    monkeypatch.setattr(owner, name, make_wrong(getattr(owner, name)))
    monkeypatch.setattr(doctor, "SHAPES", doctor.SHAPES[:1])  # one is enough for a bug
    monkeypatch.setattr(doctor, "CHECKS", {check: CHECKS[check]})
    (result,) = examine()
    assert not result.passed and result.detail


def test_a_disk_without_locks_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(RuntimeWarning, match="has no locks .Not supported.; let no two processes write there"):
        CHECKS["The disk is safe"]()


@only_here
@pytest.mark.slow
def test_a_resume_that_forgets_is_found(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", SESSION_CACHE)
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


def test_the_default_step_is_expected_near_5_ms_on_an_m4_pro():
    low, high = roofline.expected_seconds("Apple M4 Pro")["step"]
    assert 0.0045 < low < high < 0.0065


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
