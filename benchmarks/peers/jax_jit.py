"""JAX: pure functions of a tree of parameters, one jitted step through XLA, as NanoLux's Reactant goes."""

from functools import partial

import jax
import jax.numpy as jnp

from . import Batch, EvaluationSet, Peer, Settings

BETA_1, BETA_2, EPS = 0.9, 0.999, 1e-8  # Adam's, as in its paper
LAYER_NORM_EPS = 1e-5

Params = dict


def init_params(key: jax.Array, settings: Settings) -> Params:
    C = settings.n_embd
    keys = iter(jax.random.split(key, 3 + 4 * settings.n_layer))

    def normal(*shape: int, std: float = settings.init_std) -> jax.Array:
        return std * jax.random.normal(next(keys), shape)

    def layer_norm() -> Params:
        return {"weight": jnp.ones(C), "bias": jnp.zeros(C)}

    def block() -> Params:
        return {
            "ln_1": layer_norm(),
            "c_attn": {"weight": normal(C, 3 * C)},
            "attn_proj": {"weight": normal(C, C, std=settings.residual_std), "bias": jnp.zeros(C)},
            "ln_2": layer_norm(),
            "c_fc": {"weight": normal(C, 4 * C), "bias": jnp.zeros(4 * C)},
            "mlp_proj": {"weight": normal(4 * C, C, std=settings.residual_std), "bias": jnp.zeros(C)},
        }

    return {
        "wte": normal(settings.vocab_size, C),
        "wpe": normal(settings.block_size, C),
        "h": [block() for _ in range(settings.n_layer)],
        "ln_f": layer_norm(),
        "lm_head": {"weight": normal(C, settings.vocab_size), "bias": jnp.zeros(settings.vocab_size)},
    }


def linear(p: Params, x: jax.Array) -> jax.Array:
    return x @ p["weight"] + p["bias"]


def layer_norm(p: Params, x: jax.Array) -> jax.Array:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + LAYER_NORM_EPS) * p["weight"] + p["bias"]


def attention(p: Params, x: jax.Array, n_head: int) -> jax.Array:
    B, T, C = x.shape
    q, k, v = jnp.split((x @ p["c_attn"]["weight"]).reshape(B, T, 3 * n_head, -1), 3, axis=2)  # 3 x (B, T, nh, hs)
    y = jax.nn.dot_product_attention(q, k, v, is_causal=True)  # (B, T, nh, hs)
    return linear(p["attn_proj"], y.reshape(B, T, C))


def forward(params: Params, idx: jax.Array, n_head: int) -> jax.Array:
    """Token ids (B, T) to logits (B, T, vocab_size)."""
    x = params["wte"][idx] + params["wpe"][: idx.shape[1]]  # (B, T, C)
    for p in params["h"]:
        x = x + attention(p, layer_norm(p["ln_1"], x), n_head)
        x = x + linear(p["mlp_proj"], jax.nn.relu(linear(p["c_fc"], layer_norm(p["ln_2"], x))))
    return linear(params["lm_head"], layer_norm(params["ln_f"], x))


def loss_fn(params: Params, idx: jax.Array, targets: jax.Array, n_head: int) -> jax.Array:
    log_probs = jax.nn.log_softmax(forward(params, idx, n_head))  # (B, T, vocab_size)
    return -jnp.take_along_axis(log_probs, targets[..., None], axis=-1).mean()


def adam(params: Params, grads: Params, state: Params, learning_rate: float) -> tuple[Params, Params]:
    count = state["count"] + 1
    m = jax.tree.map(lambda m, g: BETA_1 * m + (1 - BETA_1) * g, state["m"], grads)
    v = jax.tree.map(lambda v, g: BETA_2 * v + (1 - BETA_2) * g * g, state["v"], grads)
    unbias_m, unbias_v = 1 / (1 - BETA_1**count), 1 / (1 - BETA_2**count)

    def update(p: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
        return p - learning_rate * (m * unbias_m) / (jnp.sqrt(v * unbias_v) + EPS)

    return jax.tree.map(update, params, m, v), {"count": count, "m": m, "v": v}


def make(settings: Settings) -> Peer:
    params = init_params(jax.random.key(settings.seed), settings)
    zeros = partial(jax.tree.map, jnp.zeros_like)
    state = {"count": jnp.zeros((), jnp.int32), "m": zeros(params), "v": zeros(params)}
    loss_of = partial(loss_fn, n_head=settings.n_head)
    num_parameters = sum(p.size for p in jax.tree.leaves(params))

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Params, state: Params, idx: jax.Array, targets: jax.Array) -> tuple[Params, Params, jax.Array]:
        loss, grads = jax.value_and_grad(loss_of)(params, idx, targets)
        return *adam(params, grads, state, settings.learning_rate), loss

    jitted_loss = jax.jit(loss_of)

    def train(batches: list[Batch]) -> list[float]:
        nonlocal params, state
        losses = []
        for batch in batches:
            params, state, loss = step(params, state, *map(jnp.asarray, batch))
            losses.append(loss)
        jax.block_until_ready((params, state))
        return [loss.item() for loss in losses]

    def evaluate(data: EvaluationSet) -> float:
        losses = [jitted_loss(params, *map(jnp.asarray, batch)) for batch in data.batches]
        return jnp.stack(losses).mean().item()

    return Peer(jax.default_backend(), num_parameters, train, evaluate)
