"""The loss of a text, without dropout: estimated from random windows, the same each time, or exact, from all of it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .config import Backend, TrainConfig
from .errors import UserError
from .machine import machine
from .model import GPT
from .text.batches import ALL, consecutive_windows, evaluation_starts, windows
from .text.loss import SplitLoss

LOGITS_PER_BATCH = 2**27  # float32: 512 MiB, held about twice; vocabularies from 8,192 tokens on reach it

Batch = tuple[np.ndarray, np.ndarray]  # inputs and targets, both (B, T)


def split_losses(model: GPT, batches: Iterable[Batch], backend: Backend = TrainConfig.backend) -> Iterator[SplitLoss]:
    """Yield the loss of each of `batches`, in order. Until the last one, the model is in evaluation mode, and its weights must not
    change."""
    streams = machine().streams()
    with evaluation_mode(model):
        fast, _ = machine().for_inference(model)
        # one for each stream, because a stream computes nothing that another one made
        token_losses = [compile_losses(fast, backend) for _ in streams]
        batches, unread = iter(batches), list[mx.array]()
        while together := list(islice(batches, len(streams))):
            started = []
            for (idx, targets), stream, losses in zip(together, streams, token_losses):
                with mx.stream(stream):
                    started.append(losses(mx.array(idx), mx.array(targets)))
            mx.async_eval(started)  # all at once, or one stream would wait for the other
            yield from map(_sum, unread)  # while the device works on what was started
            unread = started
        yield from map(_sum, unread)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put `model` into evaluation mode for the time of the body; each layer then returns to its own mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:  # a layer comes before the layers inside
            module.train(training)


def estimate_batches(model: GPT, tokens: np.ndarray, count: int, share: slice = ALL) -> Iterator[Batch]:
    """Yield `count` random windows of `tokens` in batches, the same ones in every call. `share` are the batches that are wanted."""
    block_size = model.config.block_size
    starts = evaluation_starts(tokens, count, block_size)
    for group in np.array_split(starts, -(-count // windows_per_batch(model)))[share]:
        yield windows(tokens, group, block_size)


def estimate_loss(model: GPT, tokens: np.ndarray, count: int, backend: Backend = TrainConfig.backend) -> float:
    """The mean loss over `count` random windows of `tokens`, the same ones in every call, in nats per token."""
    return sum(split_losses(model, estimate_batches(model, tokens, count), backend), SplitLoss()).mean


def evaluate(model: GPT, tokens: np.ndarray) -> float:
    """The exact mean loss of `tokens`, (N,), in nats per token.

    Each token but the first is predicted once, from the tokens before it in its window. Windows of `block_size` follow each
    other without overlap; the last may be shorter. The first tokens of a window are predicted from little, as in nanoGPT's
    estimate. A window that slides along with every token would give a lower loss. `tokens` may be an `np.memmap` larger than
    memory.

    Raises `UserError` if there is no token to predict.
    """
    *_, loss = evaluate_split(model, tokens)
    return loss.mean


def evaluate_split(model: GPT, tokens: np.ndarray) -> Iterator[SplitLoss]:
    """Yield the loss of `evaluate` so far, after each batch. The last record covers all tokens but the first."""
    if len(tokens) < 2:
        raise UserError(
            f"the text has too few tokens ({len(tokens)}): the first is never predicted", "give one of at least 2"
        )
    total = SplitLoss()
    batches = consecutive_windows(tokens, windows_per_batch(model), model.config.block_size)
    for batch in split_losses(model, batches):
        total += batch
        yield total


def compile_losses(model: GPT, backend: Backend = TrainConfig.backend) -> Callable[[mx.array, mx.array], mx.array]:
    """`model.token_losses`, compiled. A compiled step would not do: it was traced with dropout."""
    return mx.compile(model.token_losses, inputs=model.state) if backend == "compiled" else model.token_losses


def windows_per_batch(model: GPT) -> int:
    """The number of windows that this machine evaluates together."""
    tokens = min(machine().eval_tokens, LOGITS_PER_BATCH // model.config.vocab_size)
    return max(1, tokens // model.config.block_size)


def _sum(losses: mx.array) -> SplitLoss:
    # in float64: a sum of thousands of float32 numbers, one after the other, is off by 1e-5
    return SplitLoss(losses.size, float(np.array(losses).sum(dtype=np.float64)))
