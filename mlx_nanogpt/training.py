"""Training: the compiled step, and `train()`, which moves a run forward and yields what happens as records.

`train` owns no screen: a progress bar, a log file, a benchmark and a test are readers of the same stream.
"""

import math
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map

from .checkpoint import Evaluation, Position, Run, Writer, since_best
from .config import GPTConfig, TrainConfig
from .data import Dataset, check_splits, training_batch
from .errors import UserError
from .evaluation import Estimate, make_estimate, mean_loss
from .generation import generate
from .machine import machine
from .model import GPT

REPORT_INTERVAL = 10  # steps between two looks at the loss
REPORT_SECONDS = 0.25  # at least, between two records of an evaluation

Step = Callable[[mx.array, mx.array], mx.array]


@dataclass(frozen=True)
class Progress:
    """Steps done; the loss of the newest of them that is known; seconds of training since the last evaluation."""

    iteration: int
    loss: float
    train_seconds: float


@dataclass(frozen=True)
class Evaluating:
    """An evaluation is under way: `windows` of its `total` are done, of both splits together. At its beginning it is 0."""

    iteration: int
    windows: int
    total: int


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written."""

    iteration: int


@dataclass(frozen=True)
class Sample:
    """What the model writes by now: the ids of the tokens, drawn one after the other from an empty prompt."""

    iteration: int
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Done:
    """The end: all iterations are done, or the caller asked to stop, or the validation loss fell no more. `path` is where
    the run is by then: its directory may be moved while it trains."""

    iteration: int
    end: Literal["finished", "interrupted", "impatient"]
    path: Path


Event = Progress | Evaluating | Evaluation | Saved | Sample | Done


class Diverged(UserError):
    """The loss is not finite."""


def check_fits(gpt: GPTConfig, config: TrainConfig, data: Dataset) -> None:
    """Raise `UserError` if the text cannot fill a window of each split, or the machine cannot hold the training.

    The memory is what is needed at least: weights, gradients and Adam's two moments, and for every token of a batch
    what the backward pass reads again; a fused attention does not keep its scores.
    """
    check_splits(data, gpt.block_size)
    scores = 0 if machine().fuses_attention(gpt.head_size) else 2 * gpt.n_head * gpt.block_size
    per_token = gpt.n_layer * (12 * gpt.n_embd + scores) + 3 * gpt.vocab_size
    size = 2 if config.dtype == "bfloat16" else 4  # bytes of an activation
    needed = 4 * 4 * GPT(gpt).num_parameters() + size * config.batch_size * gpt.block_size * per_token
    needed += 8 * config.eval_iters * config.batch_size  # where the windows of an evaluation begin
    memory = machine_memory()
    if needed > memory:
        raise UserError(
            f"training this model takes {needed / 1e9:,.0f} GB of memory and more, and the machine has "
            f"{memory / 1e9:,.0f} GB; lower batch_size ({config.batch_size}), block_size ({gpt.block_size}), n_layer "
            f"({gpt.n_layer}), n_embd ({gpt.n_embd}) or eval_iters ({config.eval_iters})"
        )


def machine_memory() -> int:
    """Bytes of memory that the machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def learning_rate(config: TrainConfig) -> float | Callable[[mx.array], mx.array]:
    """The rate, or where it changes a function of how many steps were done before: linear, then a cosine (nanoGPT)."""
    highest, lowest, warmup, last = config.learning_rate, config.min_lr, config.warmup_iters, config.lr_decay_iters
    if not warmup and not last:
        return highest

    def rate(step: mx.array) -> mx.array:
        risen = highest * mx.minimum((step + 1) / (warmup + 1), 1.0)
        if not last:
            return risen
        progress = mx.clip((step - warmup) / (last - warmup), 0.0, 1.0)
        fallen = lowest + (highest - lowest) * 0.5 * (1 + mx.cos(math.pi * progress))
        return mx.where(step < warmup, risen, fallen)

    return rate


class DecayedMatrices(optim.AdamW):
    """AdamW (Loshchilov & Hutter 2019) that decays matrices only, not biases and norms, as nanoGPT does."""

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict) -> mx.array:
        update = optim.AdamW if parameter.ndim >= 2 else optim.Adam
        return update.apply_single(self, gradient, parameter, state)


def make_optimizer(config: TrainConfig) -> optim.Optimizer:
    """Adam as in its paper (Kingma & Ba 2015), or AdamW. MLX leaves out the bias correction unless told."""
    settings = {
        "learning_rate": learning_rate(config),
        "betas": [config.beta1, config.beta2],
        "bias_correction": True,
    }
    if config.weight_decay:
        return DecayedMatrices(weight_decay=config.weight_decay, **settings)
    return optim.Adam(**settings)


