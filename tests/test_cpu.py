"""The promises of what only MLX's CPU backend on Linux runs: the same results as elsewhere, faster."""

import math
import os
import threading

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from conftest import arrays, lively_model, tiny_gpt, tiny_train

import mlx_nanogpt as gpt
from mlx_nanogpt import cpu
from mlx_nanogpt.model import causal_attention

only_here = pytest.mark.skipif(not cpu.in_use(), reason="only MLX's CPU backend on Linux runs this")


def test_exp_is_that_of_numpy_wherever_attention_and_gelu_need_it():
    x = np.linspace(-87, 80, 100_001, dtype=np.float32)
    relative_error = np.abs(np.array(cpu.exp(mx.array(x))) / np.exp(x.astype(np.float64)) - 1)
    assert np.all(relative_error < 3e-7 + 1e-7 * np.abs(x))


def test_exp_of_what_is_masked_is_exactly_zero():
    assert cpu.exp(mx.array([-math.inf, -1e30, -200.0, -89.0])).tolist() == [0.0] * 4


def test_exp_keeps_what_is_not_a_number():
    assert math.isnan(cpu.exp(mx.array([math.nan])).item())


def test_exp_is_its_own_gradient():
    x = mx.linspace(-20, 0, 50)
    assert mx.allclose(mx.grad(lambda x: cpu.exp(x).sum())(x), mx.exp(x), rtol=1e-6, atol=0)


def test_gelu_and_its_gradient_are_those_of_mlx():
    x = mx.concatenate([mx.linspace(-12, 12, 1001), mx.array([0.0, -0.0, 1e-20, -1e-20, 100.0, -100.0, 1e10, -1e10])])
    assert mx.allclose(cpu.gelu(x), nn.gelu_approx(x), rtol=1e-5, atol=1e-6)
    ours, theirs = (mx.grad(lambda x: f(x).sum())(x[:-2]) for f in (cpu.gelu, nn.gelu_approx))
    assert mx.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 3, 8, 4), (1, 1, 1, 64), (2, 2, 7, 64)])
def test_attention_is_the_same_in_all_three_forms(shape, monkeypatch):
    """Elsewhere the head size decides between MLX's fused attention (64) and the one in the open (4)."""
    q, k, v = (mx.random.normal(shape, key=mx.random.key(i)) for i in range(3))

    def gradients() -> list[mx.array]:
        loss = lambda q, k, v: (causal_attention(q, k, v, 0.5) * v).sum()  # noqa: E731
        return [causal_attention(q, k, v, 0.5), *mx.grad(loss, argnums=(0, 1, 2))(q, k, v)]

    monkeypatch.setattr(cpu, "in_use", lambda: True)
    here = gradients()
    monkeypatch.setattr(cpu, "in_use", lambda: False)
    for a, b in zip(here, gradients()):
        assert mx.allclose(a, b, rtol=1e-4, atol=3e-5)


@only_here
@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_parts_of_a_batch_have_the_loss_of_the_whole(batch_size):
    model = lively_model(tiny_gpt())
    idx, targets = mx.random.randint(0, 10, (2, batch_size, 8))
    parallel, plain = cpu.in_parallel(gpt.loss_fn), gpt.loss_fn
    assert parallel(model, idx, targets).item() == pytest.approx(plain(model, idx, targets).item(), abs=1e-6)


@only_here
def test_a_thread_has_streams_of_its_own():
    """A stream of MLX's is known only to the thread that made it."""
    failures = []

    def work() -> None:
        try:
            model = lively_model(tiny_gpt())
            mx.eval(cpu.in_parallel(gpt.loss_fn)(model, mx.zeros((2, 8), mx.int32), mx.zeros((2, 8), mx.int32)))
        except RuntimeError as error:
            failures.append(error)

    cpu.streams()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failures


def test_training_elsewhere_takes_the_same_way(monkeypatch):
    """Where this machine's shortcuts are not taken, as on a Mac, the same batch gives the same step."""

    def weights_after_a_step() -> dict[str, np.ndarray]:
        model, idx = lively_model(tiny_gpt()), mx.arange(32).reshape(4, 8) % 10
        optimizer = gpt.make_optimizer(gpt.TrainConfig())
        optimizer.init(model.trainable_parameters())
        mx.eval(gpt.make_step(model, optimizer, tiny_train())(idx, (idx + 1) % 10), model.state)
        return arrays(model.parameters())

    here = weights_after_a_step()
    monkeypatch.setattr(cpu, "in_use", lambda: False)
    there = weights_after_a_step()
    # Adam's first step is as long as its learning rate in every direction, whatever the size of the gradient
    assert all(np.mean(np.abs(here[name] - there[name]) < 1e-5) > 0.99 for name in here)


@only_here
def test_generation_shares_one_core_and_gives_the_others_back():
    before = os.sched_getaffinity(0)
    tokens = gpt.generate(lively_model(tiny_gpt()), [1], 20, seed=1)
    next(tokens)
    during = os.sched_getaffinity(0)
    list(tokens)
    assert len(during) == 1 and during <= before and os.sched_getaffinity(0) == before


@only_here
def test_a_large_model_generates_on_all_cores(monkeypatch):
    monkeypatch.setattr(cpu, "PARAMETERS_FOR_ONE_CORE", 1000)
    tokens = gpt.generate(lively_model(tiny_gpt()), [1], 20, seed=1)
    before = os.sched_getaffinity(0)
    next(tokens)
    assert os.sched_getaffinity(0) == before


@only_here
def test_a_generation_that_is_given_up_gives_the_cores_back():
    before = os.sched_getaffinity(0)
    tokens = gpt.generate(lively_model(tiny_gpt()), [1], 20, seed=1)
    next(tokens)
    tokens.close()
    assert os.sched_getaffinity(0) == before
