"""Trackers: TensorBoard, trackio and Weights & Biases may follow a training.

Each is an adapter of a few lines on the records that `train` yields. One that fails is left out, and the training goes on.
"""

import os
import socket
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from typing import Any, Literal, Protocol

from ..errors import UserError
from ..errors import import_extra
from .run import Run
from ..records import Diverged, Evaluation, Progress as Measurement, Record as Event

TrackerName = Literal["tensorboard", "trackio", "wandb"]  # also the names of the packages, and of the extras
PROJECT = "mlx-nanogpt"  # where trackio and wandb keep the runs


class Tracker(Protocol):
    """What follows `run`, whose `writer` knows its name. `told` is the last iteration that it already has, or -1."""

    told: int

    def __init__(self, run: Run, writer: Writer): ...

    def log(self, iteration: int, values: Mapping[str, float]) -> None: ...

    def close(self, failed: bool) -> None: ...


class TensorBoard:
    """Event files in the run's directory: `tensorboard --logdir runs` shows all runs."""

    def __init__(self, run: Run, writer: Writer):
        writing = import_extra("tensorboard.summary.writer.record_writer", "tensorboard")
        self.proto = import_extra("tensorboard.compat.proto.event_pb2", "tensorboard")
        reading = import_extra("tensorboard.backend.event_processing.event_file_loader", "tensorboard")
        older = run.path.glob("events.out.tfevents.*")
        self.told = max(
            (each.step for file in older for each in reading.LegacyEventFileLoader(str(file)).Load()), default=-1
        )
        # Readers take the files of a folder in the order of their names.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self.file = open(run.path / name, "xb", buffering=0)
        self.records = writing.RecordWriter(self.file)
        self._add(file_version="brain.Event:2")

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        self._add(step=iteration, summary={"value": [{"tag": tag, "simple_value": x} for tag, x in values.items()]})

    def _add(self, **content: Any) -> None:
        self.records.write(self.proto.Event(wall_time=time.time(), **content).SerializeToString())

    def close(self, failed: bool) -> None:
        self.file.close()


class Trackio:
    """A run of trackio, by default in a database on this machine."""

    def __init__(self, run: Run, writer: Writer):
        self.trackio = import_extra("trackio", "trackio")
        self.run = self.trackio.init(PROJECT, writer.tracked_name(), resume="allow", config=_config(run))
        self.told = self.run._next_step - 1  # it has no public name

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=iteration)

    def close(self, failed: bool) -> None:
        self.trackio.finish()


class WeightsAndBiases:
    """A run of wandb. Offline it knows nothing of earlier trainings, so each of its folders tells the whole run."""

    def __init__(self, run: Run, writer: Writer):
        wandb = import_extra("wandb", "wandb")
        if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False, verify=False):
            raise UserError(
                "there is no account at Weights & Biases to send to", "call wandb login, or set WANDB_MODE to offline"
            )
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=writer.tracked_name(),
            name=writer.tracked_name(),
            resume="allow",
            config=_config(run),
            settings=wandb.Settings(console="off", quiet=True),  # the screen is ours
        )
        self.told = self.run.step - 1

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=iteration)

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


KINDS: dict[TrackerName, type[Tracker]] = {"tensorboard": TensorBoard, "trackio": Trackio, "wandb": WeightsAndBiases}


def check_installed(names: Sequence[TrackerName]) -> None:
    """Raise `UserError` if the package of a tracker is missing."""
    for name in names:
        import_extra(name, name)


class Trackers:
    """The trackers `names` of a training of `run`, open for the time of a context.

    Each is first told what it missed. If one fails, `on_failure` gets its name and the reason, and it is told no more. Entering
    raises `UserError` if another process trains the run.
    """

    def __init__(self, names: Sequence[TrackerName], run: Run, on_failure: Callable[[TrackerName, str], None]):
        self.names, self.run, self.on_failure = names, run, on_failure
        self.iteration = 0
        self.values: dict[str, float] = {}  # of this iteration, not told yet
        self.trackers: dict[TrackerName, Tracker] = {}

    def __enter__(self) -> "Trackers":
        with ExitStack() as if_stopped:
            if_stopped.push(self)
            self._open()
            if_stopped.pop_all()
        return self

    def _open(self) -> None:
        if self.names:
            past: list[Measurement | Evaluation] = [*measurements(self.run.log()), *self.run.history()]
            with self.run.locked() as writer:
                for name in self.names:
                    with self._survived(name):
                        self.trackers[name] = KINDS[name](self.run, writer)
            # a step that is evaluated, too, comes before its evaluation
            for event in sorted(past, key=lambda each: each.iteration):
                self.note(event)

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind and issubclass(kind, Diverged):
            self._tell()  # no evaluation of this step will come
        for name, tracker in list(self.trackers.items()):
            with self._survived(name):
                tracker.close(failed=kind is not None)

    def note(self, event: Event) -> None:
        """Tell what `event` brings. The values of a step are told together: once it is evaluated, or another one begins."""
        if event.iteration > self.iteration:
            self._tell()
        self.iteration = event.iteration
        match event:
            case Measurement():
                self.values = {f"train/{name}": value for name, value in asdict(event).items() if name != "iteration"}
            case Evaluation():
                self.values |= {"eval/loss": event.valid_loss, "eval/train_loss": event.train_loss}
                self._tell()

    def _tell(self) -> None:
        if self.values:
            for name, tracker in list(self.trackers.items()):
                with self._survived(name):
                    if self.iteration > tracker.told:
                        tracker.log(self.iteration, self.values)
            self.values = {}

    @contextmanager
    def _survived(self, name: TrackerName) -> Iterator[None]:
        """Leave out the tracker `name` if the body fails."""
        try:
            yield
        except Exception as error:  # any, for it is another's code
            if tracker := self.trackers.pop(name, None):
                with suppress(Exception):
                    tracker.close(failed=True)
            self.on_failure(name, textwrap.shorten(str(error) or type(error).__name__, 200, placeholder=" ..."))


def _config(run: Run) -> dict:
    corpus = run.corpus.name.encode(errors="backslashreplace").decode()  # the name of a file may be no UTF-8
    return asdict(run.gpt_config) | asdict(run.train_config) | {"corpus": corpus, "versions": run.versions()}
