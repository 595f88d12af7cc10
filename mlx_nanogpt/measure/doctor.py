"""Is this machine right, and as fast as it should be? Checks on the machine itself, in a few seconds.

Each check is a function that returns a detail, or raises `Wrong` with the reason. The reference is the plain model on the CPU.
"""

import fcntl
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map

from ..config import GPTConfig, TrainConfig, tokens_per_step
from ..evaluation import estimate_loss
from ..files import Folder, locked
from ..generation import generate, make_sampler
from ..machine import can_compile, chip, describe_device, machine, rounds_products
from ..model import GPT, Cache
from ..optimizer import make_optimizer
from ..records import Saved
from ..runs.run import create_run, open_run
from ..text.dataset import tokenize
from ..text.identity import Corpus
from ..training import start_step, train
from .benchmark import NANOLUX_GPT, NANOLUX_TRAIN, measure_generation
from .plan import measure
from .roofline import expected_seconds

SHAPE = GPTConfig(vocab_size=31, n_embd=32, head_size=16, n_layer=2, block_size=16)
TRAINING = TrainConfig(batch_size=4, num_iter=20, eval_interval=5, eval_iters=2, learning_rate=1e-2)
HEAD_SIZES = (16, 32, 64, 128)
LENGTHS = (*range(1, 10), 64)  # Metal has other kernels up to 8 queries
DATA = "".join(chr(33 + i * i % 29) + " \n"[i % 7 == 0] for i in range(3000))

# Logits of these models reach 4 and sum up to 128 products: float32 rounds them by up to 128 * 2^-24 * 4 = 3e-5, in each of ten
# operations. With operands rounded to TF32's 10 bits, as a simulation on a CPU, they differ by up to 3e-3.
FLOAT32, TF32 = 2e-4, 2e-2
BFLOAT16 = 0.05  # nats of loss: 2^-8, relative, in each of some ten operations


class Wrong(Exception):
    """A check failed: the reason."""


@dataclass(frozen=True)
class Check:
    """The result of a check. `detail` is what was found, or the reason why it failed."""

    name: str
    passed: bool
    detail: str
    seconds: float


def examine() -> Iterator[Check]:
    """Make all checks, one after the other. Files are written to a folder of their own in the current one, and removed."""
    for name, check in CHECKS.items():
        device, started = mx.default_device(), time.perf_counter()
        try:
            passed, detail = True, check()
        except Wrong as reason:
            passed, detail = False, str(reason)
        except Exception as error:  # a check that cannot be made has failed, and the others are still made
            passed, detail = False, f"{type(error).__name__}: {error}"
        finally:
            mx.set_default_device(device)
        yield Check(name, passed, detail, time.perf_counter() - started)


def tolerance() -> float:
    return TF32 if rounds_products() else FLOAT32


def _device() -> str:
    if not machine().has_fast_blas:
        raise Wrong(f"{describe_device()}: MLX trains 8 times slower than it could")
    compiles = "mx.compile compiles" if can_compile() else "mx.compile does nothing without g++"
    memory = f"{machine().memory() / 1e9:,.1f} GB of memory for a training"
    return f"{describe_device()}, {memory}, {'TF32' if rounds_products() else 'float32'} products, {compiles}"


def _same_as_on_the_cpu() -> str:
    """Logits, loss and gradients of the model as this machine runs it, and of the plain model on the CPU."""
    worst = 0.0
    for head_size in HEAD_SIZES:
        for T in (8, 16):
            shape = replace(_with_heads(head_size), activation="gelu", bias="all")
            idx, targets = _tokens(2, 3, T)
            with _on_the_cpu():
                plain = _lively(shape)
                expected = _loss_and_gradients(plain, idx, targets)
            model = _lively(shape)
            machine().prepare(model, make_optimizer(TRAINING))
            found = _loss_and_gradients(model, idx, targets)
            worst = max(worst, *(_difference(a, b) for a, b in zip(found, expected, strict=True)))
    return _within(worst, tolerance(), "logits, losses and gradients")


