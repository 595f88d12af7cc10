"""What the tests share: tiny texts, models and runs, the command line in this process and in one of its own, and the
isolation that keeps every test away from the user's files and from the network."""

import atexit
import functools
import importlib.metadata
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace

if "SESSION_CACHE" not in os.environ:  # one for all processes: OpenBLAS is copied into it once
    os.environ["SESSION_CACHE"] = tempfile.mkdtemp(prefix="mlx-nanogpt-tests-")
    atexit.register(shutil.rmtree, os.environ["SESSION_CACHE"], ignore_errors=True)
SESSION_CACHE = os.environ["XDG_CACHE_HOME"] = os.environ["SESSION_CACHE"]
os.environ["TRACKIO_DIR"] = f"{SESSION_CACHE}/trackio"  # trackio reads it once
os.environ.setdefault("MLX_ENABLE_TF32", "0")  # with TF32 a GPU rounds more than NumPy does
# Seconds of a process, and of a wait for one. Metal compiles each kernel at its first use.
LONGEST, WAIT = (300, 180) if sys.platform == "darwin" else (120, 60)
if sys.platform == "darwin":
    os.environ.setdefault("PYTEST_TIMEOUT", str(LONGEST))  # of a test, in the place of the one in pyproject.toml
for name in ("FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS"):  # each makes rich or typer use colours in a pipe
    os.environ.pop(name, None)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or each process of a test would compile the program anew
importlib.metadata.version = functools.cache(importlib.metadata.version)  # a process of tests makes hundreds of runs

import mlx_nanogpt as gpt
import mlx.core as mx
import mlx.nn as nn
import mlx_nanogpt_cli
import numpy as np
import pytest
import typer
from mlx_nanogpt import machine as hardware
from mlx_nanogpt import training
from mlx.utils import tree_flatten, tree_map
from mlx_nanogpt.exchange import unseen
from mlx_nanogpt.files import LOCK, cache_dir
from mlx_nanogpt.machine.linux_cpu import folding, operations, streams
from mlx_nanogpt.measure import benchmark, timing
from mlx_nanogpt.text import tinyshakespeare
from mlx_nanogpt_cli.process import retries
from mlx_nanogpt_cli.screen import conclusion, training_display

# Without an import of that machine: it sets up MLX for Linux.
only_here = pytest.mark.skipif(
    isinstance(hardware.machine(), hardware.Machine), reason="only MLX's CPU backend on Linux runs this"
)
frees_at_once = pytest.mark.skipif(
    mx.default_device() != mx.cpu, reason="a GPU counts freed memory until its buffer of commands is done"
)
# The logits of tiny models reach 5, and sums have up to 64 terms: in float32 two of them differ by up to twice
# 64 * 2^-24 * 5. A LayerNorm without its eps differs by 1e-4; any other omission differs by more.
LOGIT_ROUNDING = 4e-5
NOBODY = "http://127.0.0.1:1/"  # an address where nobody listens
WORDS = [
    "\n",
    "to be ",
    "or not ",
    "that is ",
    "the question, ",
    "slings ",
    "and arrows; ",
    "Whether 'tis ",
    "nobler?\n",
]
TEXT = "".join(random.Random(7).choices(WORDS, k=500))
FIRST_HALF = TEXT.index("\n", 700) + 1  # characters
CORPUS = gpt.Corpus(("play.txt",), TEXT)
DATA = gpt.tokenize(CORPUS)
TOKENIZER = DATA.tokenizer
TOKENS = TOKENIZER.encode(TEXT)


