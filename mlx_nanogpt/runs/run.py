"""A run directory: all that a training run needs to be looked at, continued and sampled from.

    config.json             the model's and the training's configuration, the corpus, the versions
    tokenizer.json          the characters, or the byte pairs
    history.jsonl           losses and timings, one line per evaluation
    log.jsonl               loss, rate, gradient norm and speed of every few steps; what the model wrote at each evaluation
    checkpoint.safetensors  weights, optimizer, random state, and how far they are
    best.safetensors        the weights of the lowest validation loss so far
    tracked.json            the name that trackio and wandb know, if one of them followed

A checkpoint is one file, so it is replaced as a whole or not at all. The history is written before it. If a crash comes in
between, the history has one line too many, the log some, and the next process drops them. The best weights are written after
it. If a crash comes in between, the next process that trains writes them.

Damage and loss are noticed: config.json holds a checksum of itself and of tokenizer.json, each file of weights holds checksums of
its content, and a checkpoint holds one of the history.
"""

import hashlib
import json
import os
import re
import shlex
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.optimizers import Optimizer
from mlx.utils import tree_flatten

from .checkpoint import (
    CHECKSUM,
    MODEL,
    OPTIMIZER,
    RANDOM,
    Contents,
    Position,
    checksum,
    open_arrays,
    read_arrays,
    write_arrays,
)
from ..config import GPTConfig, TrainConfig
from ..errors import UserError
from ..evaluation import Evaluation
from ..files import DAMAGE, Folder, check_name, explaining_damage, locked, read_text
from .log import Line, from_text, to_text
from ..machine import package_versions
from ..model import GPT
from ..text.dataset import Dataset
from ..text.identity import CorpusIdentity
from ..text.tokenizer import Tokenizer, tokenizer_from_json

RUNS = Path("runs")  # where runs are, unless `run_dir` says otherwise
CONFIG, TOKENIZER, HISTORY, LOG = "config.json", "tokenizer.json", "history.jsonl", "log.jsonl"
CHECKPOINT, BEST = "checkpoint.safetensors", "best.safetensors"
TRACKED = "tracked.json"
FILES = (CONFIG, TOKENIZER, HISTORY, LOG, CHECKPOINT, BEST, TRACKED)
MAY_CHANGE = ("num_iter", "patience", "target_loss")  # settings that a resumed run may change


