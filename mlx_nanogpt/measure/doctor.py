"""Checks that this machine is right, and as fast as it should be, in a few seconds.

Each check is a function that returns a detail, or raises `Wrong` with the reason. The reference is the plain model on the CPU.
"""

import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map

from ..config import GPTConfig, TrainConfig, tokens_per_step
from ..evaluation import estimate_loss
from ..files import locked
from ..generation import generate, make_sampler
from ..layers import CausalAttention
from ..machine import can_compile, chip, describe_device, mac, machine, rounds_products, uncompiled_on_cpu
from ..machine.volume import keeps_others_out
from ..model import GPT, Cache
from ..optimizer import make_optimizer
from ..runs.create import create_run
from ..runs.run import open_run
from ..text.dataset import tokenize
from ..text.identity import Corpus
from ..training import start_step, train
from .benchmark import NANOLUX_GPT, NANOLUX_TRAIN
from .plan import measure
from .roofline import expected_seconds
from .timing import measure_generation

SHAPE = GPTConfig(vocab_size=31, n_embd=32, head_size=16, n_layer=2, block_size=16)
TRAINING = TrainConfig(batch_size=4, num_iter=20, eval_interval=5, eval_iters=2, learning_rate=1e-2)
SHAPES = [replace(SHAPE, n_embd=max(32, size), head_size=size) for size in (16, 32, 64, 128)]
LENGTHS = (*range(1, 10), 64)  # Metal has other kernels up to 8 queries
DATA = "".join(chr(33 + i * i % 29) + " \n"[i % 7 == 0] for i in range(3000))

# Logits of these models reach 4 and sum up to 128 products: float32 rounds them by up to 128 * 2^-24 * 4 = 3e-5, in each of ten
# operations. With operands rounded to TF32's 10 bits, as a simulation on a CPU, they differ by up to 3e-3.
FLOAT32, TF32 = 2e-4, 2e-2
KILL_SECONDS = 300  # at most, for a run that is killed: Metal compiles kernels at their first use
BFLOAT16 = 0.05  # nats of loss: 2^-8, relative, in each of some ten operations


class Wrong(Exception):
    """The reason why a check failed."""


@dataclass(frozen=True)
class Check:
    """The result of a check. `detail` is its finding, or the reason why it failed."""

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
        except Exception as error:  # a check that cannot be made has failed, and the others are still made
            passed, detail = False, str(error) if isinstance(error, Wrong) else f"{type(error).__name__}: {error}"
        finally:
            mx.set_default_device(device)
        yield Check(name, passed, detail, time.perf_counter() - started)


def tolerance() -> float:
    """Return the largest difference of logits that rounding explains on this machine."""
    return TF32 if rounds_products() else FLOAT32


def _describe_device() -> str:
    if sys.platform == "darwin" and (problem := mac.wrong_installation()):
        raise Wrong(problem)
    if not machine().has_fast_blas:
        raise Wrong(f"{describe_device()}: MLX trains 8 times slower than it could")
    compiles = "mx.compile compiles" if can_compile() else "mx.compile does nothing without g++"
    memory = f"{machine().memory() / 1e9:,.1f} GB of memory for training"
    return f"{describe_device()}, {memory}, {'TF32' if rounds_products() else 'float32'} products, {compiles}"


def _compare_with_cpu() -> str:
    """Compare logits, loss and gradients with those of the plain model on the CPU."""
    worst = 0.0
    for shape in (replace(shape, activation="gelu", bias="all") for shape in SHAPES):
        for T in (8, 16):
            idx, targets = _draw_tokens(2, 3, T)
            with uncompiled_on_cpu():
                expected = _differentiate(_make_model(shape), idx, targets)
            model = _make_model(shape)
            machine().prepare(model, make_optimizer(TRAINING))
            found = _differentiate(model, idx, targets)
            worst = max(worst, *(_find_difference(a, b) for a, b in zip(found, expected, strict=True)))
    return _check_within(worst, tolerance(), "logits, losses and gradients")