# What takes longer than tiny models and their runs, and what a test may leave out.
PREPARATION = (folding, "FOLDABLE", frozenset()), (streams, "spread_loss", lambda model: None)
LEFT_OUT = [
    *PREPARATION,
    (os, "fsync", lambda descriptor: None),  # no test stops the machine
    (unseen, "SAMPLED", 2**8),  # texts of a tiny model are alike
    (training_display, "SHORT_SAMPLE_TOKENS", 4),
    (conclusion, "SAMPLE_TOKENS", 8),
]
WHOLE = {(owner, name): getattr(owner, name) for owner, name, _ in LEFT_OUT}


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    """A home, a cache and a working directory of its own, no way to the network, and MLX's device as it was."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / ".cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(tinyshakespeare, "URL", NOBODY)
    monkeypatch.chdir(tmp_path / "work")
    Path("play.txt").write_text(TEXT)
    monkeypatch.setattr(training, "REPORT_SECONDS", 60.0)  # so that no clock decides how often should_stop is called
    monkeypatch.setattr(retries, "MAC_RETRIES", 0)  # a process of its own writes past pytest's capture
    for owner, name, value in LEFT_OUT:
        monkeypatch.setattr(owner, name, value)
    device = mx.default_device()
    yield
    mx.set_default_device(device)


# ---- what computes


@pytest.fixture(params=["mlx", pytest.param("linux_cpu", marks=only_here)])
def machine(request, monkeypatch):
    """The plain model, as on a Mac (here on any device), and the model as MLX's CPU backend on Linux runs it."""
    if request.param == "mlx":
        monkeypatch.setattr(hardware, "sys", SimpleNamespace(platform="darwin"))
    return hardware.machine()


@pytest.fixture
def full_preparation(monkeypatch):
    """Models are prepared as in the program: on Linux they train on all cores, and a small one infers in a form with fewer
    operations."""
    for owner, name, _ in PREPARATION:
        monkeypatch.setattr(owner, name, WHOLE[owner, name])


fully_prepared = pytest.mark.usefixtures("full_preparation")


# ---- choices that depend on a size, which tiny tests would never reach


@pytest.fixture(params=[0, 10**9], ids=["views", "plain"])
def broadcasts(request, monkeypatch):
    """Operands broadcast as in a large array, and as in a small one."""
    monkeypatch.setattr(operations, "SMALL_ARRAY", request.param)
    operations._mask.cache_clear()
    yield
    operations._mask.cache_clear()


@pytest.fixture(params=[10**9, 0], ids=["folded", "whole"])
def form_of_inference(request, full_preparation, monkeypatch):
    """Models that generate as a small one does, and as a large one."""
    monkeypatch.setattr(folding, "SMALL_MODEL", request.param)


both_forms = pytest.mark.usefixtures("form_of_inference")


# ---- tiny models and runs

# Every setting with a value that is not its default. A new setting needs a line here.
OTHER_SETTINGS = {
    "block_size": 6, "n_layer": 2, "n_embd": 12, "head_size": 4, "dropout": 0.25, "bias": "all", "tied": True,
    "activation": "swiglu", "norm": "rmsnorm", "position": "rope", "qk_norm": True, "init": "zero", "num_iter": 3, "order": "passes", "batch_size": 2, "gradient_accumulation_steps": 2, "optimizer": "muon", "muon_lr": 0.01, "schedule": "wsd", "learning_rate": 0.002,
    "warmup_iters": 1, "lr_decay_iters": 3, "min_lr": 1e-05, "weight_decay": 0.1, "beta1": 0.8, "beta2": 0.9,
    "grad_clip": 1.0, "dtype": "bfloat16", "train_fraction": 0.7, "seed": 2**63 - 1, "backend": "eager",
    "eval_interval": 2, "eval_iters": 3, "patience": 9, "target_loss": 0.1, "snapshots": 2, "distill": 0.5, "expected_bits": 2.5,
}  # fmt: skip


# Each choice of the architecture that is not the default's, and all of them together.
MODERN = {"norm": "rmsnorm", "position": "rope", "qk_norm": True, "activation": "swiglu", "bias": "none"}
ARCHITECTURES = {
    "default": {}, "rmsnorm": {"norm": "rmsnorm"}, "rope": {"position": "rope"}, "qk_norm": {"qk_norm": True},
    "gelu": {"activation": "gelu"}, "relu2": {"activation": "relu2"}, "swiglu": {"activation": "swiglu"},
    "modern": MODERN, "modern-tied": MODERN | {"tied": True},
}  # fmt: skip
each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
# Each of them, the default's and all together with all biases, tied and not.
VARIANTS = {
    name: changes for name, changes in ARCHITECTURES.items() if "default" not in name and "modern" not in name
} | {
    f"{name}-{bias}{'-tied' if tied else ''}": ARCHITECTURES[name] | {"bias": bias, "tied": tied}
    for name, bias, tied in itertools.product(("default", "modern"), ("lecture", "all", "none"), (False, True))
}
each_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