def make_step(model: GPT, optimizer: optim.Optimizer, config: TrainConfig) -> Step:
    """Return `step(idx, targets)`: one update of the model from all of a step's windows, both (A * B, T) for A batches
    whose gradients are accumulated; their mean loss, not yet computed.

    The optimizer must be initialised: a state that grows at the first call is traced twice. Evaluate `model.state`,
    `optimizer.state` and `mx.random.state` together with the loss.
    """
    this_machine = machine()
    this_machine.prepare(model)
    loss = this_machine.mean_loss
    if config.dtype == "bfloat16":
        loss = in_bfloat16(loss)
    loss_and_grad = accumulated(nn.value_and_grad(model, loss), config.gradient_accumulation_steps)

    def step(idx: mx.array, targets: mx.array) -> mx.array:
        loss, grads = loss_and_grad(model, idx, targets)
        if config.grad_clip:
            grads, _ = optim.clip_grad_norm(grads, config.grad_clip)
        optimizer.update(model, grads)
        return loss

    if config.backend == "eager":
        return step
    # the random state belongs to it: without, dropout would draw the same mask at every step
    state = [model.state, optimizer.state, mx.random.state]
    return partial(mx.compile, inputs=state, outputs=state)(step)


def in_bfloat16(loss_fn: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """The same loss, computed with copies of the model's float32 weights that are rounded to bfloat16. Gradients and
    updates are those of the float32 weights."""

    def loss(model: GPT, idx: mx.array, targets: mx.array) -> mx.array:
        master = model.parameters()
        model.update(tree_map(lambda p: p.astype(mx.bfloat16), master))
        try:
            return loss_fn(model, idx, targets)
        finally:
            model.update(master)

    return loss


def accumulated(loss_and_grad: Callable, steps: int) -> Callable:
    """The mean loss and gradient over `steps` equal parts of the windows, one part after the other."""
    if steps == 1:
        return loss_and_grad

    def over_parts(model: GPT, idx: mx.array, targets: mx.array) -> tuple[mx.array, dict]:
        total, sums = None, None
        for part in zip(mx.split(idx, steps), mx.split(targets, steps)):
            if sums is not None:  # the next part waits: one's activations are in memory at a time
                part = mx.depends(list(part), [each for _, each in tree_flatten(sums)])
            loss, grads = loss_and_grad(model, *part)
            total = loss if total is None else total + loss
            sums = grads if sums is None else tree_map(mx.add, sums, grads)
        return total / steps, tree_map(lambda each: each / steps, sums)

    return over_parts


def start_from(run: Run, model: GPT) -> None:
    """Let `run`, which is new, start from the weights of `model`: they become its checkpoint of iteration 0.

    Seeds MLX's global random state. Raises `UserError` if the file cannot be written.
    """
    mx.random.seed(run.train.seed)
    optimizer = make_optimizer(run.train)
    optimizer.init(model.trainable_parameters())
    with run.locked() as writer:
        writer.save(model, optimizer, Position())


def train(
    run: Run, data: Dataset, should_stop: Callable[[], bool] = lambda: False, sample_tokens: int = 0
) -> Iterator[Event]:
    """Move `run` from where its checkpoint is (or the beginning) to its last iteration; yield what happens.

    Every `eval_interval` iterations and at the end both splits of `data` are evaluated and a checkpoint is written; with
    a `patience` that may be the end. Where it goes on, a sample of `sample_tokens` tokens follows, if that is not 0; samples
    change nothing of the run. `should_stop` is asked before every step; once it says yes, a checkpoint is written and the
    stream ends with `Done`. Seeds MLX's global random state. Raises `UserError` if the text does not fit or a file cannot be
    written or another process trains the same run, `Diverged` if the loss is not finite.
    """
    check_fits(run.gpt, run.train, data)
    with run.locked() as writer:
        writer.write_config()  # with what `extended` changed, and the versions that go on with it
        yield from _train(run, writer, data, should_stop, sample_tokens)


def _train(
    run: Run, writer: Writer, data: Dataset, should_stop: Callable[[], bool], sample_tokens: int
) -> Iterator[Event]:
    config, block_size = run.train, run.gpt.block_size
    windows_per_step = config.batch_size * config.gradient_accumulation_steps

    mx.random.seed(config.seed)
    model = GPT(run.gpt)
    optimizer = make_optimizer(config)
    optimizer.init(model.trainable_parameters())
    position = run.restore(model, optimizer)
    step = make_step(model, optimizer, config)
    estimate = make_estimate(model, config.backend)
    state = [model.state, optimizer.state, mx.random.state]
    mx.eval(state)

    history = run.history()
    evaluated = history[-1].iteration if history else 0
    iteration, train_seconds = position.iteration, position.train_seconds
    unread: deque[tuple[int, mx.array]] = deque()  # iterations and losses that the host has not looked at
    loss = math.nan  # the newest that it has

    def read_losses(leave: int) -> None:
        """Wait for all unread losses but the newest `leave`."""
        nonlocal loss
        while len(unread) > leave:
            done, array = unread.popleft()
            loss = array.item()
            if not math.isfinite(loss):
                raise _diverged(run, done, position)

    def impatient() -> bool:
        return 0 < config.patience <= (since_best(history) if history else 0)

    while evaluated < config.num_iter and not impatient():
        target = min(config.num_iter, (evaluated // config.eval_interval + 1) * config.eval_interval)
        started = time.perf_counter() - train_seconds
        while iteration < target and not should_stop():
            batch = training_batch(data.train, config.seed, iteration, windows_per_step, block_size)
            newest = step(*map(mx.array, batch))
            mx.async_eval(newest, state)
            iteration += 1
            unread.append((iteration, newest))
            if iteration % REPORT_INTERVAL == 0:
                # the newest step stays unread, if it may: the device is busy with it while the host reports
                read_losses(leave=0 if math.isnan(loss) else 1)
                yield Progress(iteration, loss, time.perf_counter() - started)
        read_losses(leave=0)
        mx.eval(state)
        train_seconds = time.perf_counter() - started
        if should_stop():
            if not all(mx.isfinite(p).all().item() for _, p in tree_flatten(model.parameters())):
                raise _diverged(run, iteration, position)  # the loss told nothing of the last update yet
            writer.save(model, optimizer, Position(iteration, train_seconds), history)
            yield Saved(iteration)
            yield Done(iteration, "interrupted", writer.path)
            return

        count = config.eval_iters * config.batch_size
        yield Evaluating(iteration, 0, 2 * count)
        started = time.perf_counter()
        losses = yield from _evaluate(estimate, data, count, iteration, block_size)
        eval_seconds = time.perf_counter() - started
        if not all(map(math.isfinite, losses)):
            raise _diverged(run, iteration, position)
        evaluation = Evaluation(
            iteration,
            *losses,
            train_tokens=(iteration - evaluated) * windows_per_step * block_size,
            train_seconds=train_seconds,
            eval_tokens=count * block_size,
            eval_seconds=eval_seconds,
            corpus=run.corpus.name,
            device=mx.default_device().type.name,
        )
        history.append(evaluation)
        position = Position(iteration)
        writer.save(model, optimizer, position, history)
        yield evaluation
        yield Saved(iteration)
        evaluated = iteration
        train_seconds = 0.0
        if sample_tokens and evaluated < config.num_iter and not impatient():
            yield Sample(iteration, _sample(run, model, sample_tokens))
    yield Done(iteration, "impatient" if evaluated < config.num_iter else "finished", writer.path)


def _evaluate(
    estimate: Estimate, data: Dataset, count: int, iteration: int, block_size: int
) -> Generator[Evaluating, None, list[float]]:
    """The mean losses over `count` windows of each split, once all records of how far it is are read."""
    told, windows, losses = time.perf_counter(), 0, []
    for tokens in (data.train, data.valid):
        batches = []
        for batch in estimate(tokens, count):
            batches.append(batch)
            windows += batch.tokens // block_size
            if time.perf_counter() - told >= REPORT_SECONDS:
                yield Evaluating(iteration, windows, 2 * count)
                told = time.perf_counter()
        losses.append(mean_loss(batches))
    return losses


def _sample(run: Run, model: GPT, count: int) -> tuple[int, ...]:
    """`count` tokens that the model writes from an empty prompt, by random numbers of their own; its mode is put back."""
    was_training = model.training
    try:
        return tuple(generate(model, [run.tokenizer.start_token], count, run.train.seed))
    finally:
        model.train(was_training)


def _diverged(run: Run, iteration: int, saved: Position) -> Diverged:
    kept = f"the checkpoint of iteration {saved.iteration} is kept" if saved.iteration else "no checkpoint had been written"
    return Diverged(
        f"the loss is not finite at iteration {iteration}, so training stopped ({kept}); "
        f"try a learning rate lower than {run.train.learning_rate:g}"
    )
