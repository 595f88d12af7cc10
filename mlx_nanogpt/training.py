"""Training: the compiled step, and `train()`, which moves a run forward and yields what happens as records.

`train` prints nothing: a progress bar, a log file, a benchmark and a test all read the same records.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map

from .config import GPTConfig, TrainConfig, tokens_per_step
from .errors import UserError
from .evaluation import Evaluation, make_estimate
from .generation import generate
from .machine import machine
from .machine.memory import estimated_memory, largest_array
from .model import GPT
from .optimizer import clipped, make_optimizer, norm_of, rate_at
from .ranks import ALONE, Ranks
from .runs.checkpoint import Position
from .runs.log import Excerpt, Line, Measurement, is_logged
from .runs.run import NoWriter, Run, Writer, since_best
from .text.batches import training_batch
from .text.dataset import Dataset, check_splits
from .text.loss import SplitLoss

REPORT_INTERVAL = 10  # steps between two records of the progress
REPORT_SECONDS = 0.25  # at least, between two records of an evaluation

Step = Callable[[mx.array, mx.array], Any]


@dataclass(frozen=True)
class Progress:
    """Steps done, the newest loss that is known, and seconds of training since the last evaluation."""

    iteration: int
    loss: float
    train_seconds: float


@dataclass(frozen=True)
class Evaluating:
    """An evaluation is under way: `windows` of `total` are done, both splits together. The first record has 0."""

    iteration: int
    windows: int
    total: int


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written."""

    iteration: int


@dataclass(frozen=True)
class Sample:
    """What the model writes at this point: token ids, drawn from an empty prompt."""

    iteration: int
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Done:
    """The training ended: all iterations are done, or the caller stopped it, or the validation loss fell no more, or it fell
    to `target_loss`. `path` is where the run is now: its directory may have been moved."""

    iteration: int
    end: Literal["finished", "interrupted", "out of patience", "at the target"]
    path: Path


Event = Progress | Measurement | Evaluating | Evaluation | Saved | Sample | Done


class Unread(NamedTuple):
    """What a step gives, still on the device: its loss and, if it is logged, the norm of its gradients; and its speed, if that is
    known already."""

    iteration: int
    loss: mx.array
    norm: mx.array | None
    tokens_per_second: float | None = None


class Diverged(UserError):
    """The loss is not finite."""


def check_fits(gpt: GPTConfig, config: TrainConfig, data: Dataset) -> None:
    """Raise `UserError` if the text cannot fill a window of each split, or the machine cannot hold the training."""
    check_splits(data, gpt.block_size)
    if problem := memory_problem(gpt, config):
        raise problem


def memory_problem(gpt: GPTConfig, config: TrainConfig) -> UserError | None:
    """The error if a training takes more memory than the machine has, or an array that is too large for it."""
    this_machine = machine()
    fused = this_machine.fuses_attention(gpt.head_size)
    remedy = (
        f"lower batch_size ({config.batch_size}), block_size ({gpt.block_size}), n_layer ({gpt.n_layer}), "
        f"n_embd ({gpt.n_embd}) or eval_iters ({config.eval_iters})"
    )
    needed, there = estimated_memory(gpt, config, fused), this_machine.memory()
    if needed > there:
        return UserError(
            f"training this model takes about {needed / 1e9:,.1f} GB of memory, and this machine has {there / 1e9:,.1f} GB "
            "for it",
            remedy,
        )
    largest, limit = largest_array(gpt, config, fused), this_machine.largest_array()
    if largest > limit:
        return UserError(
            f"training this model takes an array of {largest / 1e9:,.1f} GB, and this machine allows {limit / 1e9:,.1f} GB",
            remedy,
        )
    return None


