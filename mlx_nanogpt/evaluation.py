"""The loss of a split, forward only and without dropout: an estimate from the same random windows each time, or exactly,
from all of it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import mlx.core as mx
import numpy as np

from .config import Backend, TrainConfig
from .errors import UserError
from .files import check_counts, check_measures
from .machine import machine
from .model import GPT
from .text.batches import consecutive_windows, evaluation_starts, windows
from .text.loss import SplitLoss

LOGITS_PER_BATCH = 2**27  # float32, so 512 MiB, held about twice; reached from 8,192 tokens in the vocabulary on

Batch = tuple[np.ndarray, np.ndarray]  # inputs and targets, both (B, T)
Evaluate = Callable[[np.ndarray, int], float]
Estimate = Callable[[np.ndarray, int], Iterator["SplitLoss"]]


@dataclass(frozen=True)
class Evaluation:
    """One line of the history. Losses in nats per token; tokens and seconds of training since the line before; tokens
    of each split that this evaluation covered, and its seconds. Raises `ValueError` for values that cannot be."""

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

    The model's mode is put back as it was, so a training step may run before and after. Both calls belong in one thread.
    """
    estimate = make_estimate(model, backend)
    return lambda tokens, count: mean_loss(list(estimate(tokens, count)))


def make_estimate(model: GPT, backend: Backend) -> Estimate:
    """Return `estimate(tokens, count)`, which yields the losses of `count` windows of `tokens`, one batch after the other;
    `mean_loss` of them all is what `make_evaluate` gives.

    The model's mode is put back as it was when the records end. All calls belong in one thread.
    """
    block_size = model.config.block_size
    losses = _make_losses(model, backend)

    def estimate(tokens: np.ndarray, count: int) -> Iterator[SplitLoss]:
        starts = evaluation_starts(tokens, count, block_size)
        groups = np.array_split(starts, -(-count // _windows_per_batch(model)))
        return losses(windows(tokens, group, block_size) for group in groups)

    return estimate


def mean_loss(batches: Sequence[SplitLoss]) -> float:
    """Nats per token over all `batches`, at least one."""
    return sum(each.nats for each in batches) / sum(each.tokens for each in batches)


def evaluate_split(model: GPT, tokens: np.ndarray, backend: Backend = TrainConfig.backend) -> Iterator[SplitLoss]:
    """Yield the loss of `tokens`, (N,), so far: the last record is that of all N - 1 tokens but the first.

    Each is predicted exactly once, from the tokens before it in its window. Windows of `block_size` follow each other
    without overlap, and the last may be shorter. A token early in its window is predicted from little, as in nanoGPT's
    estimate, so this is above what a window that slides along with every token would give.

    The model's mode is put back as it was when the records end; until then its weights must stay as they are.
    `tokens` may be an `np.memmap` larger than memory.
    Raises `UserError` if there is no token to predict.
    """
    if len(tokens) < 2:
        raise UserError(
            f"the text has too few tokens ({len(tokens)}): the first is never predicted", "give one of at least 2"
        )
    block_size = model.config.block_size
    batches = consecutive_windows(tokens, _windows_per_batch(model), block_size)
    total = SplitLoss(0, 0.0)
    for each in _make_losses(model, backend)(batches):
        total = SplitLoss(total.tokens + each.tokens, total.nats + each.nats)
        yield total


def _windows_per_batch(model: GPT) -> int:
    return max(1, _tokens_per_batch(model.config.vocab_size) // model.config.block_size)


def _tokens_per_batch(vocab_size: int) -> int:
    return min(machine().eval_tokens, LOGITS_PER_BATCH // vocab_size)


def _make_losses(model: GPT, backend: Backend) -> Callable[[Iterable[Batch]], Iterator[SplitLoss]]:
    """Return `losses(batches)`, which yields the loss of every batch, in their order."""
    this_machine = machine()
    this_machine.prepare(model)
    inference_copy = this_machine.inference_copy(model)

    def make_loss() -> Callable[[mx.array, mx.array], mx.array]:
        def loss(idx: mx.array, targets: mx.array) -> mx.array:
            return this_machine.token_losses(inference_copy, idx, targets)

        # a function of its own: a compiled training step would go on with dropout
        return mx.compile(loss, inputs=inference_copy.state) if backend == "compiled" else loss

    streams = this_machine.streams()
    stream_losses = [make_loss() for _ in streams]

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
                mx.async_eval(started)  # together, or one stream would wait for the other
                yield from map(_split_loss, unread)  # while the device is busy with what was started
                unread = started
            yield from map(_split_loss, unread)
        finally:
            model.train(was_training)

    return losses


def _split_loss(losses: mx.array) -> SplitLoss:
    # added up in float64: MLX adds one float32 to the other, and over thousands of tokens that is off by 1e-5
    return SplitLoss(losses.size, float(np.array(losses).sum(dtype=np.float64)))
