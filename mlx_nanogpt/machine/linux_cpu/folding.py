"""A small model with fewer operations, for generation on MLX's CPU backend on Linux. It cannot be trained.

A LayerNorm subtracts the mean, divides by the deviation, multiplies by a weight and adds a bias. Only LayerNorms read the
residual stream. So all layers that write to it are centred beforehand, and the mean is always 0. Weight and bias move into
the next linear layer. Only the division is left. An RMSNorm subtracts no mean, so its model is folded without the centring.

This assumes the Block of `model.py` as it came. So each folded model proves itself against the plain one before it is used.
"""

import copy
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ...model import GPT, MLP, Attention, Block
from . import operations
from .layers import OWN, LayerNorm, Linear, RMSNorm

FOLDABLE = {*OWN.values(), nn.ReLU2, GPT, Block, Attention, MLP, nn.Embedding, nn.Dropout}
SMALL_MODEL = 4_000_000  # parameters
PROBED_TOKENS = 64
ROUNDING = 1e-3  # of the largest logit; a model that is not the same differs by more


class Scale(nn.Module):
    """A norm without mean, weight and bias: x (..., C) -> x over its root mean square (..., C)."""

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        return operations.unit_variance(x, self.eps)[0]


class Affine(nn.Module):
    """A linear layer, (B, T, I) -> (B, T, O) or (B, I) -> (B, O), with a contiguous copy of `weight` (I, O)."""

    def __init__(self, weight: mx.array, bias: mx.array | None):
        super().__init__()
        self.weight = mx.contiguous(weight)  # OpenBLAS has faster forms of small products without a transpose
        self.weights = self.weight[None]  # (1, I, O): with as many dimensions as x, MLX flattens nothing
        if bias is not None:
            self.bias = bias

    def __call__(self, x: mx.array) -> mx.array:
        y = x @ (self.weights if len(x) == 1 and x.ndim == 3 else self.weight)
        return operations.unfused(y + operations.broadcast_view(self.bias, y.shape)) if "bias" in self else y


def is_small(model: nn.Module) -> bool:
    """Whether handing over the operations of a model takes about as long as computing them."""
    return sum(array.size for _, array in tree_flatten(model.parameters())) <= SMALL_MODEL


def fold_if_same(model: GPT) -> GPT:
    """A folded copy of `model`, which is in evaluation mode, if it computes the same; else `model` itself."""
    if any(array.dtype != mx.float32 for _, array in tree_flatten(model.parameters())):
        return model
    if not {type(module) for module in model.modules()} <= FOLDABLE:  # quantised, for example
        return model
    idx = mx.arange(min(model.config.block_size, PROBED_TOKENS))[None] % model.config.vocab_size  # (1, T)
    try:
        folded, plain = fold(model), model(idx)
        same = mx.abs(folded(idx) - plain).max() <= ROUNDING * mx.abs(plain).max()
    except (AttributeError, KeyError, TypeError, ValueError):  # somebody edited the Block
        return model
    return folded if same else model


def fold(model: GPT) -> GPT:
    """A model that computes the same up to rounding, from the weights that `model` has now."""
    result = copy.deepcopy(model)
    if model.config.tied:  # the embedding is centred, the head is not
        result.config = replace(model.config, tied=False)
    head = model.wte if model.config.tied else model.lm_head
    centre = _centre if model.config.norm == "layernorm" else _unchanged
    for embedding in ("wte", "wpe"):
        if embedding in result:
            result[embedding].weight = centre(model[embedding].weight)
    for block in result.h:
        attn, mlp = block.attn, block.mlp
        attn.c_attn = _absorb(block.ln_1, attn.c_attn)
        mlp.c_fc = _absorb(block.ln_2, mlp.c_fc)
        if "c_gate" in mlp:
            mlp.c_gate = _absorb(block.ln_2, mlp.c_gate)
        for part in (attn, mlp):
            bias = part.c_proj.get("bias")
            part.c_proj = Affine(centre(part.c_proj.weight.T), None if bias is None else centre(bias))
        block.ln_1, block.ln_2 = Scale(block.ln_1.eps), Scale(block.ln_2.eps)
    result.lm_head, result.ln_f = _absorb(model.ln_f, head), Scale(model.ln_f.eps)
    return result.eval()


def _absorb(norm: LayerNorm | RMSNorm, layer: Linear | nn.Embedding) -> Affine:
    """`layer`, which takes over the weight and the bias of the norm before it."""
    bias = layer.get("bias")
    if "bias" in norm:
        shift = layer.weight @ norm.bias  # (O,)
        bias = shift if bias is None else bias + shift
    return Affine((layer.weight * norm.weight).T, bias)


def _unchanged(x: mx.array) -> mx.array:
    return x


def _centre(x: mx.array) -> mx.array:
    return x - x.mean(axis=-1, keepdims=True)
