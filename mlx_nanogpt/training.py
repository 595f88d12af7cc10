"""Training: the compiled step, the loop, and `train()`, which records the loop in a run.

The loop yields records and writes nothing. A progress bar, a log, a tracker and a test read the same records.
"""

import atexit
import math
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from functools import partial
from inspect import GEN_CLOSED, GEN_SUSPENDED, getgeneratorstate
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_flatten

from .config import GPTConfig, TrainConfig, tokens_per_step
from .errors import UserError
from .evaluation import estimate_batches, split_losses
from .gradients import loss_and_gradients, soft_targets
from .machine import machine
from .machine.memory import memory_problem, memory_warning
from .model import GPT
from .optimizer import clip, make_optimizer, norm_of, rate_at
from .ranks import ALONE, Ranks
from .records import (
    REPORT_EVERY,
    Diverged,
    Done,
    Evaluating,
    Evaluation,
    Progress,
    Record,
    Snapshot,
    State,
    reason_to_end,
)
from .runs.interrupt import Interrupt
from .runs.recorder import Recorder
from .runs.run import Run
from .runs.snapshots import snapshot_steps
from .text.batches import training_batch
from .text.dataset import Dataset, check_splits
from .text.loss import SplitLoss

REPORT_SECONDS = 0.25  # at least, between two records of an evaluation

Step = Callable[[mx.array, mx.array], tuple[mx.array, mx.array]]
ShouldStop = Callable[[], bool]