def tiny_gpt(**changes) -> gpt.GPTConfig:
    return gpt.GPTConfig(
        **{"vocab_size": TOKENIZER.vocab_size, "block_size": 8, "n_layer": 2, "n_embd": 16, "head_size": 8} | changes
    )


def tiny_train(**changes) -> gpt.TrainConfig:
    return gpt.TrainConfig(**{"num_iter": 8, "batch_size": 4, "eval_interval": 4, "eval_iters": 2, "seed": 5} | changes)


def tiny_run(path: Path | str | None = None, **changes) -> gpt.Run:
    """A new run on TEXT, not yet trained, of one block; `changes` may name fields of both configurations."""
    of_gpt = {field.name: changes.pop(field.name) for field in fields(gpt.GPTConfig) if field.name in changes}
    return gpt.create_run(tiny_gpt(**{"n_layer": 1} | of_gpt), tiny_train(**changes), DATA, path and Path(path))


@functools.cache
def _train_once(preparation: tuple, **changes) -> Path:
    run = tiny_run(tempfile.mkdtemp(dir=SESSION_CACHE), **changes)
    finish(run)
    return run.path


def trained_run(path: Path | str | None = None, **changes) -> gpt.Run:
    """A trained run on TEXT: a copy of one that this process trained once with the same settings."""
    run, preparation = tiny_run(path, **changes), (folding.SMALL_MODEL, len(folding.FOLDABLE), streams.spread_loss)
    shutil.copytree(_train_once(preparation, **changes), run.path, copy_function=shutil.copy, dirs_exist_ok=True)
    return gpt.open_run(run.path)


def worsened_run(**changes) -> gpt.Run:
    """A run whose lowest validation loss is not its last: the rising rate spoils the model."""
    run = trained_run(learning_rate=1.0, warmup_iters=8, eval_interval=1, **changes)
    assert 0 < run.position(best=True).iteration < run.position().iteration == 8
    return run


def finish(run: gpt.Run, should_stop: Callable[[], bool] = lambda: False, **more) -> list[gpt.Record]:
    """Train `run` to its end, or until it should stop; return the records."""
    return list(gpt.train(run, DATA, should_stop, **more))


def files_in(folder: Path | str) -> list[str]:
    """The names of all files but the lock."""
    return sorted(set(os.listdir(folder)) - {LOCK})


def asked(times: int) -> Callable[[], bool]:
    """A `should_stop` that returns true from its call number `times` on."""
    count = itertools.count(1)
    return lambda: next(count) >= times


def lively_model(config: gpt.GPTConfig, seed: int = 3) -> gpt.GPT:
    """A model in which every parameter, also biases and norms, changes the result."""
    mx.random.seed(seed)
    rng, model = np.random.default_rng(seed), gpt.GPT(config)
    model.update(tree_map(lambda p: p + mx.array(rng.normal(0, 0.3, p.shape), mx.float32), model.parameters()))
    return model


@functools.cache
def byte_pairs() -> gpt.BPETokenizer:
    """Byte pairs learned from TEXT; `<|endoftext|>` has the last id, as in GPT-2."""
    tokenizers = pytest.importorskip("tokenizers")
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    library.train_from_iterator([TEXT], trainer)
    library.add_special_tokens(["<|endoftext|>"])
    return gpt.BPETokenizer(library.to_str())


def keep_as_gpt2s(tokenizer: gpt.BPETokenizer) -> None:
    """Put `tokenizer` into the cache as GPT-2's."""
    cached = cache_dir() / "gpt2"
    cached.mkdir(parents=True)
    (cached / "tokenizer.json").write_text(tokenizer.to_json())


