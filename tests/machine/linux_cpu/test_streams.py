"""The promises of the threads behind MLX's CPU backend on Linux: the same results, faster."""

import copy
import os
import resource
import threading
from contextlib import suppress

import mlx_nanogpt as gpt
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from conftest import arrays, fully_prepared, lively_model, loss_fn, only_here, same, tiny_gpt, tiny_train
from mlx_nanogpt.machine.linux_cpu import folding
from mlx_nanogpt.machine.linux_cpu.streams import in_parts, part_edges, spread_loss, streams
from mlx_nanogpt.optimizer import orthogonal

pytestmark = fully_prepared


@only_here
@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_parts_of_a_batch_have_the_loss_and_the_gradient_of_the_whole(batch_size, broadcasts):
    model = lively_model(tiny_gpt())
    idx, targets = mx.random.randint(0, 10, (2, batch_size, 8))
    loss, gradient = nn.value_and_grad(model, loss_fn)(model, idx, targets)
    spread_loss(model)
    parts_loss, parts_gradient = nn.value_and_grad(model, model.loss)(idx, targets)
    # each is a mean of up to 5 * 8 float32 numbers: its relative error is at most 40 * 2^-24, in any order
    assert parts_loss.item() == pytest.approx(loss.item(), rel=5e-6)
    whole, parts = arrays(gradient), arrays(parts_gradient)
    assert all(np.allclose(parts[name], whole[name], rtol=1e-4, atol=1e-5) for name in whole)


@only_here
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_parts_of_a_stack_have_the_results_of_the_whole(count, broadcasts):
    stack = mx.random.normal((count, 6, 4), key=mx.random.key(count))
    # Newton-Schulz steps multiply rounding by 3.4445 five times, 500 in all
    assert mx.allclose(in_parts(orthogonal)(stack), orthogonal(stack), atol=500 * 2**-24)


@only_here
def test_a_model_that_gets_other_blocks_is_asked_again():
    model = lively_model(tiny_gpt())
    spread_loss(model)
    model.__class__ = OverTheBatch
    spread_loss(model)
    assert "loss" not in vars(model)


@only_here
def test_a_copy_of_a_model_has_a_loss_of_its_own():
    model = lively_model(tiny_gpt())
    spread_loss(model)
    twin, idx = copy.deepcopy(model), mx.zeros((3, 8), mx.int32)
    twin.lm_head.weight = twin.lm_head.weight + 1
    assert twin.loss(idx, idx).item() == pytest.approx(loss_fn(twin, idx, idx).item(), rel=5e-6)
    assert model.loss(idx, idx).item() == pytest.approx(loss_fn(model, idx, idx).item(), rel=5e-6)


class OwnLoss(gpt.GPT):
    def loss(self, idx: mx.array, targets: mx.array) -> mx.array:
        return self.token_losses(idx, targets).max()


class OverTheBatch(gpt.GPT):
    """Normalises over the whole batch, as NanoLux does."""

    def logits(self, x: mx.array) -> mx.array:
        logits = super().logits(x)
        return logits / mx.sqrt(mx.square(logits).mean())


class RunningSum(gpt.GPT):
    """Each row sees those before it."""

    def logits(self, x: mx.array) -> mx.array:
        return super().logits(mx.cumsum(x, axis=0))


class Normalised(gpt.GPT):
    """Has statistics of the batches so far, which a probe must not move."""

    def __init__(self, config: gpt.GPTConfig):
        super().__init__(config)
        self.over_the_batch = nn.BatchNorm(config.n_embd)

    def logits(self, x: mx.array) -> mx.array:
        return super().logits(self.over_the_batch(x))


@only_here
@pytest.mark.parametrize("init", ["gpt2", "zero"])
@pytest.mark.parametrize("kind", [OwnLoss, OverTheBatch, RunningSum, Normalised])
def test_a_loss_that_is_not_a_mean_over_independent_rows_stays_whole(kind, init):
    model = kind(tiny_gpt(dropout=0.5, init=init, vocab_size=4))
    before, key = arrays(model.parameters()), mx.random.state[0].tolist()
    spread_loss(model)
    assert same(before, arrays(model.parameters()))
    assert "loss" not in vars(model) and mx.random.state[0].tolist() == key
    assert {module.training for module in model.modules()} == {True}


