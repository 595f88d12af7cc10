"""The loss of a split, without dropout: estimated from the same random windows each time, or exact, from all of it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

import mlx.core as mx
import numpy as np

from .config import Backend, TrainConfig
from .errors import UserError
from .files import check_counts, check_measures
from .machine import machine
from .model import GPT
from .text.batches import ALL, consecutive_windows, evaluation_starts, windows
from .text.loss import SplitLoss

LOGITS_PER_BATCH = 2**27  # float32: 512 MiB, held about twice; vocabularies from 8,192 tokens on reach it

Batch = tuple[np.ndarray, np.ndarray]  # inputs and targets, both (B, T)
Evaluate = Callable[[np.ndarray, int], float]
Estimate = Callable[..., Iterator["SplitLoss"]]


@dataclass(frozen=True)
class Evaluation:
    """One line of the history: losses in nats per token; tokens and seconds of training since the line before; tokens of
    each split that this evaluation read, and its seconds. Raises `ValueError` for impossible values."""

    iteration: int
    train_loss: float
    valid_loss: float
    train_tokens: int
    train_seconds: float
    eval_tokens: int
    eval_seconds: float
    corpus: str
    device: str

    def __post_init__(self) -> None:
        check_counts(self.iteration, self.train_tokens, self.eval_tokens)
        check_measures(self.train_loss, self.valid_loss, self.train_seconds, self.eval_seconds)
        if not (isinstance(self.corpus, str) and isinstance(self.device, str)):
            raise ValueError("the corpus and the device of an evaluation are words")


def make_evaluate(model: GPT, backend: Backend) -> Evaluate:
    """Return `evaluate(tokens, count)`: the mean loss in nats per token over `count` windows of `tokens`.

    The model's mode stays as it is, so a training step may run before and after. Make both calls in one thread.
    """
    estimate = make_estimate(model, backend)
    return lambda tokens, count: sum(estimate(tokens, count), SplitLoss()).mean


def make_estimate(model: GPT, backend: Backend) -> Estimate:
    """Return `estimate(tokens, count, share)`, which yields the losses of `count` windows of `tokens`, batch by batch. The mean
    of their sum is the result of `make_evaluate`. `share` are the batches that are wanted, all by default.

    When the records end, the model's mode is what it was. Make all calls in one thread.
    """
    block_size = model.config.block_size
    losses = _make_losses(model, backend)

    def estimate(tokens: np.ndarray, count: int, share: slice = ALL) -> Iterator[SplitLoss]:
        starts = evaluation_starts(tokens, count, block_size)
        groups = np.array_split(starts, -(-count // _windows_per_batch(model)))
        return losses(windows(tokens, group, block_size) for group in groups[share])

    return estimate


def evaluate_split(model: GPT, tokens: np.ndarray, backend: Backend = TrainConfig.backend) -> Iterator[SplitLoss]:
    """Yield the loss of `tokens`, (N,), so far, after each group of batches. The last record covers all tokens but the first.

    Each token is predicted once, from the tokens before it in its window. Windows of `block_size` follow each other without
    overlap; the last may be shorter. The first tokens of a window are predicted from little, as in nanoGPT's estimate. A
    window that slides along with every token would give a lower loss.

    When the records end, the model's mode is what it was; until then its weights must not change. `tokens` may be an
    `np.memmap` larger than memory.
    Raises `UserError` if there is no token to predict.
    """
    if len(tokens) < 2:
        raise UserError(
            f"the text has too few tokens ({len(tokens)}): the first is never predicted", "give one of at least 2"
        )
    block_size = model.config.block_size
    batches = consecutive_windows(tokens, _windows_per_batch(model), block_size)
    total = SplitLoss()
    for each in _make_losses(model, backend)(batches):
        total += each
        yield total


def make_batch_losses(model: GPT, backend: Backend) -> Callable[[mx.array, mx.array], mx.array]:
    """Return `losses(idx, targets)`: what each of `targets` (B, T) costs after `idx` (B, T), in nats, (B, T). The model is in
    evaluation mode when it is called: a training step was compiled with dropout, so it would not do."""
    losses = partial(machine().token_losses, model)
    return mx.compile(losses, inputs=model.state) if backend == "compiled" else losses


def _windows_per_batch(model: GPT) -> int:
    return max(1, _tokens_per_batch(model.config.vocab_size) // model.config.block_size)


def _tokens_per_batch(vocab_size: int) -> int:
    return min(machine().eval_tokens, LOGITS_PER_BATCH // vocab_size)


def _make_losses(model: GPT, backend: Backend) -> Callable[[Iterable[Batch]], Iterator[SplitLoss]]:
    """Return `losses(batches)`, which yields the loss of each batch, in order."""
    this_machine = machine()
    this_machine.prepare(model)
    inference_copy = this_machine.inference_copy(model)
    streams = this_machine.streams()
    stream_losses = [make_batch_losses(inference_copy, backend) for _ in streams]

    def losses(batches: Iterable[Batch]) -> Iterator[SplitLoss]:
        was_training = model.training
        model.eval()
        try:
            this_machine.refresh(inference_copy, model)
            batches = iter(batches)
            unread: list[mx.array] = []
            while together := list(islice(batches, len(streams))):
                started = []
                for (idx, targets), stream, loss in zip(together, streams, stream_losses):
                    with mx.stream(stream):
                        started.append(loss(mx.array(idx), mx.array(targets)))
                mx.async_eval(started)  # all at once, or one stream would wait for the other
                yield from map(_split_loss, unread)  # while the device works on what was started
                unread = started
            yield from map(_split_loss, unread)
        finally:
            model.train(was_training)

    return losses


def _split_loss(losses: mx.array) -> SplitLoss:
    # in float64: a sum of thousands of float32 numbers, one after the other, is off by 1e-5
    return SplitLoss(losses.size, float(np.array(losses).sum(dtype=np.float64)))
