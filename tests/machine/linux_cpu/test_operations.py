"""The promises of the operations that MLX's CPU backend on Linux runs: results and gradients are those of MLX's own."""

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from conftest import only_here
from mlx_nanogpt.machine.linux_cpu import layers, operations

pytestmark = [only_here, pytest.mark.usefixtures("broadcasts")]  # a Mac's subnormal numbers may differ


def draw(*shape: int, seed: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


def results(function, *arrays: mx.array) -> list[mx.array]:
    """The result of `function` for the arrays, and the gradient of each."""
    y = function(*arrays)
    cotangent = draw(*y.shape, seed=99)
    return [y, *mx.grad(lambda *arrays: (function(*arrays) * cotangent).sum(), argnums=range(len(arrays)))(*arrays)]


def assert_the_same(own, mlx, *arrays: mx.array) -> None:
    """`own` gives the same as `mlx`, MLX's own form."""
    for a, b in zip(results(own, *arrays), results(mlx, *arrays), strict=True):
        assert a.shape == b.shape and mx.allclose(a, b, rtol=1e-4, atol=3e-5)


def with_parameters(layer: nn.Module):
    """The function of an input and of the weight and bias of `layer`."""

    def apply(x, *parameters):
        layer.update(dict(zip(("weight", "bias"), parameters)))
        return layer(x)

    return apply


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_is_that_of_mlx(bias):
    own, mlx = (with_parameters(kind(5, 3, bias=bias)) for kind in (layers.Linear, nn.Linear))
    assert_the_same(own, mlx, draw(7, 5), draw(3, 5, seed=1), *[draw(3, seed=2)] * bias)


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_norm_is_that_of_mlx(bias):
    own, mlx = (with_parameters(kind(5, bias=bias)) for kind in (layers.LayerNorm, nn.LayerNorm))
    assert_the_same(own, mlx, 3 + 2 * draw(7, 5), draw(5, seed=1), *[draw(5, seed=2)] * bias)


def test_an_rms_norm_is_that_of_mlx():
    own, mlx = (with_parameters(kind(5)) for kind in (layers.RMSNorm, nn.RMSNorm))
    assert_the_same(own, mlx, 3 + 2 * draw(7, 5), draw(5, seed=1))
    assert_the_same(own, mlx, draw(2, 3, 7, 5), draw(5, seed=1))  # of each head


def test_a_rotation_is_that_of_mlx():
    own, mlx = layers.RoPE(6, base=100.0), nn.RoPE(6, base=100.0)
    assert_the_same(own, mlx, draw(2, 3, 7, 6))
    assert mx.allclose(own(draw(2, 3, 7, 6), mx.array(4)), mlx(draw(2, 3, 7, 6), 4), atol=1e-5)  # with a cache


def test_swiglu_is_that_of_mlx():
    numbers = mx.concatenate([mx.linspace(-20, 20, 1001), mx.array([0.0, -0.0, 1e-20, -1e-20, 80.0, -80.0])])
    assert_the_same(operations.swiglu, lambda gate, x: nn.silu(gate) * x, numbers, draw(len(numbers)))


@pytest.mark.parametrize("C", [64, 96])  # 1/C is a float32, or is rounded to one
def test_a_layer_norm_of_numbers_far_from_zero_keeps_its_digits(C):
    x = np.array(1000 + draw(8, C)).astype(np.float64)
    mean, deviation = x.mean(-1, keepdims=True), np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    y = np.array(operations.layer_norm(mx.array(x), mx.ones(C), None, 1e-5))
    # in float32 a mean of C numbers has a relative error of at most C * 2^-24, in any order, and 2^-24 more for a
    # rounded 1/C: 5e-3 of a deviation here, a twentieth of the error of a difference of mean squares
    assert np.all(np.abs(y - (x - mean) / deviation) < (C + 1) * 2**-24 * mean / deviation)


def test_relu_is_that_of_mlx_for_every_kind_of_number():
    numbers = [0.0, -0.0, 1e-45, -1e-45, 1e-38, 1e38, -1e38, math.inf, -math.inf, 1.0, -1.0]
    assert_the_same(operations.relu, nn.relu, mx.array(numbers))


def test_gelu_is_that_of_mlx():
    numbers = mx.array([0.0, -0.0, 1e-20, -1e-20, 100.0, -100.0])
    assert_the_same(operations.gelu, nn.gelu_approx, mx.concatenate([mx.linspace(-12, 12, 1001), numbers]))
    large = mx.array([1e10, -1e10])
    assert mx.allclose(operations.gelu(large), nn.gelu_approx(large))


def test_attention_holds_scores_of_any_size():
    """A softmax is taken relative to the largest score."""
    q = k = 100 * draw(1, 1, 6, 4)
    v = mx.eye(6)[None, None]
    s = np.array(q @ k.swapaxes(-1, -2))[0, 0].astype(np.float64)
    s[np.triu_indices(6, 1)] = -np.inf
    p = np.exp(s - s.max(-1, keepdims=True))
    assert np.allclose(
        np.array(operations.causal_attention(q, k, v, 1.0))[0, 0], p / p.sum(-1, keepdims=True), atol=1e-4
    )


@pytest.mark.parametrize("dtype", [mx.uint16, mx.int32])
def test_cross_entropy_is_that_of_mlx(dtype):
    targets = mx.array([[0, 10, 3], [3, 3, 9]], dtype=dtype)
    own, mlx = (
        lambda z, function=function: function(z, targets)
        for function in (operations.cross_entropy, nn.losses.cross_entropy)
    )
    assert_the_same(own, mlx, 30 * draw(2, 3, 11))


def test_a_gradient_runs_on_the_stream_of_its_operation():
    """A plain custom function of MLX would run its gradient on the default stream at that later time."""
    streams = []

    @operations.with_gradient(lambda x, dy, y: streams.append(mx.default_stream(mx.default_device())) or dy)
    def operation(x: mx.array) -> mx.array:
        return x * 1

    other = mx.new_stream(mx.default_device())

    def loss(x: mx.array) -> mx.array:
        with mx.stream(other):
            return operation(x).sum()

    assert mx.grad(loss)(mx.array([1.0, 2.0])).tolist() == [1.0, 1.0]
    assert streams == [other] and mx.default_stream(mx.default_device()) != other


@pytest.mark.parametrize(
    "shape, target", [((3,), (2, 3)), ((2, 1), (2, 3)), ((4, 2, 1, 3), (4, 2, 5, 3)), ((3, 1, 2), (4, 3, 5, 2))]
)
def test_a_broadcast_view_is_what_numpy_broadcasts(shape, target):
    x = draw(*shape)
    view = mx.compile(lambda x: mx.zeros(target) + operations.broadcast_view(x, target))(x)
    assert np.array_equal(np.array(view), np.broadcast_to(np.array(x), target))
    assert mx.array_equal(operations.unfused(x), x)


def test_what_does_not_fit_has_no_view():
    """A view would read past the end."""
    for shape, target in (((3,), (7, 5)), ((7, 3), (3,)), ((2, 1), (3, 4))):
        with pytest.raises(ValueError):
            operations.broadcast_view(draw(*shape), target)


@pytest.mark.parametrize("compiled", [True, False])
def test_exp2_is_that_of_numpy_wherever_it_is_needed(compiled):
    halves = np.arange(-127, 120) + 0.5  # halfway between two whole numbers
    x = np.concatenate([np.linspace(-127, 120, 100_001), halves]).astype(np.float32)
    expected = np.exp2(x.astype(np.float64))
    exp2 = mx.compile(operations.exp2) if compiled else operations.exp2
    error = np.abs(np.array(exp2(mx.array(x))) - expected)
    assert np.all(error < 3e-7 * expected + 1e-38)


def test_exp2_of_what_is_masked_is_exactly_zero():
    assert operations.exp2(mx.array([-math.inf, -1e30, -200.0, -127.0])).tolist() == [0.0] * 4


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("where", ["q", "k", "v"])
def test_attention_does_not_lose_what_is_not_a_number(where, sign):
    """Otherwise nobody would notice that a run diverges."""
    arrays = {name: draw(1, 1, 3, 4, seed=i) for i, name in enumerate("qkv")}
    arrays[where][0, 0, 2] = mx.array(np.copysign(np.float32(np.nan), sign))  # the last token's
    assert mx.isnan(operations.causal_attention(**arrays, scale=0.5)[0, 0, 2]).all()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_no_other_operation_loses_it(sign):
    x = draw(3, 4)
    x[2, 1] = mx.array(np.copysign(np.float32(np.nan), sign))
    assert mx.isnan(operations.cross_entropy(x, mx.array([0, 1, 2]))).tolist() == [False, False, True]
    for function in (operations.gelu, operations.relu, lambda x: operations.swiglu(x, mx.ones(4))):
        assert mx.isnan(function(x)).tolist() == mx.isnan(x).tolist()
    for norm in (
        lambda x: operations.layer_norm(x, mx.ones(4), None, 1e-5),
        lambda x: operations.rms_norm(x, mx.ones(4), 1e-5),
    ):
        assert mx.isnan(norm(x)).all(axis=-1).tolist() == [False, False, True]
    assert mx.isnan(operations.rope(x[None, None], 10.0)).any(axis=-1).tolist() == [[[False, False, True]]]