@dataclass(frozen=True)
class Run:
    """A run directory that exists, and what its files say."""

    path: Path
    gpt_config: GPTConfig
    train_config: TrainConfig
    corpus: CorpusIdentity
    tokenizer: Tokenizer
    init_from: str | None = None  # the model that the weights came from; None: random numbers

    @property
    def checkpoint(self) -> Path:
        return self.path / CHECKPOINT

    @contextmanager
    def locked(self) -> Iterator["Writer"]:
        """The right to change the run's files. One process has it at a time.

        Half-written files of killed processes are removed. Raises `UserError` if another process has the right, or if the
        directory is gone, is damaged, or holds another run by now.
        """
        with ExitStack() as until_unlocked:
            with explaining_damage(self.path):
                folder = until_unlocked.enter_context(locked(self.path))
                folder.sweep(*FILES)
            may_change = {name: getattr(self.train_config, name) for name in MAY_CHANGE}
            if open_run(self.path).extended(**may_change) != self:
                raise UserError(f"{self.path} holds another run by now", "name the directory where the run is")
            yield Writer(self, folder)

    def position(self, best: bool = False) -> Position:
        """How far the checkpoint is, or the best weights; the beginning if there was no such file yet. Raises `UserError` if
        the file is damaged or was lost."""
        return self._contents(best).position

    def restore(self, model: GPT, optimizer: Optimizer) -> Position:
        """Load the checkpoint into `model`, `optimizer` and MLX's random state; return how far it is.

        Before the first checkpoint nothing changes. Call this before you build a compiled step, which captures the arrays.
        Raises `UserError` if the file is damaged or of another shape, if it was lost, or if it is missing in a run that was
        to start from weights.
        """
        if not self.checkpoint.exists():
            self._check_not_lost(self.checkpoint)
            if self.init_from is not None:
                raise UserError(
                    f"the run {self.path} was to start from the weights of {self.init_from}, and was stopped "
                    "before it had them",
                    "start it anew with the same `run_dir`",
                )
            return Position()
        parts = {MODEL: model.parameters(), OPTIMIZER: optimizer.state, RANDOM: mx.random.state[0]}
        contents, found = read_arrays(self.checkpoint, parts)
        model.update(found[MODEL])
        optimizer.state = found[OPTIMIZER]
        high, low = found[RANDOM].tolist()
        mx.random.seed(high << 32 | low)
        return contents.position

    def load_model(self, best: bool = False) -> GPT:
        """The trained model with its newest weights, or with those of the lowest validation loss. Raises `UserError` if there
        are none yet, or if the file is damaged or was lost."""
        file = self._weights(best)
        if not file.exists():
            self._check_not_lost(file)
            missing = "best weights" if best else "checkpoint"
            raise UserError(
                f"the run {self.path} has no {missing}: none was written yet, or it was deleted",
                f"go on with `resume` {_quoted(self.path)}",
            )
        model = GPT(self.gpt_config)
        model.update(read_arrays(file, {MODEL: model.parameters()})[1][MODEL])
        return model

    def history(self) -> list[Evaluation]:
        """The evaluations up to the checkpoint, oldest first. Raises `UserError` if lines are missing or damaged."""
        file, contents, lines = self.path / HISTORY, self._contents(), self._history_lines()
        with explaining_damage(file):
            evaluations = [Evaluation(**json.loads(line)) for line in lines]
        counted = lines[: contents.evaluations]
        if len(counted) < contents.evaluations or zlib.crc32("".join(counted).encode()) != contents.history_checksum:
            raise UserError(
                f"{file} is damaged: the checkpoint counts {contents.evaluations} evaluations, and not all are "
                "there as they were",
                f"restore it from a copy, or go on in a new run with `init_from` {_quoted(self.path)}",
            )
        return evaluations[: contents.evaluations]

    def log(self) -> list[Line]:
        """The lines of the log up to the checkpoint that can be read, oldest first; none if the run is older than logs are. Raises
        `UserError` if the file may not be read."""
        file = self.path / LOG
        with explaining_damage(file):
            text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
            return from_text(text, self.position().iteration)

    def versions(self) -> dict[str, str]:
        """The versions of the packages that last trained the run. Raises `UserError` if its files are damaged."""
        with explaining_damage(self.path):
            return dict(_read_config(self.path)["versions"])

    def extended(self, **changes) -> "Run":
        """The same run with `changes` to the settings in `MAY_CHANGE`; `train` writes them to config.json. Raises `UserError` for
        another setting."""
        if fixed := sorted(changes.keys() - set(MAY_CHANGE)):
            raise UserError(f"{fixed[0]} of the run {self.path} cannot change", "start a new run")
        return replace(self, train_config=replace(self.train_config, **changes))

    def description(self) -> dict:
        """All that `described_run` needs to know, for JSON."""
        return {"path": str(self.path), "config": self._config(), "tokenizer": self.tokenizer.to_json()}

    def _weights(self, best: bool) -> Path:
        return self.path / BEST if best else self.checkpoint

    def _contents(self, best: bool = False) -> Contents:
        file = self._weights(best)
        if not file.exists():
            self._check_not_lost(file)
            return Contents(Position(), 0, zlib.crc32(b""), {})
        with explaining_damage(file):
            return open_arrays(file)[0]

    def _history_lines(self) -> list[str]:
        file = self.path / HISTORY
        with explaining_damage(file):
            return read_text(file).splitlines(keepends=True) if file.exists() else []

    def _check_not_lost(self, file: Path) -> None:
        """Raise `UserError` if other files show that `file`, a file of weights that is missing, was written once."""
        if file.name == CHECKPOINT:
            lines = len(self._history_lines())
            # a crash at the first evaluation leaves one line; a run that started from weights had a checkpoint before
            lost = (self.path / BEST).exists() or lines > (0 if self.init_from else 1)
        else:
            lost = self._contents().evaluations > 0
        if lost:
            raise UserError(
                f"{file} is missing, and other files of the run show that it was there",
                "restore it from a copy, or train a new run"
                if file.name == CHECKPOINT
                else "leave out `best`, or train on",
            )

    def _config(self) -> dict:
        """config.json without its checksum."""
        return {
            "gpt": asdict(self.gpt_config),
            "train": asdict(self.train_config),
            "corpus": asdict(self.corpus) | {"sources": list(self.corpus.sources)},
            "tokenizer": hashlib.sha256(self.tokenizer.to_json().encode()).hexdigest(),
            "init_from": self.init_from,
            "versions": package_versions(),
        }


