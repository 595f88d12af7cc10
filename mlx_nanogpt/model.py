"""The GPT of the lecture "Let's build GPT" and of nanoGPT, under GPT-2's names.

What stands here is what runs, on every machine: a machine may only replace leaves, the layers with no other layer inside.
Shapes: B sequences, T tokens, C = n_embd channels, nh heads of hs channels.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .config import GPTConfig
from .errors import UserError
from .layers import CausalAttention, CrossEntropy, SwiGLU

INIT_STD = 0.02  # GPT-2's and the lecture's
ROPE_BASE = 10_000  # of the wavelengths, as in its paper (Su et al. 2021)


class GPT(nn.Module):
    """Token ids to the logits of the next token."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        if config.position == "learned":
            self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.h = [Block(config) for _ in range(config.n_layer)]
        self.ln_f = make_norm(config)
        if not config.tied:
            self.lm_head = nn.Linear(config.n_embd, config.vocab_size, config.bias != "none")
        self.cross_entropy = CrossEntropy()
        self.init_weights()
        mx.eval(mx.random.state)  # else it keeps the graphs of all earlier draws

    def __call__(self, idx: mx.array) -> mx.array:
        """`idx` (B, T), integers, T <= block_size -> logits (B, T, vocab_size).

        Raises `ValueError` for a longer sequence: MLX would read past the end of a position table.
        """
        return self.logits(self.blocks(idx))

    def loss(self, idx: mx.array, targets: mx.array) -> mx.array:
        """The number that training makes smaller: the mean of `token_losses`."""
        return self.token_losses(idx, targets).mean()

    def token_losses(self, idx: mx.array, targets: mx.array) -> mx.array:
        """Cross-entropy, in nats, of each of `targets` (B, T) after `idx` (B, T): (B, T), float32."""
        return self.cross_entropy(self(idx), targets)

    def next_logits(self, idx: mx.array, cache: Cache | None = None) -> mx.array:
        """The logits (B, vocab_size) of the token after `idx` (B, T), which follows the tokens in `cache`."""
        return self.logits(self.blocks(idx, cache)[:, -1])

    def blocks(self, idx: mx.array, cache: Cache | None = None) -> mx.array:
        """The output of the last block: `idx` (B, T), after the tokens in `cache` -> (B, T, C)."""
        x = self.embed(idx, cache)
        if cache is None:
            for block in self.h:
                x = block(x)
            return x
        mask = cache.mask(idx.shape[1])
        for block, layer_cache in zip(self.h, cache.layers):
            x = block(x, layer_cache, mask)
        cache.advance(idx.shape[1])
        return x

    def embed(self, idx: mx.array, cache: Cache | None = None) -> mx.array:
        """Vectors of tokens, and of positions if they are learned: `idx` (B, T), after the tokens in `cache` -> (B, T, C)."""
        T = idx.shape[1]
        if T > self.config.block_size:
            raise ValueError(f"a sequence of {T} tokens is longer than block_size {self.config.block_size}")
        x = self.wte(idx)  # (B, T, C)
        if "wpe" in self:
            wpe = self.wpe.weight
            x = x + (wpe[:T] if cache is None else mx.slice(wpe, cache.length, [0], x.shape[1:]))  # + (T, C)
        return self.drop(x)

    def logits(self, x: mx.array) -> mx.array:
        """The output of the last block (..., C) -> logits (..., vocab_size)."""
        x = self.ln_f(x)
        return self.wte.as_linear(x) if self.config.tied else self.lm_head(x)

    def num_parameters(self) -> int:
        """The number of trained numbers."""
        return sum(p.size for _, p in tree_flatten(self.trainable_parameters()))

    def init_weights(self) -> None:
        """Draw new weights: N(0, 0.02), biases zero. Layers that write to the residual stream start smaller, by sqrt(2 * n_layer), as in GPT-2.

        With `init` zero, these layers and the head start at 0, so that each block begins as the identity. The embedding is
        then N(0, 1), unless it is also the head.
        """
        residual, embedding, head = INIT_STD / math.sqrt(2 * self.config.n_layer), INIT_STD, INIT_STD
        if self.config.init == "zero":
            residual, embedding, head = 0.0, INIT_STD if self.config.tied else 1.0, 0.0
        stds = {"c_proj": residual, "wte": embedding, "lm_head": head}
        for name, module in self.named_modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                std = stds.get(name.rpartition(".")[2], INIT_STD)
                module.weight = nn.init.normal(std=std)(module.weight)
            if isinstance(module, nn.Linear) and "bias" in module:
                module.bias = mx.zeros_like(module.bias)


