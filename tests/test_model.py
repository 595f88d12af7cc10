"""The promises of the model: it is the lecture's GPT, to the number, and it never looks ahead.

The reference below is written from the formulas in NumPy and float64, and shares nothing with the model but its weights.
"""

import math
from pathlib import Path

import mlx_nanogpt as gpt
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_nanogpt import GPT, GPTConfig
from conftest import (
    ARCHITECTURES,
    LOGIT_ROUNDING,
    MODERN,
    arrays,
    each_architecture,
    each_variant,
    lively_model,
    loss_fn,
    tiny_gpt,
)
from mlx_nanogpt.layers import CausalAttention
from mlx_nanogpt.machine.linux_cpu import operations

CONFIG = tiny_gpt(vocab_size=11)
RNG = np.random.default_rng(0)
IDX, TARGETS = RNG.integers(11, size=(2, 3, CONFIG.block_size))  # (B, T) each


ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}


def rms_norm(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)


def causal_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """q, k and v (B, nh, T, hs) -> (B, nh, T, hs)."""
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])  # (B, nh, T, T)
    scores[..., ~np.tri(scores.shape[-1], dtype=bool)] = -np.inf
    chances = np.exp(scores - scores.max(-1, keepdims=True))
    return chances / chances.sum(-1, keepdims=True) @ v


def rotated(x: np.ndarray) -> np.ndarray:
    """Channels i and i + hs/2 of x (B, nh, T, hs) are the real and the imaginary part of a number, which turns with the
    position."""
    T, half = x.shape[2], x.shape[3] // 2
    angles = np.outer(np.arange(T), 10_000 ** (-np.arange(half) / half))  # (T, hs/2)
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)
    return np.concatenate([turned.real, turned.imag], -1)


