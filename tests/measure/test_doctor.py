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
from mlx_nanogpt import generation, model, training
from conftest import only_here
from mlx_nanogpt.machine import machine
from mlx_nanogpt.machine.linux_cpu import operations
from mlx_nanogpt.machine.linux_cpu.machine import LinuxCPU
from mlx_nanogpt.measure import doctor, roofline
from mlx_nanogpt.measure.benchmark import Rounds
from mlx_nanogpt.measure.doctor import CHECKS, Check, Wrong, examine
from mlx_nanogpt.measure.plan import Measured
from mlx_nanogpt.runs.run import Run

QUICK = [name for name in CHECKS if name not in ("A kill loses nothing", "Speed")]


@pytest.mark.parametrize("name", QUICK)
def test_a_machine_that_is_right_passes(machine, name):
    assert CHECKS[name]()


@pytest.mark.slow
def test_a_machine_passes_a_kill_and_leaves_nothing_behind():
    assert re.search(r"killed at iteration \d+, resumed: the same weights", CHECKS["A kill loses nothing"]())
    assert os.listdir() == ["play.txt"]


# ---- planted bugs: each is caught by the check of its name


def on_linux(monkeypatch, name: str, wrong) -> None:
    """Replace an operation of the fast path by `wrong`, which gets the right one and the arguments."""
    right = getattr(operations, name)
    monkeypatch.setattr(operations, name, lambda *arguments: wrong(right, *arguments))


def plant_inverted_mask(monkeypatch):
    monkeypatch.setattr(model, "causal_mask", lambda T, dtype: mx.where(mx.tri(T).T > 0, 0.0, -mx.inf).astype(dtype))


def plant_missing_mask(monkeypatch):
    monkeypatch.setattr(model, "causal_mask", lambda T, dtype: mx.zeros((T, T), dtype))


def plant_wrong_scale(monkeypatch):
    on_linux(monkeypatch, "causal_attention", lambda right, q, k, v, scale: right(q, k, v, 1.1 * scale))


def plant_wrong_norm(monkeypatch):
    on_linux(monkeypatch, "layer_norm", lambda right, x, weight, bias, eps: right(x, weight, bias, 0.1))


def plant_wrong_gradient(monkeypatch):
    on_linux(monkeypatch, "linear", lambda right, x, weight, bias=None: right(x, weight, mx.stop_gradient(bias)))


def plant_stale_cache(monkeypatch):
    monkeypatch.setattr(model, "advance", lambda cache, T: None)


def plant_cache_of_zeros(monkeypatch):
    write = model.LayerCache.write
    monkeypatch.setattr(model.LayerCache, "write", lambda self, k, v: write(self, 0 * k, v))


def plant_shuffled_additions(monkeypatch):
    """As atomic additions do, in another order each time."""
    rng = np.random.default_rng()
    monkeypatch.setattr(
        operations, "_sum_of_rows", lambda x: mx.cumsum(x[mx.array(rng.permutation(len(x)))], axis=0)[-1]
    )


def plant_frozen_dropout(monkeypatch):
    right = mx.random.bernoulli
    monkeypatch.setattr(mx.random, "bernoulli", lambda p, shape: right(p, shape, key=mx.random.key(1)))


def plant_wrong_compilation(monkeypatch):
    right = mx.compile

    def wrong(function, **more):
        compiled = right(function, **more)
        return lambda *arguments: compiled(*arguments) * 1.001

    monkeypatch.setattr(training.mx, "compile", wrong)


def plant_an_optimizer_that_does_nothing(monkeypatch):
    monkeypatch.setattr(optim.Adam, "apply_single", lambda self, gradient, parameter, state: parameter)


def plant_half_the_bits(monkeypatch):
    """Weights with 2 bits instead of bfloat16's 8."""
    right = training.tree_map
    coarse = lambda p: right(lambda x: mx.round(x * 4) / 4 + 0.05, p)
    monkeypatch.setattr(training, "tree_map", lambda function, tree, *more: right(function, coarse(tree), *more))


