"""A run directory: everything to look at a training run, to resume it and to sample from it.

    config.json             the settings of model and training, the corpus, the versions, the class of a model of the user's own
    tokenizer.json          the characters, or the byte pairs
    history.jsonl           losses and timings, one line per evaluation
    log.jsonl               loss, rate, gradient norm and speed of every few steps; a sample of each evaluation
    checkpoint.safetensors  weights, optimizer, random state, and their iteration
    best.safetensors        the weights of the lowest validation loss so far
    snapshot-*.safetensors  the weights of some steps in float16, if the setting `snapshots` asks for them
    teacher-*.safetensors   the weights of the models that it learns from in float16, if it has teachers

A checkpoint is one file, so it is replaced as a whole or not at all. `recorder.py` writes it, and names the order of all writes.

Damage and loss are noticed: config.json holds a checksum of itself and of tokenizer.json, each file of weights holds checksums of
its content, and a checkpoint holds one of the history.
"""

import hashlib
import html
import json
import os
import shlex
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

from ..config import GPTConfig, TrainConfig
from ..errors import UserError, printable
from ..files import DAMAGE, Folder, explaining_damage, explaining_write, newest_files, read_text
from ..generation import generate, make_sampler
from ..machine.facts import model_checksum, package_versions
from ..model import GPT, own_class, random_key, set_random_key
from ..records import Evaluation
from ..text.identity import CorpusIdentity
from ..text.tokenizer import Tokenizer, encode_prompt, tokenizer_from_json
from .checkpoint import CHECKSUM, MODEL, Contents, Position, open_arrays, read_arrays
from .log import Line, from_text
from .picture import draw_losses
from .snapshots import find_snapshots, read_snapshot
from .teachers import Teacher

RUNS = Path("runs")  # the folder of runs, unless `run_dir` names another
CONFIG, TOKENIZER, HISTORY, LOG = "config.json", "tokenizer.json", "history.jsonl", "log.jsonl"
CHECKPOINT, BEST = "checkpoint.safetensors", "best.safetensors"
FILES = (CONFIG, TOKENIZER, HISTORY, LOG, CHECKPOINT, BEST)
MAY_CHANGE = ("num_iter", "patience", "target_loss")  # settings that a resumed run may change


