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

from .config import GPTConfig, TrainConfig
from .errors import UserError
from .evaluation import make_estimate, mean_loss
from .generation import generate
from .machine import machine
from .model import GPT
from .run import Evaluation, Position, Run, Writer, since_best
from .text.batches import training_batch
from .text.dataset import Dataset, check_splits

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
    end: Literal["finished", "interrupted", "out of patience"]
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
    mx.random.seed(run.train_config.seed)
    optimizer = make_optimizer(run.train_config)
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
    check_fits(run.gpt_config, run.train_config, data)
    with run.locked() as writer:
        writer.write_config()  # with what `extended` changed, and the versions that go on with it
        training = Training(run, writer, data)
        while not training.is_over():
            yield from training.steps(should_stop)
            if should_stop():
                training.check_weights()  # the loss told nothing of the last update yet
                yield training.save()
                yield Done(training.iteration, "interrupted", writer.path)
                return
            evaluation = yield from training.evaluate()
            saved = training.save()
            yield evaluation
            yield saved
            if sample_tokens and not training.is_over():
                yield training.sample(sample_tokens)
        yield Done(
            training.iteration,
            "out of patience" if training.iteration < run.train_config.num_iter else "finished",
            writer.path,
        )


class Training:
    """A training under way: the model and its optimizer, how far they are, and what was found out. Seeds MLX's global random
    state."""

    def __init__(self, run: Run, writer: Writer, data: Dataset):
        self.run, self.writer, self.data, self.config = run, writer, data, run.train_config
        mx.random.seed(self.config.seed)
        self.model = GPT(run.gpt_config)
        self.optimizer = make_optimizer(self.config)
        self.optimizer.init(self.model.trainable_parameters())
        self.saved = run.restore(self.model, self.optimizer)
        self.iteration, self.train_seconds = self.saved.iteration, self.saved.train_seconds
        self.history = run.history()
        self.step = make_step(self.model, self.optimizer, self.config)
        self.estimate = make_estimate(self.model, self.config.backend)
        self.state = [self.model.state, self.optimizer.state, mx.random.state]
        mx.eval(self.state)
        self.loss = math.nan  # the newest that the host has looked at
        self.unread: deque[tuple[int, mx.array]] = deque()  # iterations and losses that it has not

    @property
    def evaluated(self) -> int:
        """The iteration of the last evaluation; 0 before the first."""
        return self.history[-1].iteration if self.history else 0

    def is_over(self) -> bool:
        """Whether all iterations are done and evaluated, or patience is at its end."""
        without_better = since_best(self.history) if self.history else 0
        return self.evaluated >= self.config.num_iter or 0 < self.config.patience <= without_better

    def steps(self, should_stop: Callable[[], bool]) -> Iterator[Progress]:
        """Train up to the next evaluation, or until `should_stop` says yes."""
        config, block_size = self.config, self.run.gpt_config.block_size
        target = min(config.num_iter, (self.evaluated // config.eval_interval + 1) * config.eval_interval)
        count = config.batch_size * config.gradient_accumulation_steps
        started = time.perf_counter() - self.train_seconds
        while self.iteration < target and not should_stop():
            batch = training_batch(self.data.train_tokens, config.seed, self.iteration, count, block_size)
            loss = self.step(*map(mx.array, batch))
            mx.async_eval(loss, self.state)
            self.iteration += 1
            self.unread.append((self.iteration, loss))
            if self.iteration % REPORT_INTERVAL == 0:
                # the newest step stays unread, if it may: the device is busy with it while the host reports
                self._read_losses(leave=0 if math.isnan(self.loss) else 1)
                yield Progress(self.iteration, self.loss, time.perf_counter() - started)
        self._read_losses(leave=0)
        mx.eval(self.state)
        self.train_seconds = time.perf_counter() - started

    def evaluate(self) -> Generator[Evaluating, None, Evaluation]:
        """Estimate the losses of both splits, telling how far that is; they become the newest line of the history."""
        config, block_size = self.config, self.run.gpt_config.block_size
        count = config.eval_iters * config.batch_size  # windows of each split
        windows, losses = 0, []
        yield Evaluating(self.iteration, windows, 2 * count)
        started = told = time.perf_counter()
        for tokens in (self.data.train_tokens, self.data.valid_tokens):
            batches = []
            for batch in self.estimate(tokens, count):
                batches.append(batch)
                windows += batch.tokens // block_size
                if time.perf_counter() - told >= REPORT_SECONDS:
                    yield Evaluating(self.iteration, windows, 2 * count)
                    told = time.perf_counter()
            losses.append(mean_loss(batches))
        if not all(map(math.isfinite, losses)):
            raise self._diverged(self.iteration)
        evaluation = Evaluation(
            iteration=self.iteration,
            train_loss=losses[0],
            valid_loss=losses[1],
            train_tokens=(self.iteration - self.evaluated)
            * config.batch_size
            * config.gradient_accumulation_steps
            * block_size,
            train_seconds=self.train_seconds,
            eval_tokens=count * block_size,
            eval_seconds=time.perf_counter() - started,
            corpus=self.run.corpus.name,
            device=mx.default_device().type.name,
        )
        self.history.append(evaluation)
        self.train_seconds = 0.0
        return evaluation

    def save(self) -> Saved:
        """Write a checkpoint, and what belongs to it."""
        self.saved = Position(self.iteration, self.train_seconds)
        self.writer.save(self.model, self.optimizer, self.saved, self.history)
        return Saved(self.iteration)

    def sample(self, count: int) -> Sample:
        """`count` tokens that the model writes from an empty prompt, by random numbers of their own."""
        tokens = tuple(generate(self.model, [self.run.tokenizer.start_token], count, self.config.seed))
        self.model.train()
        return Sample(self.iteration, tokens)

    def check_weights(self) -> None:
        """Raise `Diverged` unless all weights are finite."""
        if not all(mx.isfinite(p).all().item() for _, p in tree_flatten(self.model.parameters())):
            raise self._diverged(self.iteration)

    def _read_losses(self, leave: int) -> None:
        """Wait for all unread losses but the newest `leave`."""
        while len(self.unread) > leave:
            iteration, loss = self.unread.popleft()
            self.loss = loss.item()
            if not math.isfinite(self.loss):
                raise self._diverged(iteration)

    def _diverged(self, iteration: int) -> Diverged:
        saved = self.saved.iteration
        kept = f"the checkpoint of iteration {saved} is kept" if saved else "no checkpoint had been written"
        return Diverged(
            f"the loss is not finite at iteration {iteration}, so training stopped ({kept}); "
            f"try a learning rate lower than {self.config.learning_rate:g}"
        )