def _no_token_sees_the_future() -> str:
    """Every form of attention against NumPy and with later keys changed, and a whole model with later tokens changed."""
    worst = leak = 0.0
    for head_size in HEAD_SIZES:
        model = _lively(_with_heads(head_size)).eval()
        machine().prepare(model)
        for idx in _tokens(1, 2, SHAPE.block_size), _tokens(1, 2, 8)[..., :8]:
            past = idx.shape[-1] // 2
            (one,) = idx
            two = mx.concatenate([one[:, :past], (one[:, past:] + 1) % SHAPE.vocab_size], axis=1)
            leak = max(leak, _difference(model(one)[:, :past], model(two)[:, :past]))
        attention = model.h[0].attn.attention
        for T in LENGTHS:
            q, k, v = (mx.random.normal((1, 2, T, head_size), key=mx.random.key(i)) for i in range(3))
            found = attention(q, k, v, head_size**-0.5)
            worst = max(worst, _difference(found, _numpy_attention(q, k, v)))
            past = max(T // 2, 1)
            later = mx.arange(T)[:, None] >= past
            other = attention(q, mx.where(later, k + 3, k), mx.where(later, v - 3, v), head_size**-0.5)
            leak = max(leak, _difference(other[:, :, :past], found[:, :, :past]))
    if leak > FLOAT32:
        raise Wrong(f"a change of later tokens changes earlier ones by {leak:.2g}")
    return _within(worst, tolerance(), f"{len(HEAD_SIZES) * len(LENGTHS)} shapes of attention, against NumPy")


def _the_cache_is_right() -> str:
    """Logits with a cache, token by token, and without one."""
    worst = 0.0
    for head_size in HEAD_SIZES:
        model = _lively(_with_heads(head_size)).eval()
        machine().prepare(model)
        (idx,) = _tokens(1, 1, SHAPE.block_size)
        for first in (1, 9):
            cache = Cache(model)
            for end in range(first, SHAPE.block_size + 1):
                start = 0 if end == first else end - 1
                cached, whole = model.next_logits(idx[:, start:end], cache), model(idx[:, :end])[:, -1]
                worst = max(worst, _difference(cached, whole))
    return _within(worst, tolerance(), "logits")


def _a_step_repeats() -> str:
    """Steps with dropout and accumulation, three times from the same beginning."""
    weights = []
    for _ in range(3):
        model = _stepped(replace(SHAPE, dropout=0.1), replace(TRAINING, gradient_accumulation_steps=2), steps=4)
        weights.append(_bytes(model))
    if len(set(weights)) > 1:
        raise Wrong("the same steps gave different weights: something is added in an arbitrary order")
    return "the same weights, bit for bit"


def _dropout_draws_anew() -> str:
    """The loss of one batch, with dropout and a rate that moves nothing."""
    losses: list[float] = []
    _stepped(replace(SHAPE, dropout=0.5), replace(TRAINING, learning_rate=1e-30), steps=4, losses=losses)
    if len(set(losses)) < len(losses):
        raise Wrong("two steps in a row dropped the same activations")
    return "another mask at each step"


def _compiled_is_eager() -> str:
    return _same_losses(TRAINING, replace(TRAINING, backend="eager"), tolerance())


def _a_batch_is_learned() -> str:
    losses: list[float] = []
    _stepped(SHAPE, TRAINING, steps=150, losses=losses)
    if not losses[-1] < 0.1 < 1 < losses[0]:
        raise Wrong(f"150 steps on one batch took its loss from {losses[0]:.3g} to {losses[-1]:.3g}, not below 0.1")
    return f"the loss of a batch fell from {losses[0]:.2f} to {losses[-1]:.3f}"


def _bfloat16_is_close() -> str:
    return _same_losses(TRAINING, replace(TRAINING, dtype="bfloat16"), BFLOAT16)


def _same_losses(config: TrainConfig, other: TrainConfig, limit: float) -> str:
    """Ten steps in two ways."""
    losses: tuple[list[float], list[float]] = [], []
    for each, collected in zip((config, other), losses):
        _stepped(SHAPE, each, steps=10, losses=collected)
    return _within(max(abs(a - b) for a, b in zip(*losses)), limit, "the losses of ten steps")


def _evaluation_is_exact() -> str:
    """An evaluation of a model with dropout, and the plain loss of the same windows without it."""
    model = _lively(replace(SHAPE, dropout=0.5))
    tokens = np.random.default_rng(0).integers(SHAPE.vocab_size, size=SHAPE.block_size + 1).astype(np.uint16)
    found = estimate_loss(model, tokens, 3)  # the same window, three times
    with _on_the_cpu():
        plain = _lively(replace(SHAPE, dropout=0.5)).eval()
        expected = plain.loss(mx.array(tokens[None, :-1]), mx.array(tokens[None, 1:])).item()
    return _within(abs(found - expected), tolerance(), "losses")


def _generation_repeats() -> str:
    """A text beyond the context, twice from the same seed, and greedy against a plain loop."""
    model, greedy = _lively(SHAPE), make_sampler(temperature=0)
    first, second = (list(generate(model, [1], 40, seed=3)) for _ in range(2))
    if first != second:
        raise Wrong("the same seed wrote two texts")
    with _on_the_cpu():
        plain, text = _lively(SHAPE).eval(), [1]
        margin = []
        for _ in range(40):
            logits = np.array(plain(mx.array([text[-SHAPE.block_size :]])))[0, -1]
            second, highest = np.sort(logits)[-2:]
            margin.append(highest - second)
            text.append(int(logits.argmax()))
    clear = next((i for i, each in enumerate(margin) if each < 2 * tolerance()), 40)  # up to a near tie
    if list(generate(model, [1], 40, seed=3, sample=greedy))[:clear] != text[1 : clear + 1]:
        raise Wrong("the likeliest tokens are not those of a plain loop")
    return "the same text twice, and that of a plain loop"


PATIENCE = 60  # seconds for two checkpoints of a tiny model
KILLED = """
import sys
import mlx_nanogpt as gpt
from pathlib import Path
from mlx_nanogpt.measure.doctor import DATA
device, path = sys.argv[1:]
import mlx.core as mx
mx.set_default_device(getattr(mx, device))
for event in gpt.train(gpt.open_run(Path(path)), gpt.tokenize(gpt.Corpus(("doctor",), DATA))):
    print(type(event).__name__, flush=True)
"""


def _a_kill_loses_nothing() -> str:
    """A training that is killed after a checkpoint, and goes on, against one that is not killed."""
    data = tokenize(Corpus(("doctor",), DATA))
    shape = replace(SHAPE, vocab_size=data.tokenizer.vocab_size, dropout=0.1)
    with _own_folder() as folder:
        killed = create_run(shape, replace(TRAINING, num_iter=10**6), data, folder / "killed")
        _train_and_kill(killed.path)
        killed_at = killed.position().iteration
        whole = create_run(shape, TRAINING, data, folder / "whole")
        for run in (killed, whole):
            list(train(open_run(run.path).extended(num_iter=killed_at + 5), data))
        resumed, never_killed = (
            {name: np.array(array).tobytes() for name, array in mx.load(str(run.checkpoint)).items()}
            for run in (killed, whole)
        )
    if resumed != never_killed:
        raise Wrong(
            f"a training that was killed at iteration {killed_at} and went on has other weights than one that was not"
        )
    return f"killed at iteration {killed_at}, resumed: the same weights, bit for bit"


def _train_and_kill(path: Path) -> None:
    """Train the run at `path` in a process, and kill it after its second checkpoint."""
    command = [sys.executable, "-c", KILLED, mx.default_device().type.name, str(path.absolute())]
    # there, so that no file of the user's is imported in the place of a module
    with subprocess.Popen(command, cwd=path, stdout=subprocess.PIPE, text=True) as process:
        timer = threading.Timer(PATIENCE, process.kill)
        timer.start()
        assert process.stdout is not None
        saved = 0
        for line in process.stdout:
            saved += line.strip() == Saved.__name__
            if saved == 2:
                break
        process.kill()
        timer.cancel()
    if saved < 2:
        raise Wrong(f"the training to be killed ended by itself, or saved nothing in {PATIENCE} s")


def _the_disk_is_safe() -> str:
    """The current folder: files reach the disk, and a lock keeps others out."""
    with _own_folder() as folder, locked(folder) as own:
        _write(own)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "files are synchronised, and a lock keeps others out"
        finally:
            os.close(descriptor)
        raise Wrong("a second process gets a lock that is held: let no two processes train in this folder")


@contextmanager
def _own_folder() -> Iterator[Path]:
    """A temporary folder in the current one. Raises `Wrong` if the disk has no locks or cannot be written."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # of `locked`
        try:
            with tempfile.TemporaryDirectory(prefix=".mlx-gpt-doctor-", dir=".") as folder:
                yield Path(folder)
        except RuntimeWarning as warning:
            raise Wrong(str(warning)) from warning
        except OSError as error:
            raise Wrong(f"files cannot be written here ({error.strerror})") from error


def _write(folder: Folder) -> None:
    folder.write("note", "old")
    folder.write("note", "new")
    if (folder.path / "note").read_text() != "new" or os.listdir(folder.path) != ["note"]:
        raise Wrong("a file that was replaced is not the new one")


def _speed() -> str:
    """A step, a batch of an evaluation and a token with NanoLux's settings, beside what the chip should reach."""
    measured = measure(GPT(NANOLUX_GPT), NANOLUX_TRAIN)
    step, in_a_batch = measured.step_seconds.median, machine().eval_tokens // NANOLUX_GPT.block_size
    batch = in_a_batch * measured.window_seconds
    writing = measure_generation(NANOLUX_GPT, 0, rounds=2)[0].median
    found = {"step": step, "evaluation": batch, "token": 1 / writing}
    speed = tokens_per_step(NANOLUX_GPT, NANOLUX_TRAIN) / step
    times = f"{1e3 * step:.1f} ms a step ({speed:,.0f} tokens/s), {1e3 * batch:.0f} ms a batch of an "
    times += f"evaluation, {writing:,.0f} tokens/s written"
    expected = expected_seconds(chip()) if mx.default_device() == mx.gpu else None
    if expected is None:
        return f"{times}; nothing to compare {chip()} with"
    ranges = ", ".join(f"{name} {1e3 * low:.2g} to {1e3 * high:.2g}" for name, (low, high) in expected.items())
    slow = [name for name, (_, high) in expected.items() if found[name] > 2 * high]
    if slow:
        raise Wrong(f"{times}; expected in ms: {ranges}. More than twice as slow: {', '.join(slow)}")
    return f"{times}; expected in ms: {ranges}"


CHECKS: dict[str, Callable[[], str]] = {
    "The device": _device,
    "It computes as the CPU does": _same_as_on_the_cpu,
    "No token sees the future": _no_token_sees_the_future,
    "The cache of a text is right": _the_cache_is_right,
    "A step repeats": _a_step_repeats,
    "Dropout draws anew": _dropout_draws_anew,
    "Compiled equals eager": _compiled_is_eager,
    "A batch is learned": _a_batch_is_learned,
    "bfloat16 is close": _bfloat16_is_close,
    "An evaluation is exact": _evaluation_is_exact,
    "A text repeats": _generation_repeats,
    "A kill loses nothing": _a_kill_loses_nothing,
    "The disk is safe": _the_disk_is_safe,
    "Speed": _speed,
}


def _within(difference: float, limit: float, what: str) -> str:
    """The detail of a check. A difference that is not a number (NaN) fails it."""
    if not difference <= limit:
        raise Wrong(f"{what} differ by {difference:.2g}, more than {limit:.2g}")
    return f"{what} differ by {difference:.2g} at most (allowed: {limit:.2g})"


def _difference(a: mx.array | np.ndarray, b: mx.array | np.ndarray) -> float:
    return float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max())


