"""The promises of the leaves that MLX's CPU backend on Linux gets: they take the places of others, and nothing else changes."""

import mlx_nanogpt as gpt
import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_nanogpt import machine as hardware
from conftest import arrays, lively_model, only_here, same, tiny_gpt
from mlx_nanogpt.layers import CausalAttention, CrossEntropy, SwiGLU
from mlx_nanogpt.machine.linux_cpu import layers, operations

pytestmark = only_here
IDX = mx.arange(24).reshape(3, 8) % 7


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_a_prepared_model_has_the_same_weights_names_mode_and_logits(activation):
    model = lively_model(tiny_gpt(activation=activation)).eval()
    before, logits = arrays(model.parameters()), model(IDX)
    for _ in range(2):
        hardware.machine().prepare(model)
    assert same(arrays(model.parameters()), before) and not model.training
    assert type(model) is gpt.GPT and isinstance(model.h[0].mlp.activation, (layers.ReLU, layers.GELU))
    assert mx.allclose(model(IDX), logits, atol=1e-4)


@pytest.mark.parametrize(
    "layer",
    [nn.GELU(), nn.LayerNorm(8, affine=False), nn.RoPE(8, traditional=True), nn.RoPE(8, scale=2), nn.RoPE(4)],
    ids=["exact GELU", "norm without weights", "traditional RoPE", "scaled RoPE", "partial RoPE"],
)
def test_a_layer_in_a_form_that_no_leaf_has_computes_as_mlx_does(layer):
    x = mx.random.normal((1, 2, 5, 8), key=mx.random.key(1))
    expected = layer(x)
    hardware.machine().prepare(layer)
    assert mx.array_equal(layer(x), expected)


def normal(*shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(len(shape)))


@pytest.mark.parametrize(
    "layer, inputs",
    [
        (nn.RoPE(8), [normal(2, 5, 8)]),
        (nn.Linear(8, 3), [normal(0, 8)]),
        (nn.Linear(8, 3), [normal(2, 8).astype(mx.bfloat16)]),
        (CausalAttention(), [normal(1, 2, 5, 8), normal(1, 1, 5, 8), normal(1, 1, 5, 8), 0.3]),
        (SwiGLU(), [normal(2, 5, 1), normal(2, 5, 8)]),
        (CrossEntropy(), [normal(3, 7), mx.softmax(normal(3, 7))]),
    ],
    ids=["RoPE of 3 dimensions", "no rows", "bfloat16", "fewer heads of keys", "one gate", "probabilities"],
)
def test_a_leaf_steps_aside_for_arrays_of_another_form(layer, inputs):
    expected = layer(*inputs)
    hardware.machine().prepare(layer)
    assert mx.allclose(layer(*inputs), expected, rtol=1e-3, atol=1e-4)


def test_a_large_vocabulary_takes_no_more_memory_than_mlx_needs():
    """Its logits are most of what training holds."""
    logits, targets = mx.zeros((16, operations.LARGEST_VOCABULARY + 1)), mx.zeros((16,), mx.int32)

    def peak_memory(loss) -> int:
        gradient = mx.grad(lambda logits: loss(logits, targets).sum())
        mx.eval(gradient(logits))  # the first time compiles
        mx.reset_peak_memory()
        mx.eval(gradient(logits))
        return mx.get_peak_memory()

    # which arrays overlap depends on the moment; the loss for small vocabularies would hold twice as many
    assert peak_memory(layers.CrossEntropy()) <= 1.2 * peak_memory(CrossEntropy())
