"""The promises of an evaluation: the same windows every time, no dropout, no trace left behind."""

import mlx.core as mx
import numpy as np
import pytest
from conftest import TOKENS, arrays, checkpoint_arrays, lively_model, same, tiny_gpt, trained_run

import mlx_nanogpt as gpt
from mlx_nanogpt.data import evaluation_starts, windows

backends = pytest.mark.parametrize("backend", ["compiled", "eager"])


def plain_loop(model: gpt.GPT, tokens: np.ndarray, count: int) -> float:
    """The same windows, 100 at a time, one operation at a time."""
    block_size, total = model.config.block_size, 0.0
    starts = evaluation_starts(tokens, count, block_size)
    for group in (starts[i : i + 100] for i in range(0, count, 100)):
        total += gpt.loss_fn(model, *map(mx.array, windows(tokens, group, block_size))).item() * len(group)
    return total / count


@backends
@pytest.mark.parametrize("count", [1, 3, 257, 4200])
def test_an_evaluation_equals_a_plain_loop_over_its_windows(backend, count):
    model = lively_model(tiny_gpt())
    loss = gpt.make_evaluate(model, backend)(TOKENS, count)
    assert loss == pytest.approx(plain_loop(model, TOKENS, count), rel=1e-5)


@backends
def test_an_evaluation_is_deterministic(backend):
    model = lively_model(tiny_gpt(dropout=0.5))
    evaluate = gpt.make_evaluate(model, backend)
    mx.random.seed(1)
    first = evaluate(TOKENS, 50)
    mx.random.seed(2)
    assert evaluate(TOKENS, 50) == first == gpt.make_evaluate(model, backend)(TOKENS, 50)


@backends
def test_an_evaluation_has_no_dropout(backend):
    with_dropout, without = lively_model(tiny_gpt(dropout=0.9)), lively_model(tiny_gpt())
    losses = [gpt.make_evaluate(model, backend)(TOKENS, 50) for model in (with_dropout, without)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@backends
def test_an_evaluation_sees_the_weights_as_they_are_now(backend):
    model = lively_model(tiny_gpt())
    evaluate = gpt.make_evaluate(model, backend)
    before = evaluate(TOKENS, 50)
    model.update(lively_model(tiny_gpt(), seed=4).parameters())
    assert evaluate(TOKENS, 50) == pytest.approx(plain_loop(model, TOKENS, 50), rel=1e-5) != before


@backends
@pytest.mark.parametrize("training", [True, False])
def test_an_evaluation_leaves_weights_randomness_and_mode_as_they_were(backend, training):
    model = lively_model(tiny_gpt(dropout=0.5))
    model.train(training)
    weights, randomness = arrays(model.parameters()), mx.random.state[0].tolist()
    gpt.make_evaluate(model, backend)(TOKENS, 50)
    assert same(weights, arrays(model.parameters()))
    assert mx.random.state[0].tolist() == randomness
    assert {module.training for module in model.modules()} == {training}


def test_a_failed_evaluation_leaves_the_mode_as_it_was():
    model = lively_model(tiny_gpt())
    with pytest.raises(ValueError):
        gpt.make_evaluate(model, "eager")(TOKENS[:3], 5)
    assert model.training


def test_how_often_a_run_is_evaluated_does_not_change_what_it_learns():
    often, once = trained_run(dropout=0.2, eval_interval=1), trained_run(dropout=0.2, eval_interval=8, eval_iters=9)
    assert same(checkpoint_arrays(often), checkpoint_arrays(once))
