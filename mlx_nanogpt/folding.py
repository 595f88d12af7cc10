"""A model to be read, not trained, in fewer operations: for MLX's CPU backend on Linux and models so small that it counts.

A LayerNorm subtracts the mean, divides by the deviation, multiplies by a weight and adds a bias. Only LayerNorms read the
residual stream, so whatever writes to it may be centred beforehand, and there is no mean to subtract. Weight and bias go
into the linear layer that follows. What stays to be computed is one factor for each token.
"""

import copy
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn

from . import cpu, cpu_ops
from .model import GPT


class Scale(nn.Module):
    """What is left of a LayerNorm: (N, C), of mean 0 -> (N, C), of variance 1."""

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        C = x.shape[-1]
        variance = mx.square(x) @ cpu_ops.constant((C, 1), 1 / C)  # (N, 1)
        return x * cpu_ops.spread(mx.rsqrt(variance + self.eps), x.shape)


class Affine(nn.Module):
    """A linear layer, (N, I) -> (N, O), whose `weight` is (I, O)."""

    def __init__(self, weight: mx.array, bias: mx.array | None):
        super().__init__()
        self.weight = mx.contiguous(weight)  # OpenBLAS has faster forms of small products without a transpose
        if bias is not None:
            self.bias = bias

    def __call__(self, x: mx.array) -> mx.array:
        y = x @ self.weight  # (N, O)
        return cpu_ops.unfused(y + cpu_ops.spread(self.bias, y.shape)) if "bias" in self else y


def for_reading(model: GPT) -> GPT:
    """`model` in the form in which it is evaluated and generates: folded where that is faster, else as it is."""
    return folded(model) if cpu.dispatch_bound(model.num_parameters()) else model


def folded(model: GPT) -> GPT:
    """A model of the same function, up to rounding, made of the weights that `model` has now. It is not for training."""
    reader = copy.deepcopy(model)
    if model.config.tied:  # the embedding is centred, the head is not
        reader.config = replace(model.config, tied=False)
    head = model.wte if model.config.tied else model.lm_head
    reader.wte.weight, reader.wpe.weight = _centred(model.wte.weight), _centred(model.wpe.weight)
    for block in reader.h:
        block.attn.c_attn, block.ln_1 = _absorb(block.ln_1, block.attn.c_attn)
        block.mlp.c_fc, block.ln_2 = _absorb(block.ln_2, block.mlp.c_fc)
        block.attn.c_proj, block.mlp.c_proj = _writer(block.attn.c_proj), _writer(block.mlp.c_proj)
    reader.lm_head, reader.ln_f = _absorb(model.ln_f, head)
    return reader.eval()


def _absorb(norm: nn.LayerNorm, layer: nn.Linear | nn.Embedding) -> tuple[Affine, Scale]:
    """`layer` with the weight and the bias of the LayerNorm before it, and what then stays of that."""
    bias = layer.get("bias")
    if "bias" in norm:
        shift = layer.weight @ norm.bias  # (O,)
        bias = shift if bias is None else bias + shift
    return Affine((layer.weight * norm.weight).T, bias), Scale(norm.eps)


def _writer(layer: nn.Linear) -> Affine:
    """`layer` with its output centred."""
    return Affine(_centred(layer.weight.T), _centred(layer.bias) if "bias" in layer else None)


def _centred(x: mx.array) -> mx.array:
    return x - x.mean(axis=-1, keepdims=True)