def make_step(
    model: GPT, optimizer: optim.Optimizer, config: TrainConfig, ranks: Ranks = ALONE, teachers: Sequence[GPT] = ()
) -> Step:
    """Return `step(idx, targets)`, which updates the model once and returns the mean loss and the norm of the gradients before they
    are clipped, not yet computed. Both arguments are (A * B, T), for A batches whose gradients are accumulated; each rank passes
    its own rows of every batch. With `teachers`, the loss is that of their `soft_targets`.

    Initialise the optimizer first: a state that grows at the first call is traced twice. Evaluate `State.arrays` together with
    the loss. Drop a norm that you do not read: it keeps all gradients in memory. An output more is fused less: with bfloat16, or
    with accumulation and no clipping, a GPU's step has a kernel more for each parameter.
    """
    ranks.use_own_dropout(model, config.batch_size)
    machine().prepare(model, optimizer)  # on Linux, model.loss then computes parts of a batch at the same time
    loss_and_grad = ranks.average(loss_and_gradients(model, config), config.batch_size)

    def step(idx: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
        loss, grads = loss_and_grad(idx, targets)
        norm = norm_of(grads)  # computed only if somebody evaluates it
        if config.grad_clip:
            grads = clip(grads, norm, config.grad_clip)
        optimizer.update(model, grads)
        return loss, norm

    if config.backend == "compiled":
        # without the random state, dropout would draw the same mask at every step
        state = [model.state, optimizer.state, mx.random.state]
        step = partial(mx.compile, inputs=state, outputs=state)(step)
    if not teachers:
        return step
    soften = soft_targets(teachers, config.distill, config.backend)
    return lambda idx, targets: step(idx, soften(idx, targets))


def steps(
    state: State, data: Dataset, config: TrainConfig, should_stop: ShouldStop = lambda: False, ranks: Ranks = ALONE
) -> Iterator[Record]:
    """Move `state` to the end of training, interval by interval, and yield what happens. It writes nothing and knows no run."""
    state.model.train()
    step = make_step(state.model, state.optimizer, config, ranks, state.teachers)
    mx.eval(state.arrays)
    if config.snapshots and state.iteration == 0:
        yield Snapshot(state.iteration)
    while (end := reason_to_end(state.history, config)) is None:
        is_stopped = yield from interval(state, data, config, step, should_stop, ranks)
        check_weights(state, config)  # no loss has shown the last update yet
        if is_stopped or should_stop() or (yield from evaluation(state, data, config, should_stop, ranks)):
            end = "interrupted"
            break
    if config.snapshots and end in ("out of patience", "at the target"):
        yield Snapshot(state.iteration)
    yield Done(state.iteration, end)


def interval(
    state: State, data: Dataset, config: TrainConfig, step: Step, should_stop: ShouldStop, ranks: Ranks
) -> Generator[Progress | Snapshot, None, bool]:
    """Train up to the next evaluation, or until `should_stop` returns true; yield every tenth step, and each with a snapshot. Return
    whether it was stopped."""
    shape = config.batch_size, state.model.config.block_size, config.gradient_accumulation_steps
    kept, is_stopped = snapshot_steps(config), False
    target = min(config.num_iter, (state.evaluated // config.eval_interval + 1) * config.eval_interval)
    started, meter = time.perf_counter() - state.train_seconds, Meter(state, config)
    while state.iteration < target and not (is_stopped := should_stop()):
        batch = training_batch(
            data.train_tokens, config.seed, state.iteration, *shape, ranks.share, data.beginnings, config.order
        )
        loss, norm = step(*map(mx.array, batch))  # a graph, built while the device works on the step before
        progress = meter.read() if meter.is_due else None
        state.iteration += 1
        meter.note(state.iteration, loss, norm)
        norm = None  # it would keep all gradients in memory
        mx.async_eval(meter.newest, state.arrays)
        state.train_seconds = time.perf_counter() - started  # the caller may leave at a record
        if state.iteration in kept:  # before the progress, at which the caller may leave, too
            check_weights(state, config)
            yield Snapshot(state.iteration)
        if progress:
            yield progress
    progress = meter.read()
    mx.eval(state.arrays)
    state.train_seconds = time.perf_counter() - started
    if progress:
        yield progress
    return is_stopped


class Meter:
    """The losses that the host has not read yet, and the speed of an interval."""

    def __init__(self, state: State, config: TrainConfig):
        self.config, self.tokens_per_step = config, tokens_per_step(state.model.config, config)
        self.unread: list[tuple[int, mx.array, mx.array | None]] = []  # iteration, loss, and the norm if it is reported
        self.reported, self.clock = state.iteration, time.perf_counter()

    @property
    def is_due(self) -> bool:
        """Whether the newest step is reported."""
        return bool(self.unread) and self.unread[-1][2] is not None

    @property
    def newest(self) -> tuple:
        """The arrays of the newest step."""
        return self.unread[-1][1:]

    def note(self, iteration: int, loss: mx.array, norm: mx.array) -> None:
        """Add a step that was started."""
        self.unread.append((iteration, loss, norm if iteration % REPORT_EVERY == 0 else None))

    def read(self) -> Progress | None:
        """Wait for the losses and check them; return the progress at the newest step if it is reported."""
        progress = None
        for iteration, loss, norm in self.unread:
            # a step with such gradients leaves no weight finite
            check_finite([loss.item(), 0.0 if norm is None else norm.item()], iteration, self.config)
            if norm is not None:
                steps, now = iteration - self.reported, time.perf_counter()
                speed = steps * self.tokens_per_step / (now - self.clock)
                progress = Progress(iteration, loss.item(), rate_at(self.config, iteration - 1), norm.item(), speed)
                self.reported, self.clock = iteration, now
        self.unread.clear()
        return progress


def evaluation(
    state: State, data: Dataset, config: TrainConfig, should_stop: ShouldStop = lambda: False, ranks: Ranks = ALONE
) -> Generator[Evaluating | Evaluation, None, bool]:
    """Estimate the losses of both splits, and add them to the history. Return whether it was stopped before, and added nothing; several
    ranks evaluate to the end."""
    model, count = state.model, config.eval_iters * config.batch_size  # windows of each split
    ranks.check_same(model)
    windows, losses = 0, []
    yield Evaluating(state.iteration, windows, 2 * count)
    started = reported = time.perf_counter()
    for tokens in (data.train_tokens, data.valid_tokens):
        own: list[SplitLoss] = []
        for batch in split_losses(model, estimate_batches(model, tokens, count, ranks.share), config.backend):
            own.append(batch)
            ranks.note_progress()
            windows = min(windows + ranks.size * batch.tokens // model.config.block_size, 2 * count)
            if time.perf_counter() - reported >= REPORT_SECONDS:
                if ranks.size == 1 and should_stop():
                    return True  # a run that is resumed evaluates anew
                yield Evaluating(state.iteration, windows, 2 * count)
                reported = time.perf_counter()
        losses.append(ranks.sum(own).mean)
    mx.clear_cache()  # a GPU's freed arrays have other sizes than those of a step
    check_finite(losses, state.iteration, config)
    result = Evaluation(
        iteration=state.iteration,
        train_loss=losses[0],
        valid_loss=losses[1],
        train_tokens=(state.iteration - state.evaluated) * tokens_per_step(model.config, config),
        train_seconds=state.train_seconds,
        eval_tokens=count * model.config.block_size,
        eval_seconds=time.perf_counter() - started,
        corpus=data.corpus.name,
        device=mx.default_device().type.name,
    )
    state.history.append(result)
    state.train_seconds = 0.0
    yield result
    return False


def check_weights(state: State, config: TrainConfig) -> None:
    """Raise `Diverged` unless all weights are finite."""
    finite = mx.stack([mx.isfinite(array).all() for _, array in tree_flatten(state.model.trainable_parameters())])
    check_finite([0.0 if finite.all().item() else math.nan], state.iteration, config)


def check_finite(numbers: list[float], iteration: int, config: TrainConfig) -> None:
    """Raise `Diverged` unless all `numbers` are finite."""
    if not all(map(math.isfinite, numbers)):
        muon = f", and a `muon_lr` lower than {config.muon_lr:g}" if config.optimizer == "muon" else ""
        raise Diverged(
            f"the loss is not finite at iteration {iteration}",
            f"try a learning rate lower than {config.learning_rate:g}{muon}",
        )


def train(
    run: Run,
    data: Dataset,
    should_stop: ShouldStop | None = None,
    sample_tokens: int = 0,
    model: GPT | None = None,
    ranks: Ranks = ALONE,
) -> Iterator[Record]:
    """Train `run` from its checkpoint, or from the beginning, to its last iteration; yield what happens. An evaluation is yielded after
    it is on the disk, progress before.

    Every `eval_interval` iterations, and at the end, both splits of `data` are evaluated, the model writes a `Sample` of
    `sample_tokens` tokens, if that is not 0, and a checkpoint is written, before the evaluation and after it. Samples do not change
    training. `should_stop` is called before every step, and in a long evaluation. When it returns true, a checkpoint is written, and the
    stream ends with `Done`.

    Nothing is lost when you leave the loop: with `break`, with an error of your own, or with Ctrl-C or the stop button of a
    notebook, a checkpoint of the last whole step is written first. Another `train` goes on from there, bit for bit as if it had
    not been stopped. A second Ctrl-C does not wait for the checkpoint.

    `model` may be a GPT of the user's own: a subclass, or one with own blocks or layers. It is trained in place; its weights count
    until the run has a checkpoint. Of several `ranks`, all call this with the same arguments, and only rank 0 reads and writes the
    run's directory and yields samples.

    Seeds MLX's global random state. Raises `UserError` if the text does not fit, if a file cannot be written, if another process
    trains the run, or if the run belongs to a model of another class; `Diverged` if the loss is not finite; `DeviceFailed` if the GPU failed.
    """
    if run.teachers and ranks.size > 1:
        raise UserError(f"several ranks cannot train the run {run.path}, which has teachers", "train it in one process")
    own_part = ranks.own_part(run.train_config)
    teachers = [teacher.gpt for teacher in run.teachers]
    check_fits(run.gpt_config, own_part, data, teachers)
    if warning := memory_warning(run.gpt_config, own_part, teachers):
        warnings.warn(warning, RuntimeWarning, stacklevel=2)
    if (data.corpus.sha256, data.tokenizer) != (run.corpus.sha256, run.tokenizer):
        raise UserError(
            f"{data.corpus.name} is another text, or has other tokens, than the run {run.path}", "give that of the run"
        )
    with Recorder(run, sample_tokens, ranks) as recorder:
        state, interrupt = recorder.restore(model), Interrupt()
        stop = ranks.any(lambda: interrupt.came or (should_stop is not None and should_stop()))
        records = recorder.record(steps(state, data, run.train_config, stop, ranks), state)
        yield from saved_when_left(records, state, recorder, interrupt)


def saved_when_left(
    records: Generator[Record, None, None], state: State, recorder: Recorder, interrupt: Interrupt
) -> Iterator[Record]:
    """Yield `records`, which move `state`. If the caller leaves, or a Ctrl-C comes, a checkpoint of the last whole step is written
    first. After a Ctrl-C `records` have to end."""
    config = recorder.run.train_config

    def save() -> None:
        if getgeneratorstate(records) == GEN_SUSPENDED and recorder.saved != state.iteration:  # the state is whole
            with suppress(Diverged):
                check_weights(state, config)
                recorder.save(state)

    atexit.register(save)  # a program that keeps the records closes them when MLX is gone
    try:
        while True:
            with interrupt.held():
                record = next(records, None)
                if interrupt.came:
                    for _ in records:  # to the end of the step, and the checkpoint
                        pass
            if interrupt.came:
                raise KeyboardInterrupt(f"saved at iteration {state.iteration}; train goes on from there")
            if record is None:
                return
            yield record
    except BaseException:
        if getgeneratorstate(records) == GEN_CLOSED:  # perhaps in the middle of a step
            mx.random.seed(config.seed)  # a trace that failed leaves no number in MLX's random state
        save()
        raise
    finally:
        atexit.unregister(save)


def start_step(model: GPT, config: TrainConfig, teachers: Sequence[GPT] = ()) -> tuple[Step, list[Any]]:
    """The step of `make_step` with a new optimizer, and the arrays that it changes: evaluate them together with the loss."""
    optimizer = make_optimizer(config)
    optimizer.init(model.trainable_parameters())
    return make_step(model, optimizer, config, teachers=teachers), State(model, optimizer).arrays


def check_fits(gpt: GPTConfig, config: TrainConfig, data: Dataset, teachers: Sequence[GPTConfig] = ()) -> None:
    """Raise `UserError` if the text cannot fill a window of each split, or if the machine lacks the memory."""
    check_splits(data, gpt.block_size)
    if problem := memory_problem(gpt, config, teachers):
        raise problem