@dataclass(frozen=True)
class Run:
    """A run directory that exists, and the content of its files. `id` stays when the run is moved."""

    path: Path
    gpt_config: GPTConfig
    train_config: TrainConfig
    corpus: CorpusIdentity
    tokenizer: Tokenizer
    id: str
    init_from: str | None = None  # the model that the weights came from; None: random numbers
    teachers: tuple[Teacher, ...] = ()  # the models that it learns from

    def __repr__(self) -> str:
        try:
            losses = [evaluation.valid_loss for evaluation in self.history()]
            best = f", lowest validation loss {min(losses):.4f}" if losses else ""
            state = f"iteration {self.position().iteration} of {self.train_config.num_iter}{best}"
        except (UserError, OSError) as error:
            state = printable(str(error))
        return f"<Run {printable(str(self.path))}: {self.corpus.name}, {state}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the curves of the losses, and the facts of `repr`."""
        facts = html.escape(repr(self)[1:-1])
        try:
            curves = draw_losses([*self.log(), *self.history()], self.position().iteration)
        except (UserError, OSError) as error:
            curves = "" if (reason := html.escape(printable(str(error)))) in facts else f"<div>{reason}</div>"
        return f"{curves}<div>{facts}</div>"

    @property
    def checkpoint(self) -> Path:
        return self.path / CHECKPOINT

    def position(self, best: bool = False) -> Position:
        """The iteration of the checkpoint, or of the best weights; 0 if there was no such file yet. Raises `UserError` if the file
        is damaged or was lost."""
        return self.contents(best).position

    def takes_best(self, last: bool = False) -> bool:
        """Whether `load_model` takes the best weights: unless the `last` are asked for, or no evaluation has chosen any yet."""
        return not last and ((self.path / BEST).exists() or self.contents().evaluations > 0)

    def snapshots(self) -> list[int]:
        """The iterations of the snapshots up to the checkpoint, in rising order; the rest, after a kill, is written again. Raises
        `UserError` as `position` does."""
        return find_snapshots(self.path, self.position().iteration)

    def load_model(self, last: bool = False, into: GPT | None = None, snapshot: int | None = None) -> GPT:
        """The trained model with its best weights (of the lowest validation loss), or with its `last` ones, as `takes_best` says; or
        with those of the `snapshot` of an iteration. A model of the user's own has to be built first, and is loaded `into` that one.

        Raises `UserError` if there are no weights yet, if the file is damaged or was lost, or if the model is of another class.
        """
        self.check_model(into)
        if snapshot is not None:
            model = into or GPT(self.gpt_config)
            model.update(read_snapshot(self.path, snapshot, self.snapshots(), model))
            return model
        file = self._weights(self.takes_best(last))
        if not file.exists():
            self.check_not_lost(file)
            problem = f"the run {self.path} has no checkpoint: none was written yet, or it was deleted"
            raise UserError(problem, f"continue with `resume` {quote(self.path)}")
        model = into or GPT(self.gpt_config)
        model.update(read_arrays(file, {MODEL: model.parameters()})[1][MODEL])
        return model

    def write(
        self,
        prompt: str = "",
        tokens: int = 500,
        seed: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> str:
        """`prompt` and `tokens` tokens that the model writes after it, fewer if its document ends. The text differs each time, unless
        you give a `seed`. The other settings are those of `make_sampler`. A run that trains may write, too: its weights are read each time, and MLX's random state stays.

        Raises `UserError` for characters that the model has never seen, for a setting out of range, and as `load_model` does.
        """
        sample = make_sampler(temperature, top_k, top_p)
        ids = encode_prompt(self.tokenizer, prompt)
        randomness = random_key()
        model = self.load_model()
        set_random_key(randomness)  # the first weights of a new model are drawn from it
        return prompt + self.tokenizer.decode(generate(model, ids, tokens, seed, sample, self.tokenizer.end_token))

    def model_class(self) -> str | None:
        """The class of the model that the run was trained with, if it is the user's own. Raises `UserError` if the files of the run
        are damaged."""
        return self._read().get("model_class")

    def check_model(self, model: GPT | None) -> str | None:
        """Return the class of `model` if it is the user's own. Raises `UserError` unless `model`, None for the GPT of this library,
        has the run's settings, float32 weights, and the class that the run was trained with."""
        if model is not None:
            if not isinstance(model, GPT):
                raise UserError(f"{type(model).__name__} is not a GPT", "give a `GPT`, or a subclass of it")
            for name, value in asdict(self.gpt_config).items():
                if (own := getattr(model.config, name)) != value:
                    problem = f"the model has {name} {own}, and the run {self.path} has {value}"
                    raise UserError(problem, "build it with run.gpt_config")
            for name, array in tree_flatten(model.trainable_parameters()):
                if array.dtype != mx.float32:
                    raise UserError(
                        f"{name} of the model is {array.dtype}", "keep float32 weights; see the setting `dtype`"
                    )
        code = model_checksum()
        with explaining_damage(self.path):
            config = _read_config(self.path)
            is_edited = config["versions"] == package_versions() and config.get("model_code", code) != code
        if is_edited:
            problem = f"model.py was edited since the run {self.path} was trained, which may now compute something else"
            warnings.warn(problem, RuntimeWarning, stacklevel=3)
        trained, given = config.get("model_class"), own_class(model) if model else None
        if trained != given and (trained or self.checkpoint.exists()):
            plain = "the GPT of this library"
            remedy = "build that model in Python, for gpt.train(model=...) or run.load_model(into=...)"
            raise UserError(
                f"the run {self.path} was trained with {trained or plain}, not with {given or plain}",
                remedy if trained else "start a new run",
            )
        return given

    def history(self) -> list[Evaluation]:
        """The evaluations up to the checkpoint, oldest first. Raises `UserError` if lines are missing or damaged."""
        file, contents, lines = self.path / HISTORY, self.contents(), self._history_lines()
        with explaining_damage(file):
            evaluations = [Evaluation(**json.loads(line)) for line in lines]
        counted = lines[: contents.evaluations]
        if len(counted) < contents.evaluations or zlib.crc32("".join(counted).encode()) != contents.history_checksum:
            raise UserError(
                f"{file} is damaged: the checkpoint counts {contents.evaluations} evaluations, and not all are "
                "there as they were",
                f"restore it from a copy, or continue in a new run with `init_from` {quote(self.path)}",
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
            return dict(self._read()["versions"])

    def extended(self, **changes) -> "Run":
        """The same run with `changes` to the settings in `MAY_CHANGE`; `train` writes them to config.json. Raises `UserError` for
        another setting."""
        if fixed := sorted(changes.keys() - set(MAY_CHANGE)):
            raise UserError(f"{fixed[0]} of the run {self.path} cannot change", "start a new run")
        return replace(self, train_config=replace(self.train_config, **changes))

    def description(self) -> dict:
        """The content of config.json and tokenizer.json, for `run_of` on another machine."""
        return {"path": str(self.path), "config": self._config(None), "tokenizer": self.tokenizer.to_json()}

    def contents(self, best: bool = False) -> Contents:
        """The metadata of the checkpoint, or of the best weights; those of an untrained run if there was no such file yet."""
        file = self._weights(best)
        if not file.exists():
            self.check_not_lost(file)
            return Contents(Position(), 0, zlib.crc32(b""), {})
        with explaining_damage(file):
            return open_arrays(file)[0]

    def write_config(self, folder: Folder, model_class: str | None) -> None:
        """Write config.json into the run's `folder`, with the versions in use now. Raises `UserError` if that fails."""
        config = self._config(model_class)
        with explaining_write(self.path, "make room or make the directory writable"):
            folder.write(CONFIG, json.dumps(config | {CHECKSUM: _seal(config)}, indent=2) + "\n")

    def _read(self) -> dict:
        """The content of config.json as it is now."""
        with explaining_damage(self.path):
            return _read_config(self.path)

    def _weights(self, best: bool) -> Path:
        return self.path / BEST if best else self.checkpoint

    def _history_lines(self) -> list[str]:
        file = self.path / HISTORY
        with explaining_damage(file):
            return read_text(file).splitlines(keepends=True) if file.exists() else []

    def check_not_lost(self, file: Path) -> None:
        """Raise `UserError` if other files show that `file`, a file of weights that is missing, was written once."""
        if file.name == CHECKPOINT:
            lines = len(self._history_lines())
            # a crash at the first evaluation leaves one line; a run that started from weights had a checkpoint before
            lost = (self.path / BEST).exists() or lines > (0 if self.init_from else 1)
            remedy = "restore it from a copy, or train a new run"
        else:
            lost, remedy = self.contents().evaluations > 0, "take the others with `last`, or train on"
        if lost:
            raise UserError(f"{file} is missing, and other files of the run show that it was there", remedy)

    def _config(self, model_class: str | None) -> dict:
        """config.json without its checksum."""
        return {
            "id": self.id,
            "gpt": asdict(self.gpt_config),
            "train": asdict(self.train_config),
            "corpus": asdict(self.corpus) | {name: list(getattr(self.corpus, name)) for name in ("sources", "valid")},
            "tokenizer": hashlib.sha256(self.tokenizer.to_json().encode()).hexdigest(),
            "init_from": self.init_from,
            "teachers": [asdict(teacher) for teacher in self.teachers],
            "model_class": model_class,
            "model_code": model_checksum(),
            "versions": package_versions(),
        }


def open_run(path: Path | str | int) -> Run:
    """The run in the directory `path`, or of that number in `runs/`. Raises `UserError` if there is none, or if its files are
    damaged."""
    path = RUNS / str(path) if isinstance(path, int) else Path(path)
    if not os.path.isfile(path / CONFIG):
        raise UserError(f"{path} holds no run (it has no {CONFIG})", _runs_to_name())
    with explaining_damage(path):
        config = _read_config(path)
        if not os.path.lexists(path / TOKENIZER) and is_unfinished(
            path, [name for name in FILES if (path / name).exists()]
        ):
            raise UserError(
                f"{path} holds a run that was not finished when it was made", "start it again with the same `run_dir`"
            )
        return _parse(path, config, read_text(path / TOKENIZER))


def run_of(description: Mapping) -> Run:
    """The run of a `Run.description`, whose directory may be on another machine."""
    return _parse(Path(description["path"]), description["config"], description["tokenizer"])


def _parse(path: Path, config: Mapping, text: str) -> Run:
    """The run of the contents of config.json and tokenizer.json."""
    if config["tokenizer"] != hashlib.sha256(text.encode()).hexdigest():
        raise ValueError(f"{TOKENIZER} is not as it was written")
    tokenizer = tokenizer_from_json(text)
    gpt_config, train_config = GPTConfig(**config["gpt"]), TrainConfig(**config["train"])
    names = config["init_from"], config.get("model_class")
    if not (all(isinstance(name, str | None) for name in names) and isinstance(config["id"], str)):
        raise ValueError(f"{names!r} are not names")
    if tokenizer.vocab_size != gpt_config.vocab_size:
        raise ValueError(f"{TOKENIZER} has {tokenizer.vocab_size} symbols and the model {gpt_config.vocab_size}")
    corpus = CorpusIdentity.from_json(config["corpus"])
    teachers = tuple(map(Teacher.from_json, config.get("teachers", ())))
    return Run(path, gpt_config, train_config, corpus, tokenizer, config["id"], config["init_from"], teachers)


def _runs_to_name() -> str:
    """A remedy: the newest runs in `runs/`."""
    runs = [file.parent for file in newest_files(RUNS, CONFIG)]
    if not runs:
        return "train one first"
    return f"name one that does: {', '.join(map(quote, runs[:5]))}"


def is_unfinished(path: Path, taken: Sequence[str]) -> bool:
    """Whether the files `taken` in `path` are what a stopped `create_run` or `start_from` leaves."""
    if not {HISTORY, CHECKPOINT, BEST}.isdisjoint(taken):
        return False
    try:
        config = _read_config(path)
        return TOKENIZER not in taken or config["init_from"] is not None
    except (OSError, *DAMAGE):
        return False


def _read_config(path: Path) -> dict:
    """The content of config.json, without its checksum."""
    config = json.loads(read_text(path / CONFIG))
    if config.pop(CHECKSUM) != _seal(config):
        raise ValueError(f"{CONFIG} is not as it was written")
    return config


def _seal(config: Mapping) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def quote(path: Path) -> str:
    return shlex.quote(str(path))
