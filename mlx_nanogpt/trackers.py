"""Trackers: TensorBoard, trackio and Weights & Biases may follow a training.

Each is an adapter of a few lines on the records that `train` yields. One that fails is left out, and the training goes on.
"""

import os
import socket
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Literal, Protocol

from .evaluation import Evaluation
from .extras import import_extra
from .log import Line, Measurement
from .run import Run
from .training import Event

TrackerName = Literal["tensorboard", "trackio", "wandb"]  # also the names of the packages, and of the extras
PROJECT = "mlx-nanogpt"  # where trackio and wandb keep the runs


class Tracker(Protocol):
    """What follows `run`, which it knows by `name`. It has all values up to the iteration `told` already."""

    told: int

    def __init__(self, run: Run, name: str): ...

    def log(self, iteration: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in the run's directory: `tensorboard --logdir runs` shows all runs."""

    told = -1

    def __init__(self, run: Run, name: str):
        writing = import_extra("tensorboard.summary.writer.record_writer", "tensorboard")
        self.proto = import_extra("tensorboard.compat.proto.event_pb2", "tensorboard")
        # Readers take the files of a folder in the order of their names.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self.file = open(run.path / name, "xb", buffering=0)
        self.writer = writing.RecordWriter(self.file)
        self._add(file_version="brain.Event:2")
        # A START drops what older files have from its step on, so each file tells the whole run.
        self._add(step=0, session_log={"status": self.proto.SessionLog.START})

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        self._add(step=iteration, summary={"value": [{"tag": tag, "simple_value": x} for tag, x in values.items()]})

    def _add(self, **content: Any) -> None:
        self.writer.write(self.proto.Event(wall_time=time.time(), **content).SerializeToString())

    def close(self) -> None:
        self.file.close()


class Trackio:
    """A run of trackio, by default in a database on this machine."""

    def __init__(self, run: Run, name: str):
        self.trackio = import_extra("trackio", "trackio")
        self.run = self.trackio.init(PROJECT, name, resume="allow", config=_config(run))
        self.told = self.run._next_step - 1  # it has no public name

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=iteration)

    def close(self) -> None:
        self.trackio.finish()


class WeightsAndBiases:
    """A run of wandb. Offline it knows nothing of earlier trainings, so each of its folders tells the whole run."""

    def __init__(self, run: Run, name: str):
        wandb = import_extra("wandb", "wandb")
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=name,
            name=name,
            resume="allow",
            config=_config(run),
            settings=wandb.Settings(console="off"),  # it would copy the screen
        )
        self.told = self.run.step - 1

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=iteration)

    def close(self) -> None:
        self.run.finish()


KINDS: dict[TrackerName, type[Tracker]] = {"tensorboard": TensorBoard, "trackio": Trackio, "wandb": WeightsAndBiases}


def check_installed(names: Sequence[TrackerName]) -> None:
    """Raise `UserError` if the package of a tracker is missing."""
    for name in names:
        import_extra(name, name)


class Trackers:
    """The trackers `names` of a training of `run`; a context that closes them.

    They are told of the past of the run first, as far as they do not know it. If one fails, `on_failure` gets its name and the
    reason, and it is told no more. Raises `UserError` if another process trains the run, or if its directory cannot be written.
    """

    def __init__(self, names: Sequence[TrackerName], run: Run, on_failure: Callable[[TrackerName, str], None]):
        self.on_failure = on_failure
        self.iteration = 0
        self.values: dict[str, float] = {}  # of this iteration, not told yet
        self.trackers: dict[TrackerName, Tracker] = {}
        if not names:
            return
        with run.locked() as writer:
            name_of_run = writer.tracked_name()
        for name in dict.fromkeys(names):
            with self._survived(name):
                self.trackers[name] = KINDS[name](run, name_of_run)
        for event in sorted(
            [*run.log(), *run.history()], key=lambda each: each.iteration
        ):  # a step before its evaluation
            self.note(event)

    def note(self, event: Event | Line) -> None:
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

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is not KeyboardInterrupt:  # what stops at once does not wait for a network
            for name, tracker in list(self.trackers.items()):
                with self._survived(name):
                    tracker.close()

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
            self.trackers.pop(name, None)
            self.on_failure(name, textwrap.shorten(str(error) or type(error).__name__, 200, placeholder=" ..."))


def _config(run: Run) -> dict:
    return asdict(run.gpt_config) | asdict(run.train_config) | {"corpus": run.corpus.name, "versions": run.versions()}
