"""The layers of a GPT in the forms that MLX's CPU backend on Linux computes fastest; `use_own` puts them into a model.

Between embedding and head, all tokens are rows of one matrix, (B*T, C). Only attention needs the sequences. With
(B, T, C) MLX would flatten and unflatten around every other layer. In bfloat16 the layers compute as MLX's own do.
"""

from itertools import repeat

import mlx.core as mx
import mlx.nn as nn

from ... import model as plain
from ...model import LayerCache
from . import operations


class Linear(nn.Linear):
    """(N, I) -> (N, O)."""

    def __call__(self, x: mx.array) -> mx.array:
        # outside training, MLX's own layer is faster for a large model
        if self.training and x.dtype == mx.float32:
            return operations.linear(x, self.weight, self.get("bias"))
        return super().__call__(x)


class LayerNorm(nn.LayerNorm):
    """(N, C) -> (N, C)."""

    def __call__(self, x: mx.array) -> mx.array:
        if x.dtype == mx.float32:
            return operations.layer_norm(x, self.weight, self.get("bias"), self.eps)
        return super().__call__(x)


class RMSNorm(nn.RMSNorm):
    """(..., C) -> (..., C)."""

    def __call__(self, x: mx.array) -> mx.array:
        if x.dtype == mx.float32:
            return operations.rms_norm(x.reshape(-1, x.shape[-1]), self.weight, self.eps).reshape(x.shape)
        return super().__call__(x)


class RoPE(nn.RoPE):
    """(B, nh, T, hs) -> (B, nh, T, hs)."""

    def __call__(self, x: mx.array, offset: int | mx.array = 0) -> mx.array:
        if x.dtype == mx.float32 and type(offset) is int and offset == 0:
            return operations.rope(x, self.base)
        return super().__call__(x, offset)


class ReLU(nn.ReLU):
    def __call__(self, x: mx.array) -> mx.array:
        return operations.relu(x) if x.dtype == mx.float32 else super().__call__(x)


class GELU(nn.GELU):
    def __call__(self, x: mx.array) -> mx.array:
        return operations.gelu(x) if x.dtype == mx.float32 else super().__call__(x)


class ReLU2(nn.ReLU2):
    def __call__(self, x: mx.array) -> mx.array:
        return operations.relu2(x) if x.dtype == mx.float32 else super().__call__(x)


class SwiGLU(plain.SwiGLU):
    def __call__(self, gate: mx.array, x: mx.array) -> mx.array:
        return operations.swiglu(gate, x) if x.dtype == mx.float32 else super().__call__(gate, x)


class Attention(plain.Attention):
    def __call__(  # type: ignore[override]  # the rows do not show T
        self,
        x: mx.array,
        T: int,
        cache: LayerCache | None = None,
        mask: mx.array | None = None,
        last_only: bool = False,
    ) -> mx.array:
        """(B*T, C) -> (B*T, C); or, with `last_only`, (B, C): the output for the last token of each sequence."""
        C = x.shape[-1]
        heads = self.c_attn(x).reshape(-1, T, 3 * self.n_head, C // self.n_head).swapaxes(1, 2)  # (B, 3 nh, T, hs)
        q, k, v = mx.split(heads, 3, axis=1)  # 3 x (B, nh, T, hs)
        q, k = self.located(q, k, cache)
        if last_only:
            q = q[:, :, -1:]  # (B, nh, 1, hs)
            mask = None if mask is None else mask[-1:]
        if cache is not None:
            k, v = cache.write(k, v)  # 2 x (B, nh, block_size, hs)
            y = plain.attention(q, k, v, self.scale, mask)
        elif q.dtype == mx.float32:
            y = operations.causal_attention(q, k, v, self.scale)
        else:
            y = plain.attention(q, k, v, self.scale)
        y = y.swapaxes(1, 2).reshape(-1, C)  # (B*T, C), or (B, C)
        return self.dropout(self.c_proj(y))

    def located(self, q: mx.array, k: mx.array, cache: LayerCache | None) -> tuple[mx.array, mx.array]:
        """As in the plain model. After the tokens of a cache, angles are looked up: MLX would compute them for q and for k."""
        if "rope" not in self or cache is None or q.dtype != mx.float32:
            return super().located(q, k, cache)
        if "q_norm" in self:
            q, k = self.q_norm(q), self.k_norm(k)
        tables = operations.angles(cache.block_size, q.shape[3], self.rope.base)
        cos, sin = (
            mx.slice(table, cache.length[None], axes=(0,), slice_size=q.shape[2:]) for table in tables
        )  # (T, hs)
        return operations.turned(q, cos, sin), operations.turned(k, cos, sin)


class Block(plain.Block):
    attn: Attention

    def __call__(  # type: ignore[override]
        self,
        x: mx.array,
        T: int,
        cache: LayerCache | None = None,
        mask: mx.array | None = None,
        last_only: bool = False,
    ) -> mx.array:
        """(B*T, C) -> (B*T, C); or, with `last_only`, (B, C): the output for the last token of each sequence."""
        y = self.attn(self.ln_1(x), T, cache, mask, last_only)
        if last_only:
            x = x.reshape(-1, T, x.shape[-1])[:, -1]  # (B, C)
        x = x + y
        return x + self.mlp(self.ln_2(x))


class GPT(plain.GPT):
    h: list[Block]

    def __call__(self, idx: mx.array) -> mx.array:
        return self.logits(self._rows(idx)).reshape(*idx.shape, -1)  # (B, T, vocab_size)

    def next_logits(self, idx: mx.array, cache: list[LayerCache] | None = None) -> mx.array:
        return self.logits(self._rows(idx, cache, last_only=True))  # (B, vocab_size)

    def _rows(self, idx: mx.array, cache: list[LayerCache] | None = None, last_only: bool = False) -> mx.array:
        """`idx` (B, T) -> (B*T, C); or, with `last_only`, (B, C): the last block then computes only the last tokens."""
        x = self.embed(idx, cache).reshape(-1, self.config.n_embd)  # (B*T, C)
        mask = cache and cache[0].mask(idx.shape[1])
        for block, layer_cache in zip(self.h, cache or repeat(None)):
            x = block(x, idx.shape[1], layer_cache, mask, last_only and block is self.h[-1])
        plain.advance(cache, idx.shape[1])
        return x


OWN = {
    nn.Linear: Linear,
    nn.LayerNorm: LayerNorm,
    nn.RMSNorm: RMSNorm,
    nn.RoPE: RoPE,
    nn.ReLU: ReLU,
    nn.GELU: GELU,
    nn.ReLU2: ReLU2,
    plain.SwiGLU: SwiGLU,
    plain.Attention: Attention,
    plain.Block: Block,
    plain.GPT: GPT,
}


def use_own(model: nn.Module) -> None:
    """Give every layer of `model` its class in `OWN`, in place, as `nn.quantize` does. Arrays, names and mode stay.

    A model of another class stays as it is: it would not know that these blocks take rows.
    """
    if type(model) is plain.GPT:
        for module in model.modules():
            if own := OWN.get(type(module)):
                module.__class__ = own