class Writer:
    """What writes a run's files. They go into the run's directory, even if it was moved meanwhile."""

    def __init__(self, run: Run, folder: Folder):
        self.run, self.folder = run, folder

    @property
    def path(self) -> Path:
        """Where the run is now. Raises `UserError` if it was deleted."""
        return self.folder.current_path()

    def write_config(self) -> None:
        """Write config.json, with the versions in use now. Raises `UserError` if that fails."""
        config = self.run._config()
        with _explaining_write(self.run.path, "make room or make the directory writable"):
            self.folder.write(CONFIG, json.dumps(config | {CHECKSUM: _seal(config)}, indent=2) + "\n")

    def write_tokenizer(self) -> None:
        """Write tokenizer.json. Raises `UserError` if that fails."""
        with _explaining_write(self.run.path, "make room or make the directory writable"):
            self.folder.write(TOKENIZER, self.run.tokenizer.to_json())

    def tracked_name(self) -> str:
        """The name of the run in trackers: made once and kept, so that a training that goes on has the same, wherever the run
        is by then. Raises `UserError` if it cannot be written."""
        with suppress(OSError, *DAMAGE):
            if re.fullmatch("[A-Za-z0-9-]+", name := json.loads(read_text(self.run.path / TRACKED))["name"]):
                return name
        words = re.findall("[A-Za-z0-9]+", self.run.path.name) or ["run"]
        name = "-".join([*words, uuid.uuid4().hex[:8]])
        with _explaining_write(self.run.path, "make room or make the directory writable"):
            self.folder.write(TRACKED, json.dumps({"name": name}) + "\n")
        return name

    def save(
        self,
        model: GPT,
        optimizer: Optimizer,
        position: Position,
        history: Sequence[Evaluation] = (),
        log: Sequence[Line] | None = None,
    ) -> None:
        """Replace the log, if one is given, and then the checkpoint. At an evaluation, the last one of `history`, write the history
        before it, and after it the weights as the best ones if the validation loss is the lowest.

        Raises `UserError` if that fails. If the checkpoint fails, the older one is untouched.
        """
        trees = {MODEL: model.parameters(), OPTIMIZER: optimizer.state, RANDOM: mx.random.state[0]}
        parts = {part: dict(tree_flatten({part: tree})) for part, tree in trees.items()}
        lines = "".join(json.dumps(asdict(each)) + "\n" for each in history)
        checksums = {name: checksum(part) for name, part in parts.items()}
        contents = Contents(position, len(history), zlib.crc32(lines.encode()), checksums)
        older = "the one before it is untouched" if self.folder.holds(CHECKPOINT) else "there is none before it"
        with self._explaining_save(f"the checkpoint of iteration {position.iteration}", older):
            if log is not None:
                self.folder.write(LOG, to_text(log))
            if _is_at_evaluation(contents, history):
                self.folder.write(HISTORY, lines)
            write_arrays(self.folder, CHECKPOINT, parts, contents)
        if _is_at_evaluation(contents, history) and since_best(history) == 0:
            self._write_best(parts[MODEL], contents)

    def complete_best(self, model: GPT, history: Sequence[Evaluation]) -> None:
        """Write the best weights if a crash came between the checkpoint and them. `model` and `history` are those of the
        checkpoint."""
        contents = self.run._contents()
        if _is_at_evaluation(contents, history) and since_best(history) == 0:
            try:
                whole = open_arrays(self.run.path / BEST)[0].position == contents.position
            except (OSError, *DAMAGE):
                whole = False
            if not whole:
                self._write_best(dict(tree_flatten({MODEL: model.parameters()})), contents)

    def _write_best(self, model: Mapping[str, mx.array], contents: Contents) -> None:
        what = f"the best weights, of iteration {contents.position.iteration},"
        with self._explaining_save(what, "the checkpoint has them, too"):
            write_arrays(self.folder, BEST, {MODEL: model}, contents)

    @contextmanager
    def _explaining_save(self, what: str, kept: str) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:
            failure = f"{what} could not be written"
            try:
                path = self.path
            except UserError as gone:
                raise UserError(f"{failure}: {gone.problem}", gone.remedy) from error
            raise UserError(
                f"{failure} into {path} ({error})",
                f"{kept}: make room or make the directory writable, then go on with `resume` {_quoted(path)}",
            ) from error


