"""Training: the compiled step, and `train()`, which moves a run forward and yields what happens as records.

`train` owns no screen: a progress bar, a log file, a benchmark and a test are readers of the same stream.
"""

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten

from . import cpu
from .checkpoint import Evaluation, Position, Run
from .config import Backend, GPTConfig, TrainConfig
from .data import check_splits, split, training_batch
from .errors import UserError
from .evaluation import make_evaluate
from .model import GPT, loss_fn

REPORT_INTERVAL = 10  # steps between two looks at the loss

Step = Callable[[mx.array, mx.array], mx.array]


@dataclass(frozen=True)
class Progress:
    """Steps done; the loss of the newest of them that is known; seconds of training since the last evaluation."""

    iteration: int
    loss: float
    train_seconds: float


@dataclass(frozen=True)
class Evaluating:
    """An evaluation begins."""

    iteration: int


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written."""

    iteration: int


@dataclass(frozen=True)
class Done:
    """The end: all iterations are done, or the caller asked to stop."""

    iteration: int
    interrupted: bool


Event = Progress | Evaluating | Evaluation | Saved | Done


class Diverged(UserError):
    """The loss is not finite."""


def check_fits(gpt: GPTConfig, config: TrainConfig, tokens: np.ndarray) -> None:
    """Raise `UserError` if the text cannot fill a window of each split, or the machine cannot hold the training.

    The memory is what is needed at least: weights, gradients and Adam's two moments, and for every token of a batch
    what the backward pass reads again.
    """
    check_splits(tokens, gpt.block_size)
    per_token = gpt.n_layer * (12 * gpt.n_embd + 2 * gpt.n_head * gpt.block_size) + 3 * gpt.vocab_size
    needed = 4 * (4 * GPT(gpt).num_parameters() + config.batch_size * gpt.block_size * per_token)
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


def make_optimizer(config: TrainConfig) -> optim.Optimizer:
    """Adam as in its paper (Kingma & Ba 2015). MLX leaves out the bias correction unless told."""
    return optim.Adam(config.learning_rate, bias_correction=True)


def make_step(model: GPT, optimizer: optim.Optimizer, backend: Backend) -> Step:
    """Return `step(idx, targets)`: one update of the model from a batch, both (B, T); its loss, not yet computed.

    The optimizer must be initialised: a state that grows at the first call is traced twice. Evaluate `model.state`,
    `optimizer.state` and `mx.random.state` together with the loss.
    """
    loss_and_grad = nn.value_and_grad(model, cpu.in_parallel(loss_fn) if cpu.in_use() else loss_fn)

    def step(idx: mx.array, targets: mx.array) -> mx.array:
        loss, grads = loss_and_grad(model, idx, targets)
        optimizer.update(model, grads)
        return loss

    if backend == "eager":
        return step
    # the random state belongs to it: without, dropout would draw the same mask at every step
    state = [model.state, optimizer.state, mx.random.state]
    return partial(mx.compile, inputs=state, outputs=state)(step)


def train(run: Run, tokens: np.ndarray, should_stop: Callable[[], bool] = lambda: False) -> Iterator[Event]:
    """Move `run` from where its checkpoint is (or the beginning) to its last iteration; yield what happens.

    `tokens` is the whole corpus, (N,). Every `eval_interval` iterations and at the end both splits are evaluated and a
    checkpoint is written. `should_stop` is asked before every step; once it says yes, a checkpoint is written and the
    stream ends with `Done`. Seeds MLX's global random state. Raises `UserError` if the text does not fit or a file
    cannot be written, `Diverged` if the loss is not finite.
    """
    config, block_size = run.train, run.gpt.block_size
    check_fits(run.gpt, config, tokens)
    train_tokens, valid_tokens = split(tokens)

    mx.random.seed(config.seed)
    model = GPT(run.gpt)
    optimizer = make_optimizer(config)
    optimizer.init(model.trainable_parameters())
    position = run.restore(model, optimizer)
    step = make_step(model, optimizer, config.backend)
    evaluate = make_evaluate(model, config.backend)
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
                raise _diverged(run, done)

    while evaluated < config.num_iter:
        target = min(config.num_iter, (evaluated // config.eval_interval + 1) * config.eval_interval)
        started = time.perf_counter() - train_seconds
        while iteration < target and not should_stop():
            batch = training_batch(train_tokens, config.seed, iteration, config.batch_size, block_size)
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
                raise _diverged(run, iteration)  # the loss told nothing of the last update yet
            run.save(model, optimizer, Position(iteration, train_seconds))
            yield Saved(iteration)
            yield Done(iteration, interrupted=True)
            return

        yield Evaluating(iteration)
        started = time.perf_counter()
        count = config.eval_iters * config.batch_size
        losses = [evaluate(part, count) for part in (train_tokens, valid_tokens)]
        eval_seconds = time.perf_counter() - started
        if not all(map(math.isfinite, losses)):
            raise _diverged(run, iteration)
        evaluation = Evaluation(
            iteration,
            *losses,
            train_tokens=(iteration - evaluated) * config.batch_size * block_size,
            train_seconds=train_seconds,
            eval_tokens=count * block_size,
            eval_seconds=eval_seconds,
            corpus=run.corpus.name,
            device=mx.default_device().type.name,
        )
        history.append(evaluation)
        run.save(model, optimizer, Position(iteration), history)
        yield evaluation
        yield Saved(iteration)
        evaluated = iteration
        train_seconds = 0.0
    yield Done(iteration, interrupted=False)


def _diverged(run: Run, iteration: int) -> Diverged:
    kept = "no checkpoint had been written"
    if run.checkpoint.exists():
        kept = f"the checkpoint of iteration {run.position().iteration} in {run.path} is kept"
    return Diverged(
        f"the loss is not finite at iteration {iteration}, so training stopped ({kept}); "
        f"try a learning rate lower than {run.train.learning_rate:g}"
    )
