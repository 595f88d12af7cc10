"""The promises of the folded model, for MLX's CPU backend on Linux: it computes the same function."""

import mlx_nanogpt as gpt
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_nanogpt import generate
from mlx_nanogpt import machine as hardware
from conftest import LOGIT_ROUNDING, arrays, each_variant, fully_prepared, lively_model, only_here, tiny_gpt
from mlx_nanogpt.machine.linux_cpu import folding
from mlx_nanogpt.machine.linux_cpu.folding import fold
from mlx_nanogpt.machine.linux_cpu.layers import Linear
from mlx_nanogpt.model import Cache

pytestmark = [only_here, fully_prepared, pytest.mark.usefixtures("broadcasts")]  # only this machine uses folding


def prepared(config) -> gpt.GPT:
    """A model whose layers can be folded."""
    model = lively_model(config)
    hardware.machine().prepare(model)
    return model


IDX = mx.array(np.random.default_rng(0).integers(9, size=(3, 8)))


@each_variant
def test_a_folded_model_has_the_same_logits(variant):
    model = prepared(tiny_gpt(vocab_size=9, **variant)).eval()
    folded_model = fold(model)
    assert mx.allclose(folded_model(IDX), model(IDX), atol=LOGIT_ROUNDING)
    caches = [Cache(model, batch_size=3) for _ in range(2)]
    for part in (IDX[:, :5], IDX[:, 5:6], IDX[:, 6:]):
        logits = [each.next_logits(part, cache) for each, cache in zip((folded_model, model), caches)]
        assert mx.allclose(*logits, atol=LOGIT_ROUNDING)


def test_the_residual_stream_of_a_folded_model_has_mean_0():
    """Therefore no LayerNorm has to subtract a mean."""
    seen = []

    class Spy(folding.Scale):
        def __call__(self, x):
            seen.append(x)
            return super().__call__(x)

    folded_model = fold(prepared(tiny_gpt(vocab_size=9)))
    folded_model.ln_f = Spy(folded_model.ln_f.eps)
    for block in folded_model.h:
        block.ln_1, block.ln_2 = Spy(block.ln_1.eps), Spy(block.ln_2.eps)
    folded_model(IDX)
    assert len(seen) == 1 + 2 * len(folded_model.h)
    # up to the rounding of float32 in a sum of so many numbers
    assert all(abs(x.mean(axis=-1)).max() < x.shape[-1] * 2**-24 * abs(x).max() for x in seen)


def test_folding_leaves_the_model_and_the_random_state_as_they_were():
    model = prepared(tiny_gpt(tied=True))
    before, state = arrays(model.parameters()), np.array(mx.random.state[0])
    mx.eval(fold(model).parameters())
    assert model.training and model.config == tiny_gpt(tied=True)
    assert all(np.array_equal(before[name], array) for name, array in arrays(model.parameters()).items())
    assert np.array_equal(np.array(mx.random.state[0]), state)


def test_a_folded_model_keeps_the_weights_that_it_was_made_of():
    model = prepared(tiny_gpt(vocab_size=9))
    folded_model = fold(model)
    before = np.array(folded_model(IDX))
    model.wte.weight = model.wte.weight + 1
    model.h[0].mlp.c_fc.weight *= 2
    assert np.array_equal(np.array(folded_model(IDX)), before)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: nn.quantize(model, group_size=32, class_predicate=lambda _, module: type(module) is Linear),
        lambda model: model.set_dtype(mx.bfloat16),
        lambda model: setattr(model, "ln_f", nn.RMSNorm(32)),
    ],
    ids=["quantised", "bfloat16", "another norm"],
)
def test_a_model_of_other_parts_is_not_folded_and_writes_all_the_same(change):
    model = prepared(tiny_gpt(vocab_size=32, n_embd=32)).eval()
    change(model)
    assert hardware.machine().for_inference(model)[0] is model
    assert len(list(generate(model, [1], 12, seed=1))) == 12


def test_small_models_are_folded_and_large_ones_are_not(monkeypatch):
    model = prepared(tiny_gpt()).eval()
    assert isinstance(hardware.machine().for_inference(model)[0].ln_f, folding.Scale)
    monkeypatch.setattr(folding, "SMALL_MODEL", model.num_parameters() - 1)
    assert hardware.machine().for_inference(model)[0] is model
    model.freeze()  # it stays as large
    assert hardware.machine().for_inference(model)[0] is model


@pytest.mark.parametrize(
    "call",
    [
        lambda self, x, cache=None, mask=None: x + self.mlp(self.ln_2(self.attn(x, cache, mask))),
        lambda self, x, cache=None, mask=None: self.ln_1(x + self.attn(self.ln_2(x), cache, mask)),
        lambda self, x, cache=None, mask=None: x + self.attn(2 * x, cache, mask),
    ],
    ids=["no residual", "another norm", "no norm"],
)
def test_a_folded_model_steps_aside_when_somebody_edited_the_block(monkeypatch, call):
    model = prepared(tiny_gpt()).eval()
    monkeypatch.setattr(type(model.h[0]), "__call__", call)
    assert hardware.machine().for_inference(model)[0] is model


def test_a_folded_model_steps_aside_when_a_part_of_the_block_is_gone():
    model = prepared(tiny_gpt()).eval()
    for block in model.h:
        del block.ln_2
    with pytest.raises(AttributeError):
        fold(model)
    assert folding.fold_if_same(model) is model