class NoWriter:
    """The writer of a process that keeps no files, because another one does."""

    def __init__(self, path: Path):
        self.path = path

    def write_config(self) -> None:
        pass

    def save(self, *state: Any) -> None:
        pass

    def complete_best(self, model: GPT, history: Sequence[Evaluation]) -> None:
        pass


def _is_at_evaluation(contents: Contents, history: Sequence[Evaluation]) -> bool:
    """Whether a checkpoint was written at the last evaluation of `history`."""
    return bool(history) and history[-1].iteration == contents.position.iteration


def since_best(history: Sequence[Evaluation]) -> int:
    """The number of evaluations after the one with the lowest validation loss; `history` is not empty."""
    losses = [each.valid_loss for each in history]
    return len(losses) - 1 - losses.index(min(losses))


def create_run(
    gpt_config: GPTConfig,
    train_config: TrainConfig,
    data: Dataset,
    run_dir: Path | None = None,
    init_from: str | None = None,
) -> Run:
    """Make the directory of a new run: `run_dir`, or the next number in `runs/`. A run that is there is never touched.

    `init_from` names the model that the weights will come from; `start_from` puts them there. Raises `UserError` if
    `run_dir` holds a run or cannot be written.
    """
    with _explaining_write(run_dir or RUNS, "choose another with `run_dir`"):
        path = _next_numbered() if run_dir is None else _made(run_dir)
        run = Run(path, gpt_config, train_config, data.corpus, data.tokenizer, init_from)
        with locked(path) as folder:
            _check_free(folder)
            folder.sweep(*FILES)
            writer = Writer(run, folder)
            writer.write_config()
            writer.write_tokenizer()  # last: a run without it was never finished, and may be made again
    return run


def open_run(path: Path) -> Run:
    """The run in the directory `path`. Raises `UserError` if there is none, or if its files are damaged."""
    if not os.path.isfile(path / CONFIG):
        raise UserError(f"{path} holds no run (it has no {CONFIG})", _runs_to_name())
    with explaining_damage(path):
        return _parsed(path, _read_config(path), read_text(path / TOKENIZER))


def described_run(description: Mapping) -> Run:
    """The run of a `Run.description`, whose directory may be on another machine."""
    return _parsed(Path(description["path"]), description["config"], description["tokenizer"])