@contextmanager
def _on_the_cpu() -> Iterator[None]:
    device = mx.default_device()
    mx.set_default_device(mx.cpu)
    try:
        yield
    finally:
        mx.set_default_device(device)


def _with_heads(head_size: int) -> GPTConfig:
    return replace(SHAPE, n_embd=max(SHAPE.n_embd, head_size), head_size=head_size)


def _lively(config: GPTConfig) -> GPT:
    """A model in which every weight changes the result, the same on each device."""
    model, rng = GPT(config), np.random.default_rng(5)
    model.update(tree_map(lambda p: mx.array(rng.normal(0, 0.3, p.shape).astype(np.float32)), model.parameters()))
    mx.eval(model.parameters())
    return model


def _tokens(count: int, B: int, T: int) -> mx.array:
    """(count, B, T)."""
    return mx.array(np.random.default_rng(1).integers(SHAPE.vocab_size, size=(count, B, T)).astype(np.uint16))


def _loss_and_gradients(model: GPT, idx: mx.array, targets: mx.array) -> list[np.ndarray]:
    loss, grads = nn.value_and_grad(model, model.loss)(idx, targets)
    return [np.array(array) for array in (model(idx), loss, *(array for _, array in tree_flatten(grads)))]


def _numpy_attention(q: mx.array, k: mx.array, v: mx.array) -> np.ndarray:
    """Causal attention in float64, (B, nh, T, hs)."""
    q64, k64, v64 = (np.asarray(each, np.float64) for each in (q, k, v))
    scores = q64 @ k64.swapaxes(-1, -2) / math.sqrt(q.shape[-1])  # (B, nh, T, T)
    scores = np.where(np.tri(q.shape[2], dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v64


def _stepped(shape: GPTConfig, config: TrainConfig, steps: int, losses: list[float] | None = None) -> GPT:
    """A model after some steps on the same batch; the losses go into `losses`."""
    mx.random.seed(7)
    model = GPT(shape)
    step, state = start_step(model, config)
    idx, targets = _tokens(2, config.batch_size * config.gradient_accumulation_steps, shape.block_size)
    for _ in range(steps):
        loss, _ = step(idx, targets)
        mx.eval(loss, state)
        if losses is not None:
            losses.append(loss.item())
    return model


def _bytes(model: GPT) -> bytes:
    return b"".join(np.array(array).tobytes() for _, array in tree_flatten(model.parameters()))
