"""PyTorch as the lecture "Let's build GPT" writes it: one head at a time, every step of attention in the open."""

import torch
from torch import nn
from torch.nn import functional as F

from . import Peer, Settings, torch_loop


class Head(nn.Module):
    def __init__(self, settings: Settings):
        super().__init__()
        self.key = nn.Linear(settings.n_embd, settings.head_size, bias=False)
        self.query = nn.Linear(settings.n_embd, settings.head_size, bias=False)
        self.value = nn.Linear(settings.n_embd, settings.head_size, bias=False)
        self.register_buffer("tril", torch.tril(torch.ones(settings.block_size, settings.block_size)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        T = x.shape[1]
        k, q, v = self.key(x), self.query(x), self.value(x)  # 3 x (B, T, hs)
        weights = q @ k.transpose(-2, -1) * k.shape[-1] ** -0.5  # (B, T, T)
        weights = weights.masked_fill(self.tril[:T, :T] == 0, float("-inf"))
        return F.softmax(weights, dim=-1) @ v  # (B, T, hs)


class MultiHeadAttention(nn.Module):
    def __init__(self, settings: Settings):
        super().__init__()
        self.heads = nn.ModuleList(Head(settings) for _ in range(settings.n_head))
        self.c_proj = nn.Linear(settings.n_embd, settings.n_embd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c_proj(torch.cat([head(x) for head in self.heads], dim=-1))


class MLP(nn.Module):
    def __init__(self, settings: Settings):
        super().__init__()
        self.c_fc = nn.Linear(settings.n_embd, 4 * settings.n_embd)
        self.c_proj = nn.Linear(4 * settings.n_embd, settings.n_embd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c_proj(F.relu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, settings: Settings):
        super().__init__()
        self.ln_1 = nn.LayerNorm(settings.n_embd)
        self.attn = MultiHeadAttention(settings)
        self.ln_2 = nn.LayerNorm(settings.n_embd)
        self.mlp = MLP(settings)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    def __init__(self, settings: Settings):
        super().__init__()
        self.wte = nn.Embedding(settings.vocab_size, settings.n_embd)
        self.wpe = nn.Embedding(settings.block_size, settings.n_embd)
        self.h = nn.Sequential(*(Block(settings) for _ in range(settings.n_layer)))
        self.ln_f = nn.LayerNorm(settings.n_embd)
        self.lm_head = nn.Linear(settings.n_embd, settings.vocab_size)

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1], device=idx.device))  # (B, T, C)
        return self.lm_head(self.ln_f(self.h(x)))


def make(settings: Settings) -> Peer:
    torch.manual_seed(settings.seed)
    return torch_loop.make_peer(GPT(settings), settings)
