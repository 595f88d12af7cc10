"""The promises of the layers that MLX's CPU backend on Linux gets: they take the places of others, and nothing else changes."""

import mlx_nanogpt as gpt
import mlx.core as mx
import mlx.nn as nn
import pytest
from conftest import arrays, lively_model, only_here, same, tiny_gpt
from mlx_nanogpt.machine.linux_cpu import layers, operations
from mlx_nanogpt.machine.linux_cpu.machine import LinuxCPU
from mlx_nanogpt.model import token_losses

pytestmark = only_here
IDX = mx.arange(24).reshape(3, 8) % 7


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_a_prepared_model_has_the_same_weights_names_mode_and_logits(activation):
    model = lively_model(tiny_gpt(activation=activation)).eval()
    before, logits = arrays(model.parameters()), model(IDX)
    LinuxCPU().prepare(model)
    assert same(arrays(model.parameters()), before) and not model.training
    assert isinstance(model, gpt.GPT) and isinstance(model.h[0].mlp.activation, (layers.ReLU, layers.GELU))
    assert mx.allclose(model(IDX), logits, atol=1e-4)


def test_a_model_is_prepared_once_and_no_other_class_is():
    class Other(gpt.GPT):
        pass

    model, other = lively_model(tiny_gpt()), Other(tiny_gpt())
    for each in (model, model, other):
        LinuxCPU().prepare(each)
    assert type(model) is layers.GPT and type(model.ln_f) is layers.LayerNorm
    assert type(other) is Other and type(other.ln_f) is nn.LayerNorm


def test_a_large_vocabulary_takes_no_more_memory_than_mlx_needs():
    """Its logits are most of what a training holds."""
    V = operations.LARGEST_VOCABULARY + 1
    model, idx = gpt.GPT(tiny_gpt(vocab_size=V)), mx.zeros((2, 8), mx.int32)
    LinuxCPU().prepare(model)

    def peak_memory(losses) -> int:
        mx.eval(model.parameters(), idx)
        mx.reset_peak_memory()
        mx.eval(nn.value_and_grad(model, lambda: losses(model, idx, idx).sum())())
        return mx.get_peak_memory()

    for losses in (token_losses, LinuxCPU().token_losses):
        peak_memory(losses)  # the first time compiles
    # which arrays overlap depends on the moment; the loss for small vocabularies would hold twice as many
    assert peak_memory(LinuxCPU().token_losses) <= 1.2 * peak_memory(token_losses)
