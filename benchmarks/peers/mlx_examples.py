"""MLX as its own examples write a language model: `nn.TransformerEncoder` behind an additive causal mask."""

import mlx_nanogpt  # noqa: F401  before mlx.core: it loads the BLAS
import mlx.core as mx
import mlx.nn as nn

from . import Peer, Settings, mlx_loop

WRITES_TO_RESIDUAL = ("attention.out_proj", "linear2")


class TransformerLM(nn.Module):
    def __init__(self, settings: Settings):
        super().__init__()
        self.embedding = nn.Embedding(settings.vocab_size, settings.n_embd)
        self.position = nn.Embedding(settings.block_size, settings.n_embd)
        self.transformer = nn.TransformerEncoder(settings.n_layer, settings.n_embd, settings.n_head)
        for layer in self.transformer.layers:  # MLX's attention has no biases; the lecture's projection has one
            layer.attention.out_proj = nn.Linear(settings.n_embd, settings.n_embd)
        self.out_proj = nn.Linear(settings.n_embd, settings.vocab_size)

    def __call__(self, idx: mx.array) -> mx.array:
        T = idx.shape[1]
        mask = nn.MultiHeadAttention.create_additive_causal_mask(T)
        x = self.embedding(idx) + self.position(mx.arange(T))  # (B, T, C)
        return self.out_proj(self.transformer(x, mask))


def make(settings: Settings) -> Peer:
    mx.random.seed(settings.seed)
    model = TransformerLM(settings)
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            std = settings.residual_std if name.endswith(WRITES_TO_RESIDUAL) else settings.init_std
            module.weight = mx.random.normal(module.weight.shape, scale=std)
        if isinstance(module, nn.Linear) and "bias" in module:
            module.bias = mx.zeros_like(module.bias)
    return mlx_loop.make_peer(model, settings)
