"""A run directory: everything that a training run is, so that it can be looked at, continued and sampled from.

    config.json             the model's and the training's configuration, the corpus, the versions
    tokenizer.json          the characters, or the byte pairs
    history.jsonl           losses and timings, one line per evaluation
    checkpoint.safetensors  weights, optimizer, random state, and how far they are
    best.safetensors        the weights of the lowest validation loss so far

A checkpoint is one file, so it is replaced as a whole or not at all. The history is written before it; a line that a
crash left without its checkpoint is dropped when the run goes on.
"""

import json
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
from mlx.optimizers import Optimizer
from mlx.utils import tree_flatten, tree_unflatten

from .config import GPTConfig, TrainConfig
from .corpus import CorpusIdentity
from .data import Dataset
from .errors import UserError
from .files import check_name, replacing
from .model import GPT
from .tokenizer import Tokenizer, tokenizer_from_json

RUNS = Path("runs")  # where runs live unless they are given a directory of their own
CONFIG, TOKENIZER, HISTORY = "config.json", "tokenizer.json", "history.jsonl"
CHECKPOINT, BEST = "checkpoint.safetensors", "best.safetensors"
MODEL, OPTIMIZER, RANDOM = "model", "optimizer", "random"  # the three parts of a checkpoint


@dataclass(frozen=True)
class Evaluation:
    """One line of the history. Losses in nats per token; tokens and seconds of training since the line before; tokens
    of each split that this evaluation covered, and its seconds."""

    iteration: int
    train_loss: float
    valid_loss: float
    train_tokens: int
    train_seconds: float
    eval_tokens: int
    eval_seconds: float
    corpus: str
    device: str


@dataclass(frozen=True)
class Position:
    """How far a checkpoint is: steps done, and seconds of training since the last evaluation."""

    iteration: int = 0
    train_seconds: float = 0.0


@dataclass(frozen=True)
class Run:
    """A run directory that exists, and what it says of itself."""

    path: Path
    gpt: GPTConfig
    train: TrainConfig
    corpus: CorpusIdentity
    tokenizer: Tokenizer
    init_from: str | None = None  # what the weights started from, if not from random numbers

    @property
    def checkpoint(self) -> Path:
        return self.path / CHECKPOINT

    def save(
        self, model: GPT, optimizer: Optimizer, position: Position, history: Sequence[Evaluation] | None = None
    ) -> None:
        """Write the history, if one is given, and then a checkpoint, each in the place of the older one; and the weights
        as the best ones, if the history ends with its lowest validation loss.

        Raises `UserError` if that cannot be done; the older checkpoint is then still there.
        """
        weights = {MODEL: model.parameters()}
        try:
            if history is not None:
                _write(self.path / HISTORY, "".join(json.dumps(asdict(each)) + "\n" for each in history))
                if since_best(history) == 0:
                    _write_arrays(self.path / BEST, weights, position)
            _write_arrays(self.checkpoint, weights | {OPTIMIZER: optimizer.state, RANDOM: mx.random.state[0]}, position)
        except (OSError, RuntimeError) as error:
            kept = "the checkpoint before it is untouched" if self.checkpoint.exists() else "there is none before it"
            raise UserError(
                f"{self.checkpoint} could not be written at iteration {position.iteration} ({error}); {kept}: make room "
                f"or make the directory writable, then go on with --resume {_quoted(self.path)}"
            ) from error

    def position(self, best: bool = False) -> Position:
        """How far the checkpoint is, or how far the best weights were; the beginning if there are none. Raises `UserError`
        if the file is damaged."""
        file = self._weights(best)
        return _read_arrays(file)[0] if file.exists() else Position()

    def restore(self, model: GPT, optimizer: Optimizer) -> Position:
        """Put the checkpoint's weights, optimizer state and random state in their places; return how far it is.

        Without a checkpoint nothing changes. A compiled function captures arrays when it is built: restore first.
        Raises `UserError` if the file is damaged or of another shape, or missing in a run that was to start from weights.
        """
        if not self.checkpoint.exists():
            if self.init_from is not None:
                raise UserError(
                    f"the run {self.path} was to start from the weights of {self.init_from}, and a crash kept them "
                    f"from it; start a new run"
                )
            return Position()
        position, parts = _read_arrays(self.checkpoint)
        with _explaining_damage(self.checkpoint):
            model.load_weights(tree_flatten(parts[MODEL]))
            expected, found = (dict(tree_flatten(state)) for state in (optimizer.state, parts[OPTIMIZER]))
            if {name: a.shape for name, a in expected.items()} != {name: a.shape for name, a in found.items()}:
                raise ValueError("the optimizer's state is of another shape")
            optimizer.state = parts[OPTIMIZER]
            high, low = parts[RANDOM].tolist()
            mx.random.seed(high << 32 | low)
        return position

    def load_model(self, best: bool = False) -> GPT:
        """The trained model: as it is now, or as it was at the lowest validation loss. Raises `UserError` if there is no
        such checkpoint yet, or if it is damaged."""
        file = self._weights(best)
        if not file.exists():
            missing = "no evaluation" if best else "no checkpoint"
            raise UserError(
                f"the run {self.path} has {missing} yet (it was stopped before its first); go on with "
                f"mlx-gpt train --resume {_quoted(self.path)}"
            )
        model = GPT(self.gpt)
        _, parts = _read_arrays(file)
        with _explaining_damage(file):
            model.load_weights(tree_flatten(parts[MODEL]))
        return model

    def history(self) -> list[Evaluation]:
        """The evaluations up to the checkpoint, the oldest first. Raises `UserError` if a line is damaged."""
        file = self.path / HISTORY
        if not file.exists():
            return []
        done = self.position().iteration
        with _explaining_damage(file):
            evaluations = [Evaluation(**json.loads(line)) for line in _read(file).splitlines()]
        return [each for each in evaluations if each.iteration <= done]

    def versions(self) -> dict[str, str]:
        """Which versions of the packages made the run, or extended it. Raises `UserError` if its files are damaged."""
        with _explaining_damage(self.path):
            return dict(json.loads(_read(self.path / CONFIG))["versions"])

    def extended(self, **changes) -> "Run":
        """The same run with other values of some fields of `train`, on disk too: `num_iter` and `patience` may change
        without harm. Raises `UserError` if it is read-only."""
        run = replace(self, train=replace(self.train, **changes))
        with _explaining_write(self.path):
            run._write_config()
        return run

    def _weights(self, best: bool) -> Path:
        return self.path / BEST if best else self.checkpoint

    def _write_config(self) -> None:
        config = {
            "gpt": asdict(self.gpt),
            "train": asdict(self.train),
            "corpus": asdict(self.corpus),
            "init_from": self.init_from,
            "versions": package_versions(),
        }
        _write(self.path / CONFIG, json.dumps(config, indent=2) + "\n")