def _differentiate(model: GPT, idx: mx.array, targets: mx.array) -> list[np.ndarray]:
    """Return the logits, the loss and its gradients."""
    loss, grads = nn.value_and_grad(model, model.loss)(idx, targets)
    return [np.array(array) for array in (model(idx), loss, *(gradient for _, gradient in tree_flatten(grads)))]


def _change_the_future() -> str:
    """Compare every form of attention with the plain one on the CPU; change later keys, and later tokens of a whole model."""
    worst = leak = 0.0
    for shape in SHAPES:
        model = _make_model(shape).eval()
        machine().prepare(model)
        for T in (8, 16):
            (idx,), past = _draw_tokens(1, 2, T), T // 2
            changed = mx.concatenate([idx[:, :past], (idx[:, past:] + 1) % SHAPE.vocab_size], axis=1)
            leak = max(leak, _find_difference(model(idx)[:, :past], model(changed)[:, :past]))
        attention = model.h[0].attn.attention
        for T in LENGTHS:
            q, k, v = (mx.random.normal((1, 2, T, shape.head_size), key=mx.random.key(i)) for i in range(3))
            scale = shape.head_size**-0.5
            found = attention(q, k, v, scale)
            with uncompiled_on_cpu():
                worst = max(worst, _find_difference(found, CausalAttention()(q, k, v, scale)))
            past = max(T // 2, 1)
            later = mx.arange(T)[:, None] >= past
            other = attention(q, mx.where(later, k + 3, k), mx.where(later, v - 3, v), scale)
            leak = max(leak, _find_difference(other[:, :, :past], found[:, :, :past]))
    _check_within(leak, FLOAT32, "the tokens before a change")
    return _check_within(worst, tolerance(), f"{len(SHAPES) * len(LENGTHS)} shapes of attention, here and on the CPU,")


def _compare_with_cache() -> str:
    """Compare logits with a cache, token by token, and without one."""
    worst = 0.0
    for shape in SHAPES:
        model = _make_model(shape).eval()
        machine().prepare(model)
        (idx,) = _draw_tokens(1, 1, SHAPE.block_size)
        for first in (1, 9):
            cache = Cache(model)
            for end in range(first, SHAPE.block_size + 1):
                start = 0 if end == first else end - 1
                cached, whole = model.next_logits(idx[:, start:end], cache), model(idx[:, :end])[:, -1]
                worst = max(worst, _find_difference(cached, whole))
    return _check_within(worst, tolerance(), "logits")


def _repeat_steps() -> str:
    """Take steps with dropout and accumulation three times from the same beginning."""
    config = replace(TRAINING, gradient_accumulation_steps=2)
    weights = {_take_steps(replace(SHAPE, dropout=0.1), config, 4)[1] for _ in range(3)}
    if len(weights) > 1:
        raise Wrong("the same steps gave different weights: something is added in an arbitrary order")
    return "the same weights, bit for bit"


def _draw_masks() -> str:
    """Compute the loss of one batch several times, with dropout and a rate that moves nothing."""
    losses, _ = _take_steps(replace(SHAPE, dropout=0.5), replace(TRAINING, learning_rate=1e-30), 4)
    if len(set(losses)) < len(losses):
        raise Wrong("two steps in a row dropped the same activations")
    return "another mask at each step"


def _learn_a_batch() -> str:
    losses, _ = _take_steps(SHAPE, TRAINING, 150)
    if not losses[-1] < 0.1 < 1 < losses[0]:
        raise Wrong(f"150 steps on one batch took its loss from {losses[0]:.3g} to {losses[-1]:.3g}, not below 0.1")
    return f"the loss of a batch fell from {losses[0]:.2f} to {losses[-1]:.3f}"


def _compare_losses(limit: Callable[[], float], **changes: Any) -> str:
    """Take ten steps with and without `changes` to the settings."""
    (first, _), (second, _) = (_take_steps(SHAPE, config, 10) for config in (TRAINING, replace(TRAINING, **changes)))
    return _check_within(max(abs(a - b) for a, b in zip(first, second)), limit(), "the losses of ten steps")


def _evaluate() -> str:
    """Evaluate a model with dropout, and compute the plain loss of the same windows without it."""
    model = _make_model(replace(SHAPE, dropout=0.5))
    tokens = np.random.default_rng(0).integers(SHAPE.vocab_size, size=SHAPE.block_size + 1).astype(np.uint16)
    found = estimate_loss(model, tokens, 3)  # the same window, three times
    with uncompiled_on_cpu():
        plain = _make_model(replace(SHAPE, dropout=0.5)).eval()
        expected = plain.loss(mx.array(tokens[None, :-1]), mx.array(tokens[None, 1:])).item()
    return _check_within(abs(found - expected), tolerance(), "losses")


def _write_twice() -> str:
    """Write a text beyond the context twice from the same seed, and the likeliest tokens."""
    model, greedy = _make_model(SHAPE), make_sampler(temperature=0)
    if list(generate(model, [1], 40, seed=3)) != list(generate(model, [1], 40, seed=3)):
        raise Wrong("the same seed wrote two texts")
    text = [1, *generate(model, [1], 40, seed=3, sample=greedy)]
    with uncompiled_on_cpu():
        plain = _make_model(SHAPE).eval()
        for end in range(1, len(text)):
            context = text[max(end - SHAPE.block_size, 0) : end]
            logits = np.array(plain(mx.array([context])))[0, -1]
            if logits[text[end]] < logits.max() - 2 * tolerance():
                raise Wrong("the likeliest tokens are not those of the plain model")
    return "the same text twice, and the likeliest tokens of the plain model"


KILLED = """
import os, signal, sys
import mlx_nanogpt as gpt
import mlx.core as mx
from pathlib import Path
from mlx_nanogpt.measure.doctor import DATA
device, path = sys.argv[1:]
mx.set_default_device(getattr(mx, device))
saved = 0
for record in gpt.train(gpt.open_run(Path(path)), gpt.tokenize(gpt.Corpus(("doctor",), DATA))):
    if saved == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    saved += isinstance(record, gpt.Saved)
"""


def _kill_and_resume() -> str:
    """Train a run that is killed after its second checkpoint and resumed, and one that is not killed."""
    data = tokenize(Corpus(("doctor",), DATA))
    shape = replace(SHAPE, vocab_size=data.tokenizer.vocab_size, dropout=0.1)
    with _make_folder() as folder:
        killed = create_run(shape, replace(TRAINING, num_iter=10**6), data, folder / "killed")
        command = [sys.executable, "-c", KILLED, mx.default_device().type.name, str(killed.path.absolute())]
        # there, so that no file of the user's is imported in the place of a module
        status = subprocess.run(command, cwd=killed.path, timeout=KILL_SECONDS).returncode
        if status != -signal.SIGKILL:
            raise Wrong(f"the run to be killed ended by itself, with status {status}")
        killed_at = killed.position().iteration
        whole = create_run(shape, TRAINING, data, folder / "whole")
        contents = []
        for run in (killed, whole):
            list(train(open_run(run.path).extended(num_iter=killed_at + 5), data))
            contents.append({name: np.array(array).tobytes() for name, array in mx.load(str(run.checkpoint)).items()})
    if contents[0] != contents[1]:
        raise Wrong(
            f"a run that was killed at iteration {killed_at} and resumed has other weights than one that was not"
        )
    return f"killed at iteration {killed_at}, resumed: the same weights, bit for bit"


def _write_and_lock() -> str:
    """Write into the current folder, and let a second process try its lock."""
    with _make_folder() as folder, locked(folder) as own:
        own.write("note", "synchronised")
        if not keeps_others_out(folder):
            raise Wrong("a second process gets a lock that is held: let no two processes train in this folder")
    return "files are synchronised, and a lock keeps others out"


@contextmanager
def _make_folder() -> Iterator[Path]:
    """Make a temporary folder in the current one."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # of `locked`, if the disk has no locks
        with tempfile.TemporaryDirectory(prefix=".mlx-gpt-doctor-", dir=".") as folder:
            yield Path(folder)


def _time() -> str:
    """Time a step, a batch of an evaluation and a token with NanoLux's settings, and compare with the roofline of the chip."""
    measured = measure(GPT(NANOLUX_GPT), NANOLUX_TRAIN)
    step, in_a_batch = measured.step_seconds.median, machine().eval_tokens // NANOLUX_GPT.block_size
    batch = in_a_batch * measured.window_seconds
    writing = measure_generation(NANOLUX_GPT, 0, rounds=2)[0].median
    found = {"step": step, "evaluation": batch, "token": 1 / writing}
    times = (
        f"{1e3 * step:.1f} ms a step ({tokens_per_step(NANOLUX_GPT, NANOLUX_TRAIN) / step:,.0f} tokens/s), "
        f"{1e3 * batch:.0f} ms a batch of an evaluation, {writing:,.0f} tokens/s written"
    )
    expected = expected_seconds(chip()) if mx.default_device() == mx.gpu else None
    if expected is None:
        return f"{times}; nothing to compare {chip()} with"
    ranges = ", ".join(f"{name} {1e3 * low:.2g} to {1e3 * high:.2g}" for name, (low, high) in expected.items())
    slow = [name for name, (_, high) in expected.items() if found[name] > 2 * high]
    if slow:
        raise Wrong(f"{times}; expected in ms: {ranges}. More than twice as slow: {', '.join(slow)}")
    return f"{times}; expected in ms: {ranges}"


CHECKS: dict[str, Callable[[], str]] = {
    "The device": _describe_device,
    "It computes as the CPU does": _compare_with_cpu,
    "No token sees the future": _change_the_future,
    "The cache of a text is right": _compare_with_cache,
    "A step repeats": _repeat_steps,
    "Dropout draws anew": _draw_masks,
    "Compiled equals eager": partial(_compare_losses, tolerance, backend="eager"),
    "A batch is learned": _learn_a_batch,
    "bfloat16 is close": partial(_compare_losses, lambda: BFLOAT16, dtype="bfloat16"),
    "An evaluation is exact": _evaluate,
    "A text repeats": _write_twice,
    "A kill loses nothing": _kill_and_resume,
    "The disk is safe": _write_and_lock,
    "Speed": _time,
}


def _check_within(difference: float, limit: float, things: str) -> str:
    """Return the detail of a check. A difference that is not a number (NaN) fails it."""
    if not difference <= limit:
        raise Wrong(f"{things} differ by {difference:.2g}, more than {limit:.2g}")
    return f"{things} differ by {difference:.2g} at most (allowed: {limit:.2g})"


def _find_difference(a: mx.array | np.ndarray, b: mx.array | np.ndarray) -> float:
    return float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max())


def _make_model(config: GPTConfig) -> GPT:
    """Make a model in which every weight changes the result, the same on each device."""
    model, rng = GPT(config), np.random.default_rng(5)
    model.update(tree_map(lambda p: mx.array(rng.normal(0, 0.3, p.shape).astype(np.float32)), model.parameters()))
    mx.eval(model.parameters())
    return model


def _draw_tokens(count: int, B: int, T: int) -> mx.array:
    """Draw random tokens, (count, B, T)."""
    return mx.array(np.random.default_rng(1).integers(SHAPE.vocab_size, size=(count, B, T)).astype(np.uint16))


def _take_steps(shape: GPTConfig, config: TrainConfig, steps: int) -> tuple[list[float], bytes]:
    """Train a model on one batch; return the loss of each step, and the weights."""
    mx.random.seed(7)
    model, losses = GPT(shape), []
    step, state = start_step(model, config)
    idx, targets = _draw_tokens(2, config.batch_size * config.gradient_accumulation_steps, shape.block_size)
    for _ in range(steps):
        loss, _ = step(idx, targets)
        mx.eval(loss, state)
        losses.append(loss.item())
    return losses, b"".join(np.array(array).tobytes() for _, array in tree_flatten(model.parameters()))