class Block(nn.Module):
    """Communication, then computation, each added to the residual stream (pre-norm)."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.ln_1 = make_norm(config)
        self.attn = Attention(config)
        self.ln_2 = make_norm(config)
        self.mlp = MLP(config)

    def __call__(self, x: mx.array, cache: LayerCache | None = None, mask: mx.array | None = None) -> mx.array:
        x = x + self.attn(self.ln_1(x), cache, mask)
        return x + self.mlp(self.ln_2(x))


class Attention(nn.Module):
    """Causal self-attention with all heads in one projection."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.n_head = config.n_head
        self.scale = config.head_size**-0.5
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias == "all")
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias != "none")
        if config.qk_norm:
            self.q_norm, self.k_norm = nn.RMSNorm(config.head_size), nn.RMSNorm(config.head_size)
        if config.position == "rope":
            self.rope = nn.RoPE(config.head_size, base=ROPE_BASE)
        self.attention = CausalAttention()
        self.dropout = nn.Dropout(config.dropout)

    def __call__(self, x: mx.array, cache: LayerCache | None = None, mask: mx.array | None = None) -> mx.array:
        """(B, T, C) -> (B, T, C). With a cache, `mask` (T, block_size) decides which of its keys each token sees."""
        B, T, C = x.shape
        heads = self.c_attn(x).reshape(B, T, 3 * self.n_head, C // self.n_head)  # (B, T, 3 nh, hs)
        # split first: the gradient then joins the parts in the order in which c_attn reads them
        q, k, v = (part.swapaxes(1, 2) for part in mx.split(heads, 3, axis=2))  # 3 x (B, nh, T, hs)
        q, k = self.locate(q, k, cache)
        if cache is not None:
            k, v = cache.write(mx.concatenate([k, v], axis=1))  # (B, 2 nh, T, hs) -> 2 x (B, nh, block_size, hs)
        y = self.attention(q, k, v, self.scale, mask).swapaxes(1, 2).reshape(B, T, C)
        return self.dropout(self.c_proj(y))

    def locate(self, q: mx.array, k: mx.array, cache: LayerCache | None = None) -> tuple[mx.array, mx.array]:
        """Queries and keys (B, nh, T, hs): normalised, and rotated to their positions, where the model does that."""
        if "q_norm" in self:
            q, k = self.q_norm(q), self.k_norm(k)
        if "rope" in self:
            offset = 0 if cache is None else cache.length
            q, k = self.rope(q, offset), self.rope(k, offset)
        return q, k


class MLP(nn.Module):
    """Two layers, wider inside. The activation `swiglu` has a third one, the gate (Shazeer 2020)."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        width, bias = config.mlp_width, config.bias != "none"
        self.c_fc = nn.Linear(config.n_embd, width, bias)
        if config.activation == "swiglu":
            self.c_gate = nn.Linear(config.n_embd, width, bias)
        self.activation = ACTIVATIONS[config.activation]()
        self.c_proj = nn.Linear(width, config.n_embd, bias)
        self.dropout = nn.Dropout(config.dropout)

    def __call__(self, x: mx.array) -> mx.array:
        inside = self.c_fc(x)
        y = self.activation(self.c_gate(x), inside) if "c_gate" in self else self.activation(inside)
        return self.dropout(self.c_proj(y))


ACTIVATIONS = {"relu": nn.ReLU, "gelu": partial(nn.GELU, "tanh"), "relu2": nn.ReLU2, "swiglu": SwiGLU}


def make_norm(config: GPTConfig) -> nn.Module:
    """A LayerNorm, or an RMSNorm (Zhang & Sennrich 2019), which subtracts no mean and has no bias."""
    if config.norm == "rmsnorm":
        return nn.RMSNorm(config.n_embd)
    return nn.LayerNorm(config.n_embd, bias=config.bias != "none")


class Cache:
    """The keys and values of all layers for the tokens seen so far, so that generation computes them once.

    The arrays have their full size from the start, (2, B, nh, block_size, hs): a growing shape would be compiled anew for
    every token. A compiled function captures them, `state`, and is given `length`, the number of tokens. Nothing checks that
    the tokens fit.
    """

    def __init__(self, model: GPT, batch_size: int = 1):
        config = model.config
        shape = (2, batch_size, config.n_head, config.block_size, config.head_size)
        self.state, self.length = [mx.zeros(shape) for _ in model.h], mx.array(0)
        self.places = mx.arange(config.block_size)
        mx.eval(self.places)  # as an operation of a traced graph it would be computed for every token

    @property
    def layers(self) -> list[LayerCache]:
        return [LayerCache(self, layer) for layer in range(len(self.state))]

    def mask(self, T: int) -> mx.array:
        """(T, block_size), added to the scores of the next T tokens: 0 where a token sees a key, minus infinity elsewhere."""
        seen = self.places <= self.length + self.places[:T, None]
        return mx.where(seen, 0.0, -math.inf)

    def advance(self, T: int) -> None:
        """Count T more tokens."""
        self.length = self.length + T


class LayerCache:
    """The part of a `Cache` that one layer reads and writes. `length` counts the tokens before the new ones."""

    def __init__(self, cache: Cache, layer: int):
        self.state, self.layer, self.length = cache.state, layer, cache.length

    def write(self, kv: mx.array) -> mx.array:
        """Put keys and values `kv` (B, 2 nh, T, hs) behind the tokens seen so far; return all, (2, B, nh, block_size, hs)."""
        kv = mx.unflatten(kv, 1, (2, -1)).swapaxes(0, 1)  # (2, B, nh, T, hs)
        self.state[self.layer] = mx.slice_update(self.state[self.layer], kv, self.length, axes=[3])
        return self.state[self.layer]


def adapt(model: GPT, **changes) -> GPT:
    """A model with the same weights and `changes` to its configuration: another `dropout`, or a smaller `block_size`,
    for which a position table is cropped (nanoGPT's `crop_block_size`). Other fields may be named if they stay.

    Raises `UserError` for any other change.
    """
    for name, value in changes.items():
        own = getattr(model.config, name)
        if value != own and name != "dropout" and not (name == "block_size" and value < own):
            remedy = "choose a smaller one" if name == "block_size" else "leave the option out"
            raise UserError(f"the model to start from has {name} {own}, which cannot become {value}", remedy)
    config = replace(model.config, **changes)
    changed = GPT(config)
    changed.update(model.parameters())
    if "wpe" in model:
        changed.wpe.weight = model.wpe.weight[: config.block_size]  # (block_size, C)
    return changed


def own_class(model: GPT) -> str | None:
    """The first class in `model` that a GPT of its configuration lacks, for example a block of the user's own, or the name of the
    first part that differs; None if `model` is a plain GPT, also with the leaves of a machine."""
    key = random_key()
    plain = dict(GPT(model.config).named_modules())
    set_random_key(key)
    own = dict(model.named_modules())
    for name in sorted(own.keys() | plain.keys(), key=lambda name: (name.count("."), name)):
        if name not in own or name not in plain:
            return f"{type(own.get(name, plain.get(name))).__qualname__} ({name})"
        kind, plain_kind = type(own[name]), type(plain[name])
        is_ours = kind.__module__.partition(".")[0] == __package__ and plain_kind in kind.__bases__
        if kind is not plain_kind and not is_ours:
            return kind.__qualname__
        if _settings(own[name]) != _settings(plain[name]):
            return f"{kind.__qualname__} ({name})"
    return None


def _settings(module: nn.Module) -> dict:
    """The attributes of a module that are not arrays or modules, and that no machine changes."""
    return {name: value for name, value in vars(module).items() if not (name.startswith("_") or type(value) is partial)}


def random_key() -> mx.array:
    """MLX's random state, from which weights and dropout are drawn: (2,), uint32."""
    return mx.random.state[0]


def set_random_key(key: mx.array) -> None:
    """Restore a `random_key`. MLX's own list cannot be assigned."""
    high, low = key.tolist()
    mx.random.seed(high << 32 | low)