def _parsed(path: Path, config: Mapping, text: str) -> Run:
    """The run of the contents of config.json and tokenizer.json."""
    if config["tokenizer"] != hashlib.sha256(text.encode()).hexdigest():
        raise ValueError(f"{TOKENIZER} is not as it was written")
    tokenizer = tokenizer_from_json(text)
    gpt_config, train_config = GPTConfig(**config["gpt"]), TrainConfig(**config["train"])
    init_from = config["init_from"]
    if not isinstance(init_from, str | None):
        raise ValueError(f"init_from {init_from!r} is no name")
    if tokenizer.vocab_size != gpt_config.vocab_size:
        raise ValueError(f"{TOKENIZER} has {tokenizer.vocab_size} symbols and the model {gpt_config.vocab_size}")
    return Run(path, gpt_config, train_config, CorpusIdentity.from_json(config["corpus"]), tokenizer, init_from)


def newest_run() -> Run:
    """The run in `runs/` whose checkpoint was written last. Raises `UserError` if there is none."""
    checkpoints = _written(CHECKPOINT)
    if not checkpoints:
        raise UserError(f"there is no trained run in {RUNS.resolve()}", "train one first, or name one with `run`")
    return open_run(next(iter(checkpoints)).parent)


def run_folders() -> dict[Path, float]:
    """The folders of `runs/` that hold a run, also a damaged one, and when each was written last (seconds since 1970), the newest
    first."""
    found: dict[Path, float] = {}
    for file, written in _written(*FILES).items():
        found.setdefault(file.parent, written)
    return found


def _written(*names: str) -> dict[Path, float]:
    """The files in the folders of `runs/` that have one of `names`, and when each was written, the newest first."""
    found = {}
    for file in (file for name in names for file in RUNS.glob(f"*/{name}")):
        with suppress(FileNotFoundError):  # another process may have removed it meanwhile
            found[file] = file.stat().st_mtime
    return dict(sorted(found.items(), key=lambda each: each[1], reverse=True))


def _runs_to_name() -> str:
    """A remedy: the newest runs in `runs/`."""
    runs = [file.parent for file in _written(CONFIG)]
    if not runs:
        return "train one first"
    return f"name one that does: {', '.join(map(_quoted, runs[:5]))}"


def _next_numbered() -> Path:
    RUNS.mkdir(exist_ok=True)
    number = 1 + max((int(each.name) for each in RUNS.iterdir() if each.name.isdecimal()), default=0)
    while True:  # another process may take the number first
        try:
            (RUNS / str(number)).mkdir()
            return RUNS / str(number)
        except FileExistsError:
            number += 1


def _made(path: Path) -> Path:
    check_name(path, "choose another `run_dir`")
    path.mkdir(parents=True, exist_ok=True)
    return path


def _check_free(folder: Folder) -> None:
    """Raise `UserError` if `folder` holds a run or files of something else. A run whose creation was stopped is none."""
    path, taken = folder.path, [name for name in FILES if folder.holds(name)]
    if CONFIG in taken and not _unfinished(path, taken):
        raise UserError(
            f"{path} already holds a run", f"choose another `run_dir`, or go on with `resume` {_quoted(path)}"
        )
    if taken and CONFIG not in taken:
        raise UserError(f"{path} holds a {taken[0]} of something else", "choose another `run_dir`")


def _unfinished(path: Path, taken: Sequence[str]) -> bool:
    """Whether the files `taken` in `path` are what a stopped `create_run` or `start_from` leaves."""
    if not {HISTORY, CHECKPOINT, BEST}.isdisjoint(taken):
        return False
    try:
        config = _read_config(path)
        return TOKENIZER not in taken or config["init_from"] is not None
    except (OSError, *DAMAGE):
        return False


@contextmanager
def _explaining_write(path: Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})", remedy) from error


def _read_config(path: Path) -> dict:
    """The content of config.json, without its checksum."""
    config = json.loads(read_text(path / CONFIG))
    if config.pop(CHECKSUM) != _seal(config):
        raise ValueError(f"{CONFIG} is not as it was written")
    return config


def _seal(config: dict) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))