def reference_logits(weights: dict[str, np.ndarray], config: GPTConfig, idx: np.ndarray) -> np.ndarray:
    """idx (B, T) -> logits (B, T, V)."""

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)

    def norm(x, name):
        of_heads = name.endswith(("q_norm", "k_norm"))
        normalised = rms_norm(x) if config.norm == "rmsnorm" or of_heads else rms_norm(x - x.mean(-1, keepdims=True))
        return normalised * weights[f"{name}.weight"] + weights.get(f"{name}.bias", 0)

    def mlp(x, name):
        hidden = linear(x, f"{name}.c_fc")
        if config.activation == "swiglu":
            gate = linear(x, f"{name}.c_gate")
            hidden = gate / (1 + np.exp(-gate)) * hidden
        else:
            hidden = ACTIVATIONS[config.activation](hidden)
        return linear(hidden, f"{name}.c_proj")

    def attention(x, name):
        B, T, C = x.shape
        q, k, v = linear(x, f"{name}.c_attn").reshape(B, T, 3, -1, config.head_size).transpose(2, 0, 3, 1, 4)
        if config.qk_norm:
            q, k = norm(q, f"{name}.q_norm"), norm(k, f"{name}.k_norm")
        if config.position == "rope":
            q, k = rotated(q), rotated(k)
        y = causal_attention(q, k, v).transpose(0, 2, 1, 3).reshape(B, T, C)
        return linear(y, f"{name}.c_proj")

    x = weights["wte.weight"][idx]
    if config.position == "learned":
        x = x + weights["wpe.weight"][: idx.shape[1]]
    for i in range(config.n_layer):
        x = x + attention(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn")
        x = x + mlp(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp")
    x = norm(x, "ln_f")
    return x @ weights["wte.weight"].T if config.tied else linear(x, "lm_head")


def reference_loss(weights: dict[str, np.ndarray], config: GPTConfig, idx: np.ndarray, targets: np.ndarray) -> float:
    logits = reference_logits(weights, config, idx)
    chosen = np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return np.mean(np.log(np.exp(logits).sum(-1)) - chosen)


def weights_of(model: GPT) -> dict[str, np.ndarray]:
    return {name: array.astype(np.float64) for name, array in arrays(model.parameters()).items()}


# ---- the numbers


@pytest.mark.parametrize("length", [1, 5, CONFIG.block_size])
@pytest.mark.parametrize("head_size", [4, 8, 16])
def test_the_logits_are_those_of_the_formulas(machine, length, head_size):
    config = tiny_gpt(vocab_size=11, head_size=head_size)
    model = lively_model(config)
    machine.prepare(model)
    logits = np.array(model(mx.array(IDX[:, :length])))
    assert logits.shape == (3, length, 11)
    np.testing.assert_allclose(
        logits, reference_logits(weights_of(model), config, IDX[:, :length]), atol=LOGIT_ROUNDING
    )


def test_the_logits_are_those_of_the_formulas_at_the_default_shape():
    model, idx = GPT(GPTConfig()), RNG.integers(65, size=(2, 64))
    expected = reference_logits(weights_of(model), GPTConfig(), idx)
    np.testing.assert_allclose(np.array(model(mx.array(idx))), expected, atol=1e-5)


@each_variant
def test_every_variant_is_that_of_the_formulas(machine, variant):
    config = tiny_gpt(vocab_size=11, **variant)
    model = lively_model(config)
    machine.prepare(model)
    expected = reference_logits(weights_of(model), config, IDX)
    np.testing.assert_allclose(np.array(model(mx.array(IDX))), expected, atol=LOGIT_ROUNDING)


@pytest.mark.parametrize(
    "bias, without",
    [
        ("all", set()),
        ("lecture", {"c_attn"}),
        ("none", {"c_attn", "c_proj", "c_fc", "ln_1", "ln_2", "ln_f", "lm_head"}),
    ],
)
def test_the_layers_without_biases_are_those_that_are_named(bias, without):
    modules = {name: module for name, module in GPT(tiny_gpt(bias=bias)).named_modules() if "weight" in module}
    found = {name.rpartition(".")[2] for name, module in modules.items() if "bias" not in module}
    assert found == without | {"wte", "wpe"}


def test_gpt_2_has_as_many_parameters_as_published():
    shape = {"n_layer": 12, "n_embd": 768, "head_size": 64, "block_size": 1024, "vocab_size": 50257}
    assert GPT(GPTConfig(**shape, bias="all", tied=True, activation="gelu")).num_parameters() == 124_439_808


def test_the_losses_are_the_cross_entropy(machine):
    model = lively_model(CONFIG)
    machine.prepare(model, gpt.make_optimizer(gpt.TrainConfig()))
    expected = reference_loss(weights_of(model), CONFIG, IDX, TARGETS)

    idx, targets = mx.array(IDX), mx.array(TARGETS)
    for loss in (loss_fn(model, idx, targets), model.token_losses(idx, targets).mean(), model.loss(idx, targets)):
        assert loss.item() == pytest.approx(expected, abs=1e-5)


# The default, and models that have a gradient of their own somewhere.
DIFFERENTIATED = {name: tiny_gpt(vocab_size=11, **ARCHITECTURES[name]) for name in ("default", "relu2", "modern")}
each_differentiated = pytest.mark.parametrize("config", DIFFERENTIATED.values(), ids=DIFFERENTIATED)

# A score is a sum of up to 64 terms, at most 20 here. float32 rounds the score and its weight by up to 64 * 2^-24 * 20.
ATTENTION_ROUNDING = 1e-4


@pytest.mark.parametrize("shape", [(2, 3, 8, 4), (1, 1, 1, 64), (2, 2, 8, 64), (2, 2, 9, 64)])
def test_attention_is_the_same_in_all_three_forms(shape):
    """The head size decides: MLX's fused attention (64) or the plain one (4). MLX on a Linux CPU has a third one."""
    q, k, v, cotangent = (mx.random.normal(shape, key=mx.random.key(i)) for i in range(4))

    def results(form) -> list[mx.array]:
        loss = lambda q, k, v: (form(q, k, v, 0.5) * cotangent).sum()
        return [form(q, k, v, 0.5), *mx.grad(loss, argnums=(0, 1, 2))(q, k, v)]

    for a, b in zip(results(CausalAttention()), results(operations.causal_attention), strict=True):
        assert mx.allclose(a, b, rtol=1e-4, atol=ATTENTION_ROUNDING)


@each_architecture
@pytest.mark.parametrize("head_size", [8, 64])
def test_the_next_logits_are_the_last_of_all(machine, head_size, architecture):
    model = lively_model(tiny_gpt(vocab_size=11, n_embd=64, head_size=head_size, **architecture)).eval()
    machine.prepare(model)
    for T in (1, 2, CONFIG.block_size):
        idx = mx.array(IDX[:, :T])
        assert mx.allclose(model.next_logits(idx), model(idx)[:, -1], atol=LOGIT_ROUNDING)


@each_differentiated
def test_the_gradients_are_those_of_finite_differences(machine, config):
    model, eps = lively_model(config), 1e-6
    machine.prepare(model, gpt.make_optimizer(gpt.TrainConfig()))
    _, grads = nn.value_and_grad(model, model.loss)(mx.array(IDX), mx.array(TARGETS))
    weights = weights_of(model)
    for name, gradient in arrays(grads).items():
        gradient = gradient.ravel()
        steepest = np.argsort(-np.abs(gradient))[:3]
        assert np.abs(gradient[steepest]).min() > 1e-3, name  # there is something to compare
        for i in [*steepest, *RNG.integers(gradient.size, size=3)]:
            losses = []
            for step in (eps, -eps):
                moved = weights[name].copy()
                moved.ravel()[i] += step
                losses.append(reference_loss(weights | {name: moved}, config, IDX, TARGETS))
            assert gradient[i] == pytest.approx((losses[0] - losses[1]) / (2 * eps), rel=1e-3, abs=1e-5), name


@pytest.mark.parametrize("head_size", [16, 64])
def test_attention_in_bfloat16_is_as_exact_as_bfloat16(head_size):
    q, k, v = (mx.random.normal((1, 2, 256, head_size), key=mx.random.key(i)) for i in range(3))
    attention = CausalAttention()
    expected = attention(q, k, v, head_size**-0.5)
    rounded = attention(*(x.astype(mx.bfloat16) for x in (q, k, v)), head_size**-0.5).astype(mx.float32)
    # q, k, v, the probabilities and the result are each rounded by at most 2^-9; a bfloat16 sum would be wrong by 0.012
    assert mx.linalg.norm(rounded - expected).item() < 5 * 2**-9 * mx.linalg.norm(expected).item()


# ---- what it may see


@each_differentiated
def test_no_future_token_changes_a_past_logit(machine, config):
    model = lively_model(config)
    machine.prepare(model)
    before = np.array(model(mx.array(IDX)))
    for position in range(1, CONFIG.block_size):
        changed = IDX.copy()
        changed[:, position:] = (changed[:, position:] + 1 + RNG.integers(10, size=changed[:, position:].shape)) % 11
        after = np.array(model(mx.array(changed)))
        np.testing.assert_array_equal(before[:, :position], after[:, :position])
        assert (np.abs(before - after)[:, position:].max(-1) > 1e-3).all()  # and every later one may change


def test_no_sequence_of_a_batch_sees_another(machine):
    model = lively_model(CONFIG)
    machine.prepare(model)
    together = np.array(model(mx.array(IDX)))
    for row, logits in zip(IDX, together):
        np.testing.assert_allclose(np.array(model(mx.array(row[None])))[0], logits, atol=LOGIT_ROUNDING)


def test_a_sequence_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="9 tokens is longer than block_size 8"):
        GPT(CONFIG)(mx.zeros((1, 9), mx.int32))


# ---- the beginning


def test_the_default_model_has_311_361_parameters():
    assert GPT(GPTConfig()).num_parameters() == 311_361


def test_an_untrained_model_is_as_good_as_a_guess():
    tokens = mx.array(RNG.integers(65, size=(2, 16, 64)))
    assert loss_fn(GPT(GPTConfig()), *tokens).item() == pytest.approx(math.log(65), abs=0.05)


def test_the_initial_weights_are_gpt_2s():
    config = GPTConfig(n_layer=2)
    for name, array in arrays(GPT(config).parameters()).items():
        if array.ndim == 1:
            assert (array == (".ln_" in f".{name}" and name.endswith("weight"))).all(), name
        else:
            std = 0.02 / math.sqrt(2 * config.n_layer) if "c_proj" in name else 0.02
            assert array.std() == pytest.approx(std, rel=0.1) and abs(array.mean()) < std / 10, name


@pytest.mark.parametrize("tied", [False, True])
def test_blocks_that_start_at_zero_start_as_the_identity(tied):
    changes = {"n_layer": 2, "init": "zero", "tied": tied, **MODERN}
    for name, array in arrays(GPT(GPTConfig(**changes)).parameters()).items():
        assert (array == 0).all() == name.endswith(("c_proj.weight", "lm_head.weight")), name


def test_the_modern_model_has_about_as_many_parameters_as_the_default():
    assert GPT(GPTConfig(**MODERN)).num_parameters() == 310_400


def test_the_seed_chooses_the_initial_weights():
    def weights(seed):
        mx.random.seed(seed)
        return np.array(GPT(CONFIG).wte.weight)

    assert (weights(1) == weights(1)).all() and (weights(1) != weights(2)).any()


def test_dropout_drops_while_training_and_only_then():
    model = lively_model(tiny_gpt(vocab_size=11, dropout=0.5))
    idx = mx.array(IDX)
    assert (np.array(model(idx)) != np.array(model(idx))).any()
    model.eval()
    np.testing.assert_allclose(
        np.array(model(idx)), reference_logits(weights_of(model), CONFIG, IDX), atol=LOGIT_ROUNDING
    )


def test_models_that_are_gone_leave_no_graph_behind():
    mx.random.seed(0)
    GPT(tiny_gpt())
    mx.export_to_dot("graph", mx.random.state[0])
    assert "[label" not in Path("graph").read_text()  # as an operation is drawn
