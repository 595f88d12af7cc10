"""The shared parts of the PyTorch peers: initialisation, the training loop, evaluation and generation around their models."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from . import Batch, EvaluationSet, Peer, Settings

DEVICE = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def make_peer(model: nn.Module, settings: Settings, compiled: bool = False) -> Peer:
    """`model` maps token ids (B, T) to logits (B, T, vocab_size)."""
    _init_weights(model, settings)
    model.to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), settings.learning_rate)
    forward = torch.compile(model) if compiled else model

    def loss_fn(batch: Batch) -> torch.Tensor:
        idx, targets = (torch.from_numpy(part.astype(np.int64)).to(DEVICE) for part in batch)
        return F.cross_entropy(forward(idx).flatten(0, 1), targets.flatten())

    def train(batches: list[Batch]) -> list[float]:
        model.train()
        losses = []
        for batch in batches:
            optimizer.zero_grad()
            loss = loss_fn(batch)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses).tolist()  # queued behind the last update, so a GPU is waited for

    @torch.no_grad()
    def evaluate(data: EvaluationSet) -> float:
        model.eval()
        return torch.stack([loss_fn(batch) for batch in data.batches]).mean().item()

    @torch.no_grad()
    def generate(num_tokens: int) -> list[int]:
        model.eval()
        idx = torch.full((1, 1), settings.start_token, device=DEVICE)
        for _ in range(num_tokens):
            logits = model(idx[:, -settings.block_size :])[:, -1]  # (1, vocab_size)
            token = torch.multinomial(F.softmax(logits, dim=-1), num_samples=1)  # (1, 1)
            idx = torch.cat((idx, token), dim=1)
        return idx[0, 1:].tolist()

    num_parameters = sum(p.numel() for p in model.parameters())
    # the compiled model would be compiled again for each length, so one generates with the plain one
    return Peer(DEVICE.type, num_parameters, train, evaluate, None if compiled else generate)


def _init_weights(model: nn.Module, settings: Settings) -> None:
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=settings.residual_std if name.endswith("c_proj") else settings.init_std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