def make_step(
    model: GPT, optimizer: optim.Optimizer, config: TrainConfig, ranks: Ranks = ALONE, measured: bool = False
) -> Step:
    """Return `step(idx, targets)`, which updates the model once and returns the mean loss, not yet computed. Both arguments
    are (A * B, T), for A batches whose gradients are accumulated; of several ranks each gives its share of every batch. A step
    that is `measured` returns the loss and the norm of the gradients, before they are clipped, which takes more time.

    Initialise the optimizer first: a state that grows at the first call is traced twice. Evaluate `model.state`,
    `optimizer.state` and `mx.random.state` together with the loss.
    """
    this_machine = machine()
    this_machine.prepare(model)
    ranks.use_own_dropout(model, config.batch_size)

    def mean_loss(model: GPT, idx: mx.array, targets: mx.array) -> mx.array:
        return this_machine.token_losses(model, idx, targets).mean()

    # the masks of a rank are for all its rows together
    whole = ranks.size > 1 and model.config.dropout > 0
    loss = mean_loss if whole else this_machine.in_parallel(mean_loss)
    if config.dtype == "bfloat16":
        loss = in_bfloat16(loss)
    loss_and_grad = accumulated(nn.value_and_grad(model, loss), config.gradient_accumulation_steps)
    loss_and_grad = ranks.average(loss_and_grad, config.batch_size)

    def step(idx: mx.array, targets: mx.array) -> mx.array | tuple[mx.array, mx.array]:
        loss, grads = loss_and_grad(model, idx, targets)
        norm = norm_of(grads) if measured or config.grad_clip else None
        if config.grad_clip:
            grads = clipped(grads, norm, config.grad_clip)
        optimizer.update(model, grads)
        return (loss, norm) if measured else loss

    if config.backend == "eager":
        return step
    # without the random state, dropout would draw the same mask at every step
    state = [model.state, optimizer.state, mx.random.state]
    return partial(mx.compile, inputs=state, outputs=state)(step)


def start_step(model: GPT, config: TrainConfig) -> tuple[Step, list]:
    """The step of `make_step` with a new optimizer, and the state that it changes: evaluate it together with the loss."""
    optimizer = make_optimizer(config)
    optimizer.init(model.trainable_parameters())
    return make_step(model, optimizer, config), [model.state, optimizer.state, mx.random.state]