def loss_fn(model: gpt.GPT, idx: mx.array, targets: mx.array) -> mx.array:
    """The loss of a step by MLX's own functions alone."""
    return nn.losses.cross_entropy(model(idx), targets, reduction="mean")


def arrays(tree) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in tree_flatten(tree)}


def checkpoint_arrays(run: gpt.Run) -> dict[str, np.ndarray]:
    """Weights, optimizer and random state, as they are on disk."""
    return arrays(mx.load(str(run.checkpoint)))


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    """Whether two sets of arrays are equal bit for bit."""
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


# ---- what commands are tested on


@pytest.fixture
def run():
    """A trained run, runs/1."""
    return trained_run()


@pytest.fixture
def halves():
    """TEXT in a folder of two files. The first ends in a new line."""
    Path("halves/2").mkdir(parents=True)
    Path("halves/1.txt").write_text(TEXT[:FIRST_HALF])
    Path("halves/2/rest.txt").write_text(TEXT[FIRST_HALF:])


@pytest.fixture
def small_protocol(monkeypatch):
    """NanoLux's benchmark, but so small that a test can run it."""
    small = {
        "NANOLUX_GPT": tiny_gpt(),
        "NANOLUX_TRAIN": tiny_train(num_iter=4, eval_interval=2, eval_iters=1),
        "EVALUATED_WINDOWS": 4,
        "RACE_GPT": tiny_gpt(),
        "RACE_TRAIN": tiny_train(lr_decay_iters=8),
        "RACE_SECONDS": 0.5,
        "fit_length": lambda *_: (12, None),  # on a slow machine nothing would fit
    }
    faster = {"ROUNDS": 2, "ROUND_SECONDS": 0.001, "MATRIX_SIZE": 16, "GENERATED_TOKENS": 24, "GENERATION_ROUNDS": 2}
    for module, values in ((benchmark, small), (timing, faster)):
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)


# ---- the command line

TINY = (
    "--n-embd=16 --head-size=8 --n-layer=1 --block-size=8 --batch-size=4 --num-iter=4 --eval-interval=2 --eval-iters=1"
)
TINY = [*TINY.split(), "--data=play.txt"]


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str


get_command = functools.cache(typer.main.get_command)  # typer builds all commands and their options for each call


@pytest.fixture
def mlx_gpt(monkeypatch, capsys):
    """Run the command line in this process, its output piped."""
    monkeypatch.setattr(typer.main, "get_command", get_command)

    def run(*arguments) -> Result:
        monkeypatch.setattr(sys, "argv", ["mlx-gpt", *map(str, arguments)])
        for hook in ("excepthook", "unraisablehook"):  # restored at the end
            monkeypatch.setattr(sys, hook, getattr(sys, hook))
        capsys.readouterr()
        try:
            with pytest.raises(SystemExit) as end:
                mlx_nanogpt_cli.main()
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return Result(end.value.code or 0, *capsys.readouterr())

    return run


def in_a_process(*arguments, **more) -> subprocess.Popen:
    """Start Python with `arguments` in a process of its own, its output piped. It is killed after `LONGEST` seconds, so that no
    test waits forever. A Mac's `mlx-gpt train` is one process, unless a test asks for retries."""
    if "train" in arguments and "launch" not in arguments and not any("--retries" in str(word) for word in arguments):
        arguments = *arguments, "--retries=0"
    settings = {"env": os.environ | {"XDG_CACHE_HOME": SESSION_CACHE}, "text": True}
    settings |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, *map(str, arguments)], **settings | more)
    timer = threading.Timer(LONGEST, process.kill)
    timer.daemon = True
    timer.start()
    return process


def python(script: str, *arguments) -> str:
    """Run `script` in its own process, which must succeed; return its output."""
    with in_a_process("-c", script, *arguments) as process:
        out, err = process.communicate(timeout=WAIT)
    assert process.returncode == 0, err
    return out


def until(condition: Callable[[], bool], seconds: float = WAIT) -> None:
    """Wait until `condition` holds; fail if it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
