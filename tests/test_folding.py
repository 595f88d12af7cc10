"""The promises of the folded model, which evaluates and generates on MLX's CPU backend on Linux: it is the same function."""

import mlx.core as mx
import numpy as np
import pytest
from conftest import arrays, lively_model, only_here, tiny_gpt

from mlx_nanogpt import cpu, folding
from mlx_nanogpt.folding import folded, for_reading
from mlx_nanogpt.model import LayerCache

pytestmark = only_here  # nothing else runs it

IDX = mx.array(np.random.default_rng(0).integers(9, size=(3, 8)))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bias", ["lecture", "all", "none"])
def test_a_folded_model_has_the_same_logits(bias, tied, activation):
    model = lively_model(tiny_gpt(vocab_size=9, bias=bias, tied=tied, activation=activation)).eval()
    reader = folded(model)
    assert mx.allclose(reader(IDX), model(IDX), atol=1e-5)
    caches = [[LayerCache(model.config, batch_size=3) for _ in model.h] for _ in range(2)]
    for part in (IDX[:, :5], IDX[:, 5:6], IDX[:, 6:]):
        logits = [each.next_logits(part, cache) for each, cache in zip((reader, model), caches)]
        assert mx.allclose(*logits, atol=1e-5)


def test_the_residual_stream_of_a_folded_model_has_mean_0():
    """That is why no LayerNorm needs to subtract one."""
    seen = []

    class Spy(folding.Scale):
        def __call__(self, x):
            seen.append(x)
            return super().__call__(x)

    reader = folded(lively_model(tiny_gpt(vocab_size=9)))
    reader.ln_f = Spy(reader.ln_f.eps)
    for block in reader.h:
        block.ln_1, block.ln_2 = Spy(block.ln_1.eps), Spy(block.ln_2.eps)
    reader(IDX)
    assert len(seen) == 1 + 2 * len(reader.h)
    assert all(abs(x.mean(axis=-1)).max() < 1e-6 < abs(x).max() for x in seen)


def test_folding_leaves_the_model_and_the_random_state_as_they_were():
    model = lively_model(tiny_gpt(tied=True))
    before, state = arrays(model.parameters()), np.array(mx.random.state[0])
    mx.eval(folded(model).parameters())
    assert model.training and model.config == tiny_gpt(tied=True)
    assert all(np.array_equal(before[name], array) for name, array in arrays(model.parameters()).items())
    assert np.array_equal(np.array(mx.random.state[0]), state)


def test_a_folded_model_does_not_follow_the_weights():
    """An evaluation folds anew: a training step is not lost on it, which test_evaluation.py has."""
    model = lively_model(tiny_gpt(vocab_size=9))
    reader = folded(model)
    before = np.array(reader(IDX))
    model.wte.weight = model.wte.weight + 1
    model.h[0].mlp.c_fc.weight *= 2
    assert np.array_equal(np.array(reader(IDX)), before)


def test_small_models_are_read_folded_and_large_ones_as_they_are(monkeypatch):
    model = lively_model(tiny_gpt())
    assert isinstance(for_reading(model).ln_f, folding.Scale)
    monkeypatch.setattr(cpu, "SMALL_MODEL", model.num_parameters() - 1)
    assert for_reading(model) is model


def test_elsewhere_the_model_is_read_as_it_is(monkeypatch):
    monkeypatch.setattr(cpu, "in_use", lambda: False)
    model = lively_model(tiny_gpt())
    assert for_reading(model) is model