@pytest.mark.parametrize("most", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 6, 12, 31, 32, 33])
def test_no_two_parts_of_a_batch_have_the_same_size(batch_size, most):
    """Otherwise mx.compile would merge the constants of two parts."""
    edges = part_edges(batch_size, most)
    sizes = np.diff(edges)
    assert edges[0] == 0 and edges[-1] == batch_size
    assert len(sizes) <= most and len(set(sizes)) == len(sizes) and min(sizes) > 0
    assert max(sizes) - min(sizes) <= most


@only_here
def test_threads_that_work_are_not_interrupted_by_those_that_wake_up():
    allowed, policies = [], []

    def work() -> None:
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            allowed.append(True)
        streams()
        policies.append(os.sched_getscheduler(0))
        child = threading.Thread(target=lambda: policies.append(os.sched_getscheduler(0)))
        child.start()
        child.join()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if not allowed:
        pytest.skip("a thread may not choose its scheduling policy here")
    assert policies == [os.SCHED_BATCH, os.SCHED_BATCH]


@only_here
def test_the_memory_of_a_step_is_there_for_the_next():
    """The system would return freed memory page by page, which is slow."""

    def evaluate() -> None:
        mx.eval([mx.exp(mx.zeros((2**20,)) + i) for i in range(4)])  # 4 MB each

    streams()
    evaluate()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        evaluate()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 5 * 1024


@only_here
def test_every_thread_has_streams_of_its_own(broadcasts):
    """Only the thread that made a stream of MLX can use it, and a later thread may have the same identity."""
    failures = []

    def work() -> None:
        try:
            model, idx = lively_model(tiny_gpt()), mx.zeros((3, 8), mx.int32)
            optimizer = gpt.make_optimizer(tiny_train())
            optimizer.init(model.trainable_parameters())
            mx.eval(gpt.make_step(model, optimizer, tiny_train())(idx, idx), model.state)
            list(gpt.generate(model, [1], 2, seed=1))
        except RuntimeError as error:
            failures.append(error)

    work()
    for _ in range(3):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert not failures


def cores_while_drawing(model: gpt.GPT) -> set[int]:
    """The cores that a generation may use while it works."""
    cores = []

    def sample(logits: mx.array, key: mx.array) -> mx.array:
        cores.append(os.sched_getaffinity(0))
        return mx.random.categorical(logits, key=key)

    list(gpt.generate(model, [1], 3, 1, sample))
    return cores[0]


@only_here
def test_a_small_model_generates_on_one_core():
    assert len(cores_while_drawing(lively_model(tiny_gpt()))) == 1


@only_here
def test_a_large_model_generates_on_all_cores(monkeypatch):
    monkeypatch.setattr(folding, "SMALL_MODEL", 1000)
    assert cores_while_drawing(lively_model(tiny_gpt())) == os.sched_getaffinity(0)


@only_here
def test_between_two_tokens_the_caller_has_all_cores():
    """For any number of texts at the same time, in any order of their ends."""
    before = os.sched_getaffinity(0)
    texts = [gpt.generate(lively_model(tiny_gpt()), [1], 20, seed=seed) for seed in (1, 2, 3)]
    for text in texts * 2:
        next(text)
        assert os.sched_getaffinity(0) == before
    texts[0].close()
    list(texts[1])
    del texts[2]
    assert os.sched_getaffinity(0) == before


@only_here
def test_a_sampler_that_fails_gives_the_cores_back():
    before = os.sched_getaffinity(0)
    with pytest.raises(ZeroDivisionError):
        next(gpt.generate(lively_model(tiny_gpt()), [1], 3, 1, lambda *_: 1 / 0))
    assert os.sched_getaffinity(0) == before


@only_here
def test_a_model_whose_weights_are_frozen_is_as_large(monkeypatch):
    model = lively_model(tiny_gpt())
    monkeypatch.setattr(folding, "SMALL_MODEL", model.num_parameters() - 1)
    model.freeze()
    assert not folding.is_small(model)


@only_here
def test_a_run_that_begins_while_a_text_is_generated_has_all_cores():
    counts = []

    def work() -> None:
        tokens = gpt.generate(lively_model(tiny_gpt()), [1], 20, seed=1)
        next(tokens)
        counts.append(len(streams()))
        tokens.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert counts == [len(streams())]