def in_bfloat16(loss_fn: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """`loss_fn` computed with copies of the weights that are rounded to bfloat16. Gradients and updates are those of the
    float32 weights."""

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
        first, *rest = zip(mx.split(idx, steps), mx.split(targets, steps))
        total, sums = loss_and_grad(model, *first)
        for part in rest:
            # each part waits for the one before, so that memory holds the activations of one
            waiting = mx.depends(list(part), [each for _, each in tree_flatten(sums)])
            loss, grads = loss_and_grad(model, *waiting)
            total, sums = total + loss, tree_map(mx.add, sums, grads)
        return total / steps, tree_map(lambda each: each / steps, sums)

    return over_parts


def start_from(run: Run, model: GPT) -> None:
    """Save the weights of `model` as the checkpoint of iteration 0 of `run`, which is new.

    Seeds MLX's global random state. Raises `UserError` if the run has weights already, or the file cannot be written.
    """
    mx.random.seed(run.train_config.seed)
    optimizer = make_optimizer(run.train_config)
    optimizer.init(model.trainable_parameters())
    with run.locked() as writer:
        if run.checkpoint.exists():
            raise UserError(f"the run {run.path} has weights already", "start a new run")
        writer.save(model, optimizer, Position())


def train(
    run: Run,
    data: Dataset,
    should_stop: Callable[[], bool] = lambda: False,
    sample_tokens: int = 0,
    ranks: Ranks = ALONE,
) -> Iterator[Event]:
    """Train `run` from its checkpoint (or from the beginning) to its last iteration; yield what happens.

    Every `eval_interval` iterations, and at the end, both splits of `data` are evaluated, the model writes a sample of
    `sample_tokens` tokens into the log, if that is not 0, and a checkpoint is written. Between two intervals the sample is yielded,
    too. Samples do not change the training.
    `should_stop` is called before every step. When it returns true, a checkpoint is written and the stream ends with `Done`.

    Of several `ranks`, all call this with the same run and the same text. Only the first reads and writes the run's directory, and
    only it yields samples; one that should stop stops all.

    Seeds MLX's global random state. Raises `UserError` if the text does not fit, if a file cannot be written, or if another
    process trains the run; `Diverged` if the loss is not finite.
    """
    yield from _train(run, data, should_stop, sample_tokens, ranks)


def _train(
    run: Run, data: Dataset, should_stop: Callable[[], bool], sample_tokens: int, ranks: Ranks
) -> Iterator[Event]:
    check_fits(run.gpt_config, ranks.own_part(run.train_config), data)
    should_stop = ranks.any(should_stop)
    with run.locked() if ranks.is_first else nullcontext(NoWriter(run.path)) as writer:
        training = Training(run, writer, data, ranks)
        if training.iteration > run.train_config.num_iter:
            raise UserError(
                f"the run {run.path} is at iteration {training.iteration} already",
                f"give a larger `num_iter` than {run.train_config.num_iter}",
            )
        writer.complete_best(training.model, training.history)
        writer.write_config()  # with the changes of `extended`, and the versions in use now
        while not training.is_over():
            yield from training.steps(should_stop)
            if should_stop():
                training.check_weights()  # no loss has shown the last update yet
                yield training.save()
                yield Done(training.iteration, "interrupted", writer.path)
                return
            evaluation = yield from training.evaluate()
            sample = training.sample(sample_tokens) if sample_tokens and ranks.is_first else None
            saved = training.save()
            yield evaluation
            yield saved
            if sample and not training.is_over():
                yield sample
        yield Done(training.iteration, end_of(training.history, run.train_config) or "finished", writer.path)


def end_of(
    history: Sequence[Evaluation], config: TrainConfig
) -> Literal["finished", "out of patience", "at the target"] | None:
    """Why a training with the evaluations of `history` is over; None if it is not."""
    if not history:
        return None
    if history[-1].iteration >= config.num_iter:
        return "finished"
    if history[-1].valid_loss <= config.target_loss and config.target_loss > 0:
        return "at the target"
    return "out of patience" if 0 < config.patience <= since_best(history) else None


class Training:
    """A training under way: the model, the optimizer, how far they are, and the losses so far. Seeds MLX's global random
    state."""

    def __init__(self, run: Run, writer: Writer | NoWriter, data: Dataset, ranks: Ranks):
        self.run, self.writer, self.data, self.config, self.ranks = run, writer, data, run.train_config, ranks
        mx.random.seed(self.config.seed)
        self.model = GPT(run.gpt_config)
        self.optimizer = make_optimizer(self.config)
        self.optimizer.init(self.model.trainable_parameters())
        self.saved, self.history, self.is_saved = self._restored()
        self.iteration, self.train_seconds = self.saved.iteration, self.saved.train_seconds
        self.log: list[Line] = run.log() if ranks.is_first else []
        self.step, self.measured_step = (
            make_step(self.model, self.optimizer, self.config, ranks, measured) for measured in (False, True)
        )
        self.estimate = make_estimate(self.model, self.config.backend)
        self.state = [self.model.state, self.optimizer.state, mx.random.state]
        mx.eval(self.state)
        self.loss = math.nan  # the newest one that the host has read
        self.unread: deque[Unread] = deque()
        self.timed = self.iteration, time.perf_counter()  # the last step whose time is known, and that time

    def _restored(self) -> tuple[Position, list[Evaluation], bool]:
        """Load the checkpoint, which the first rank has; return how far it is, the losses up to it, and whether there is one."""
        found = None
        if self.ranks.is_first:
            saved = self.run.restore(self.model, self.optimizer)
            found = asdict(saved), [asdict(each) for each in self.run.history()], self.run.checkpoint.exists()
        position, history, is_saved = self.ranks.broadcast(found)
        self.ranks.broadcast_state(self.model, self.optimizer)
        return Position(**position), [Evaluation(**each) for each in history], is_saved

    @property
    def evaluated(self) -> int:
        """The iteration of the last evaluation; 0 before the first."""
        return self.history[-1].iteration if self.history else 0

    def is_over(self) -> bool:
        """Whether all iterations are done and evaluated, or no better loss came for `patience` evaluations, or the loss is at
        `target_loss`."""
        return end_of(self.history, self.config) is not None

    def steps(self, should_stop: Callable[[], bool]) -> Iterator[Progress | Measurement]:
        """Train up to the next evaluation, or until `should_stop` returns true."""
        config, block_size = self.config, self.run.gpt_config.block_size
        target = min(config.num_iter, (self.evaluated // config.eval_interval + 1) * config.eval_interval)
        shape = config.batch_size, block_size, config.gradient_accumulation_steps
        started = time.perf_counter() - self.train_seconds
        self.timed = self.iteration, time.perf_counter()
        # One loss stays unread: the device works on that step while the host reports. The first time in an interval the host
        # waits for it, for only so is there a loss to report, and the speed of a first step.
        leave = 0
        while self.iteration < target and not should_stop():
            batch = training_batch(self.data.train_tokens, config.seed, self.iteration, *shape, self.ranks.share)
            self._start_step(*map(mx.array, batch))
            if self.iteration % REPORT_INTERVAL == 0:
                yield from self._read_losses(leave)
                leave = 1
                yield Progress(self.iteration, self.loss, time.perf_counter() - started)
        yield from self._read_losses(leave=0)
        mx.eval(self.state)
        self.train_seconds = time.perf_counter() - started

    def _start_step(self, idx: mx.array, targets: mx.array) -> None:
        """Start a step; the host reads later what comes out of it."""
        self.iteration += 1
        if is_logged(self.iteration, REPORT_INTERVAL):
            loss, norm = self.measured_step(idx, targets)
            mx.async_eval([loss, norm, self.state])
        else:
            loss, norm = self.step(idx, targets), None
            mx.async_eval([loss, self.state])
        self.unread.append(Unread(self.iteration, loss, norm))

    def _speed(self, done: int) -> float:
        """Tokens per second since the call before, or since the interval began; the step `done` has just been done."""
        (since, then), self.timed = self.timed, (done, time.perf_counter())
        return (done - since) * tokens_per_step(self.run.gpt_config, self.config) / (self.timed[1] - then)

    def evaluate(self) -> Generator[Evaluating, None, Evaluation]:
        """Estimate the losses of both splits, and add them to the history."""
        config, block_size = self.config, self.run.gpt_config.block_size
        if self.ranks.size > 1:
            self.check_weights()
            self.ranks.check_same(self.model)
        count = config.eval_iters * config.batch_size  # windows of each split
        windows, losses = 0, []
        yield Evaluating(self.iteration, windows, 2 * count)
        started = told = time.perf_counter()
        for tokens in (self.data.train_tokens, self.data.valid_tokens):
            own: list[SplitLoss] = []
            for batch in self.estimate(tokens, count, self.ranks.share):
                own.append(batch)
                self.ranks.note_progress()
                windows = min(windows + self.ranks.size * batch.tokens // block_size, 2 * count)
                if time.perf_counter() - told >= REPORT_SECONDS:
                    yield Evaluating(self.iteration, windows, 2 * count)
                    told = time.perf_counter()
            losses.append(self.ranks.sum(own).mean)
        if not all(map(math.isfinite, losses)):
            raise self._diverged(self.iteration)
        evaluation = Evaluation(
            iteration=self.iteration,
            train_loss=losses[0],
            valid_loss=losses[1],
            train_tokens=(self.iteration - self.evaluated) * tokens_per_step(self.run.gpt_config, config),
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
        """Write the log and a checkpoint, and at an evaluation the history and the best weights."""
        self.saved = Position(self.iteration, self.train_seconds)
        self.writer.save(self.model, self.optimizer, self.saved, self.history, self.log)
        self.is_saved = True
        return Saved(self.iteration)

    def sample(self, count: int) -> Sample:
        """Let the model write `count` tokens from an empty prompt. MLX's global random state stays as it is."""
        tokens = tuple(generate(self.model, [self.run.tokenizer.start_token], count, self.config.seed))
        self.model.train()
        self.log.append(Excerpt(self.iteration, self.run.tokenizer.decode(tokens)))
        return Sample(self.iteration, tokens)

    def check_weights(self) -> None:
        """Raise `Diverged` unless all weights are finite."""
        if not all(mx.isfinite(p).all().item() for _, p in tree_flatten(self.model.parameters())):
            raise self._diverged(self.iteration)

    def _read_losses(self, leave: int) -> Iterator[Measurement]:
        """Read all unread losses but the newest `leave`. Log, and yield, the steps that were measured."""
        while len(self.unread) > leave:
            iteration, loss, norm, speed = self.unread.popleft()
            self.loss = loss.item()
            if not math.isfinite(self.loss):
                raise self._diverged(iteration)
            if norm is not None:
                # a step with such gradients leaves no weight finite
                if not math.isfinite(size := norm.item()):
                    raise self._diverged(iteration)
                rate, speed = rate_at(self.config, iteration - 1), speed or self._speed(iteration)
                line = Measurement(iteration, self.loss, rate, size, speed)
                self.log.append(line)
                yield line
        # the step before the newest has just been done
        if self.unread and self.unread[-1].norm is not None:
            newest = self.unread.pop()
            self.unread.append(newest._replace(tokens_per_second=self._speed(newest.iteration - 1)))

    def _diverged(self, iteration: int) -> Diverged:
        saved = self.saved.iteration
        kept = f"the checkpoint of iteration {saved} is kept" if self.is_saved else "no checkpoint had been written"
        return Diverged(
            f"the loss is not finite at iteration {iteration}, so training stopped ({kept})",
            f"try a learning rate lower than {self.config.learning_rate:g}"
            + (f", and a `muon_lr` lower than {self.config.muon_lr:g}" if self.config.optimizer == "muon" else ""),
        )