def plant_dropout_in_evaluations(monkeypatch):
    monkeypatch.setattr(nn.Module, "eval", lambda self: self)


def plant_a_seed_that_is_ignored(monkeypatch):
    keys = iter(range(100))
    right = mx.random.key
    monkeypatch.setattr(generation.mx.random, "key", lambda seed: right(next(keys)))


def plant_a_disk_that_does_not_synchronise(monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", refuse)


def plant_locks_that_lock_nothing(monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda descriptor, how: None)


def plant_a_slow_blas(monkeypatch):
    monkeypatch.setattr(type(machine()), "has_fast_blas", False)


def plant_a_leaking_fast_path(monkeypatch):
    monkeypatch.setattr(operations, "_mask", lambda shape: mx.zeros(shape))


PLANTED = {
    plant_inverted_mask: "No token sees the future",
    plant_missing_mask: "No token sees the future",
    plant_wrong_scale: "It computes as the CPU does",
    plant_wrong_norm: "It computes as the CPU does",
    plant_wrong_gradient: "It computes as the CPU does",
    plant_stale_cache: "The cache of a text is right",
    plant_cache_of_zeros: "The cache of a text is right",
    plant_shuffled_additions: "A step repeats",
    plant_frozen_dropout: "Dropout draws anew",
    plant_wrong_compilation: "Compiled equals eager",
    plant_an_optimizer_that_does_nothing: "A batch is learned",
    plant_half_the_bits: "bfloat16 is close",
    plant_dropout_in_evaluations: "An evaluation is exact",
    plant_a_seed_that_is_ignored: "A text repeats",
    plant_a_disk_that_does_not_synchronise: "The disk is safe",
    plant_locks_that_lock_nothing: "The disk is safe",
    plant_a_slow_blas: "The device",
    plant_a_leaking_fast_path: "No token sees the future",
}


OF_LINUX = (
    plant_wrong_scale,
    plant_wrong_norm,
    plant_wrong_gradient,
    plant_shuffled_additions,
    plant_a_leaking_fast_path,
)


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__.removeprefix("plant_"))
def test_a_planted_bug_is_found(monkeypatch, plant):
    if plant in OF_LINUX and not isinstance(machine(), LinuxCPU):
        pytest.skip("only MLX's CPU backend on Linux has this operation")
    plant(monkeypatch)
    monkeypatch.setattr(doctor, "CHECKS", {PLANTED[plant]: CHECKS[PLANTED[plant]]})
    (check,) = examine()
    assert not check.passed and check.detail


@only_here
@pytest.mark.slow
def test_a_resume_that_forgets_is_found(monkeypatch):
    right = Run.restore

    def forgetful(self, model, optimizer):
        state = optimizer.state
        position = right(self, model, optimizer)
        optimizer.state = state
        return position

    monkeypatch.setattr(Run, "restore", forgetful)
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


def test_a_difference_that_is_no_number_fails():
    with pytest.raises(Wrong, match="logits differ by nan"):
        doctor._within(float("nan"), 1.0, "logits")


def test_a_disk_without_locks_and_one_that_cannot_be_written_are_told(monkeypatch):
    def refuse(descriptor, how):
        raise OSError(errno.ENOTSUP, "Not supported")

    with monkeypatch.context() as disk:
        disk.setattr(fcntl, "flock", refuse)
        with pytest.raises(Wrong, match="has no locks .Not supported.; let no two processes write there"):
            CHECKS["The disk is safe"]()
    monkeypatch.setattr(doctor.tempfile, "TemporaryDirectory", lambda **_: refuse(0, 0))
    with pytest.raises(Wrong, match="files cannot be written here .Not supported."):
        CHECKS["A kill loses nothing"]()


def test_a_machine_without_a_compiler_passes_and_says_so(monkeypatch):
    monkeypatch.setattr(doctor, "can_compile", lambda: False)
    assert "mx.compile does nothing without g++" in CHECKS["The device"]()
