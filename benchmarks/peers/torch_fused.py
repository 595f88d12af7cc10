"""PyTorch as one writes it today: one projection for all heads and `scaled_dot_product_attention`; eager or compiled.

All but the attention is the lecture's.
"""

import torch
from torch import nn
from torch.nn import functional as F

from . import Peer, Settings, torch_loop
from .torch_lecture import GPT


class FusedAttention(nn.Module):
    def __init__(self, settings: Settings):
        super().__init__()
        self.n_head = settings.n_head
        self.c_attn = nn.Linear(settings.n_embd, 3 * settings.n_embd, bias=False)
        self.c_proj = nn.Linear(settings.n_embd, settings.n_embd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, C = x.shape
        q, k, v = self.c_attn(x).view(B, T, 3, self.n_head, -1).permute(2, 0, 3, 1, 4)  # 3 x (B, nh, T, hs)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, nh, T, hs)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


def make(settings: Settings, compiled: bool = False) -> Peer:
    torch.manual_seed(settings.seed)
    model = GPT(settings)
    for block in model.h:
        block.attn = FusedAttention(settings)
    return torch_loop.make_peer(model, settings, compiled)