def package_versions() -> dict[str, str]:
    """The versions that decide what a run computes."""
    return {package: version(package) for package in ("mlx-nanogpt", "mlx")}


def since_best(history: Sequence[Evaluation]) -> int:
    """How many evaluations followed the one with the lowest validation loss, in a history that is not empty."""
    losses = [each.valid_loss for each in history]
    return len(losses) - 1 - losses.index(min(losses))


def create_run(
    gpt: GPTConfig, train: TrainConfig, data: Dataset, path: Path | None = None, init_from: str | None = None
) -> Run:
    """Make a run directory: `path`, or else the next number in `runs/`. Never touches one that has a run in it.

    `init_from` names what its weights will start from; `start_from` puts them there. Raises `UserError` if `path` holds
    a run or cannot be written.
    """
    with _explaining_write(path or RUNS):
        path = _next_numbered() if path is None else _fresh(path)
        run = Run(path, gpt, train, data.corpus, data.tokenizer, init_from)
        _write(path / TOKENIZER, data.tokenizer.to_json())
        run._write_config()
    return run


def open_run(path: Path) -> Run:
    """The run in the directory `path`. Raises `UserError` if there is none, or if its files are damaged."""
    if not os.path.isfile(path / CONFIG):
        raise UserError(
            f"{path} holds no run (it has no {CONFIG}); train one with mlx-gpt train --run-dir {_quoted(path)}"
        )
    with _explaining_damage(path):
        config, tokenizer = json.loads(_read(path / CONFIG)), tokenizer_from_json(_read(path / TOKENIZER))
        gpt, train = GPTConfig(**config["gpt"]), TrainConfig(**config["train"])
        corpus = CorpusIdentity(**config["corpus"] | {"sources": tuple(config["corpus"]["sources"])})
        if tokenizer.vocab_size != gpt.vocab_size:
            raise ValueError(f"{TOKENIZER} has {tokenizer.vocab_size} symbols and the model {gpt.vocab_size}")
        return Run(path, gpt, train, corpus, tokenizer, config.get("init_from"))


def newest_run() -> Run:
    """The run in `runs/` whose checkpoint was written last. Raises `UserError` if there is none."""
    checkpoints = sorted(RUNS.glob(f"*/{CHECKPOINT}"), key=lambda file: file.stat().st_mtime_ns)
    if not checkpoints:
        raise UserError(
            f"there is no trained run in {RUNS.resolve()}; train one with mlx-gpt train, or name one with --run"
        )
    return open_run(checkpoints[-1].parent)


def _next_numbered() -> Path:
    RUNS.mkdir(exist_ok=True)
    number = 1 + max((int(each.name) for each in RUNS.iterdir() if each.name.isdecimal()), default=0)
    while True:  # another process may take the number first
        try:
            (RUNS / str(number)).mkdir()
            return RUNS / str(number)
        except FileExistsError:
            number += 1


def _fresh(path: Path) -> Path:
    taken = [name for name in (CONFIG, TOKENIZER, HISTORY, CHECKPOINT, BEST) if os.path.lexists(path / name)]
    if CONFIG in taken:
        raise UserError(f"{path} already holds a run; choose another --run-dir, or go on with --resume {_quoted(path)}")
    if taken:
        raise UserError(f"{path} holds a {taken[0]} of something else; choose another --run-dir")
    check_name(path, "choose another --run-dir")
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def _explaining_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); make it readable, or name another run") from error
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged, or was not written by this program ({type(error).__name__}: {error}); restore it from a "
            f"copy, or train a new run"
        ) from error


@contextmanager
def _explaining_write(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); choose another with --run-dir") from error


def _read_arrays(file: Path) -> tuple[Position, dict]:
    with _explaining_damage(file):
        arrays, metadata = mx.load(str(file), return_metadata=True)
        return Position(**json.loads(metadata["position"])), tree_unflatten(list(arrays.items()))


def _write_arrays(file: Path, parts: dict, position: Position) -> None:
    with replacing(file) as aside:
        mx.save_safetensors(str(aside), dict(tree_flatten(parts)), {"position": json.dumps(asdict(position))})


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _write(path: Path, text: str) -> None:
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")
