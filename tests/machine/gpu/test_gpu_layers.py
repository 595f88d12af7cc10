"""The promises of the layers that a GPU gets: MLX's own results, in another order or with less memory. They run anywhere, but for
the memory, which a GPU does not free at once."""

import re
from pathlib import Path

import mlx_nanogpt as gpt
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from conftest import arrays, frees_at_once, lively_model, loss_fn, same, tiny_gpt
from mlx_nanogpt.layers import SwiGLU
from mlx_nanogpt.machine import Machine
from mlx_nanogpt.machine.gpu import layers

V, C = 11, 6
IDX = mx.array([[1, 4, 1, 1], [0, 10, 4, 1]])


def names_of(*outputs: mx.array) -> set[str]:
    """The operations of a graph that is not computed yet."""
    mx.export_to_dot("graph.dot", *outputs)
    return set(re.findall(r'\[label ?="(\w+)', Path("graph.dot").read_text()))


def gradient(layer, *arguments: mx.array) -> mx.array:
    """The gradient of a weighted sum of what `layer` returns, in its first argument."""
    shape = layer(*arguments).shape
    weights = mx.random.normal(shape, key=mx.random.key(8))
    return mx.grad(lambda *arguments: (layer(*arguments) * weights).sum())(*arguments)


def test_the_gradient_of_an_embedding_is_mlxs_without_a_scatter():
    weight = mx.random.normal((V, C), key=mx.random.key(1))
    own, mlx = gradient(layers.embed, weight, IDX), gradient(lambda weight, idx: weight[idx], weight, IDX)
    assert "Scatter" in names_of(mlx) and "Scatter" not in names_of(own)
    assert mx.allclose(own, mlx, atol=1e-6)  # sums of up to 4 numbers around 1
    assert mx.array_equal(layers.embed(weight, IDX), weight[IDX])


@pytest.mark.parametrize("dtype", [mx.uint16, mx.int32, mx.uint32])
def test_any_type_of_token_ids_will_do(dtype):
    weight = mx.random.normal((V, C), key=mx.random.key(1))
    assert mx.array_equal(gradient(layers.embed, weight, IDX.astype(dtype)), gradient(layers.embed, weight, IDX))


@pytest.mark.parametrize(
    "vocab_size, scatters", [(layers.LARGEST_VOCABULARY, False), (layers.LARGEST_VOCABULARY + 1, True)]
)
def test_only_a_large_vocabulary_adds_in_an_arbitrary_order(vocab_size, scatters):
    model = gpt.GPT(tiny_gpt(vocab_size=vocab_size))
    Machine().prepare(model)
    _, grads = nn.value_and_grad(model, loss_fn)(model, IDX, IDX)
    assert ("Scatter" in names_of(grads["wte"]["weight"])) is scatters


def test_gelu_and_its_gradient_are_mlxs():
    x = mx.concatenate([mx.linspace(-12, 12, 4001), mx.array([-1e4, 1e4, 0.0])])
    assert mx.allclose(layers.gelu(x), nn.gelu_approx(x), rtol=1e-5, atol=2e-6)
    assert mx.allclose(gradient(layers.gelu, x), gradient(nn.gelu_approx, x), rtol=1e-5, atol=1e-5)


def test_swiglu_and_its_gradients_are_mlxs():
    gate = mx.concatenate([mx.linspace(-12, 12, 4001), mx.array([-1e4, 1e4, 0.0])])
    x, mlx = mx.random.normal(gate.shape, key=mx.random.key(1)), SwiGLU()
    assert mx.allclose(layers.swiglu(gate, x), mlx(gate, x), rtol=1e-5, atol=2e-6)
    for own, plain in ((layers.swiglu, mlx), (lambda x, gate: layers.swiglu(gate, x), lambda x, gate: mlx(gate, x))):
        arguments = (gate, x) if own is layers.swiglu else (x, gate)
        assert mx.allclose(gradient(own, *arguments), gradient(plain, *arguments), rtol=1e-5, atol=1e-5)
    assert layers.SwiGLU()(gate[:1], x).shape == x.shape  # one gate for all


def peak_memory(layer) -> int:
    """Bytes that a compiled gradient through eight products, each followed by `layer`, takes at its peak."""
    weight, x = (mx.random.normal((128, 128), key=mx.random.key(i)) for i in range(2))

    def loss(x: mx.array) -> mx.array:
        for _ in range(8):
            x = layer(x @ weight)
        return x.sum()

    grad = mx.compile(mx.grad(loss), inputs=mx.random.state, outputs=mx.random.state)
    mx.eval(grad(x))
    mx.reset_peak_memory()
    mx.eval(grad(x))
    return mx.get_peak_memory()


NUMBERS = 128 * 128


@frees_at_once
def test_gelu_keeps_nothing_but_its_input():
    """mx.compile must not find parts of the forward pass again in the gradient, and keep them."""
    assert peak_memory(layers.gelu) < peak_memory(nn.gelu_approx) - 7 * 4 * NUMBERS


@frees_at_once
def test_swiglu_keeps_nothing_but_its_inputs():
    own, mlx = (peak_memory(lambda x, layer=layer: layer(x, x + 1)) for layer in (layers.swiglu, SwiGLU()))
    assert own < mlx - 7 * 4 * NUMBERS


def test_dropout_drops_its_share_scales_the_rest_and_passes_their_gradient():
    dropout, x = layers.Dropout(0.25), mx.ones(40_000)
    mx.random.seed(3)
    y = np.array(dropout(x))
    assert set(np.unique(y)) == {0, np.float32(1 / 0.75)}
    assert (y == 0).mean() == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / y.size) ** 0.5)
    mx.random.seed(3)
    assert np.array_equal(mx.grad(lambda x: dropout(x).sum())(x), y)
    assert dropout.eval()(x) is x and layers.Dropout(0.0)(x) is x


@frees_at_once
def test_dropout_keeps_a_byte_an_element_where_mlxs_keeps_four():
    def kept(layer) -> int:
        """Bytes an element that wait for the gradient once the loss is computed."""
        x = mx.random.normal((128, 128), key=mx.random.key(1))
        mx.eval(x, mx.random.state)
        before = mx.get_active_memory()
        loss, gradient = mx.value_and_grad(lambda x: layer(x).sum())(x)
        mx.eval(loss)
        return round((mx.get_active_memory() - before) / x.size)

    assert (kept(layers.Dropout(0.5)), kept(nn.Dropout(0.5))) == (1, 4)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_a_prepared_model_has_the_same_weights_names_mode_and_logits(activation):
    model = lively_model(tiny_gpt(activation=activation, dropout=0.1)).eval()
    before, logits = arrays(model.parameters()), model(IDX)
    Machine().prepare(model)
    assert same(arrays(model.parameters()), before) and not model.training
    assert type(model.wte) is layers.Embedding and type(model.drop) is layers.Dropout
    assert mx.allclose(model(IDX), logits, atol=1e-5)
