"""Trackers: TensorBoard, trackio and Weights & Biases receive the losses of a training run.

Each is an adapter on the records that `train` yields, and receives those that come after it was asked for. After a
kill the steps since the checkpoint come a second time: TensorBoard then hides the first ones, wandb ignores the second ones, and
trackio shows both.
"""

import os
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Literal

from ..errors import UserError, import_extra
from ..records import Evaluation, Progress, Record
from .run import Run

TrackerName = Literal["tensorboard", "trackio", "wandb"]  # also the names of the extras
PROJECT = "mlx-nanogpt"  # where trackio and wandb keep the runs


class TensorBoard:
    """Event files in the run's directory: `tensorboard --logdir runs` shows all runs."""

    package = "tensorboardX"  # it writes the files, and TensorBoard, which takes much more, only reads them

    def __init__(self, run: Run):
        done = run.position().iteration
        self.writer = import_extra(self.package, "tensorboard").SummaryWriter(
            str(run.path),
            purge_step=done + 1,
            max_queue=100,  # a full queue blocks, also if the thread that empties it has failed
            filename_suffix=f".{done:09}",  # files of the same second need different names, in this order
        )

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, iteration)
        self.writer.flush()  # raises the error that its thread would hide

    def close(self, failed: bool) -> None:
        self.writer.close()


class Trackio:
    """A run of trackio, by default in a database on this machine. It knows a run by its name."""

    package = "trackio"

    def __init__(self, run: Run):
        self.trackio = import_extra(self.package, "trackio")
        self.run = self.trackio.init(PROJECT, resume="allow", **_describe(run))

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=iteration)

    def close(self, failed: bool) -> None:
        self.trackio.finish()


class WeightsAndBiases:
    """A run of wandb. Offline each process writes a folder of its own."""

    package = "wandb"

    def __init__(self, run: Run):
        wandb = import_extra(self.package, "wandb")
        if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False, verify=False):
            raise UserError(
                "there is no account at Weights & Biases to send to", "call wandb login, or set WANDB_MODE to offline"
            )
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.id,
            resume="allow",
            settings=wandb.Settings(console="off", quiet=True),  # the screen is ours
            **_describe(run),
        )

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        if iteration >= self.run.step:  # wandb takes no earlier step, and would print a warning
            self.run.log(dict(values), step=iteration)

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


Tracker = TensorBoard | Trackio | WeightsAndBiases
KINDS: dict[TrackerName, type[Tracker]] = {"tensorboard": TensorBoard, "trackio": Trackio, "wandb": WeightsAndBiases}


def check_installed(names: Sequence[TrackerName]) -> None:
    """Raise `UserError` if the package of a tracker is missing."""
    for name in names:
        import_extra(KINDS[name].package, name)


class Trackers:
    """The trackers `names` of a run, until the context ends. If one fails, `on_failure` gets its name and the reason, and it is left
    out. Of several ranks only rank 0 has trackers."""

    def __init__(self, names: Sequence[TrackerName], run: Run, on_failure: Callable[[TrackerName, str], None]):
        self.run, self.on_failure = run, on_failure
        self.trackers: dict[TrackerName, Tracker | None] = dict.fromkeys(names)  # None before the first record

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        for name, tracker in list(self.trackers.items()):
            if tracker:
                with self._leave_out_if_it_fails(name):
                    tracker.close(failed=kind is not None)

    def note(self, record: Record) -> None:
        """Send the values of `record` if it is a `Progress` or an `Evaluation`. The first one opens the trackers: by then `train` has
        locked the run."""
        match record:
            case Progress(iteration):
                values = {f"train/{name}": value for name, value in asdict(record).items() if name != "iteration"}
            case Evaluation(iteration):
                values = {"eval/loss": record.valid_loss, "eval/train_loss": record.train_loss}
            case _:
                return
        for name, tracker in list(self.trackers.items()):
            with self._leave_out_if_it_fails(name):
                self.trackers[name] = tracker = tracker or KINDS[name](self.run)
                tracker.log(iteration, values)

    @contextmanager
    def _leave_out_if_it_fails(self, name: TrackerName) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # any, because the code is somebody else's
            if tracker := self.trackers.pop(name):
                with suppress(Exception):
                    tracker.close(failed=True)
            self.on_failure(name, textwrap.shorten(str(error) or type(error).__name__, 200, placeholder=" ..."))


def _describe(run: Run) -> dict:
    """Return a name and the settings of `run`, as trackio and wandb take them: in UTF-8, which the name of a file need not be."""
    name, corpus = (
        text.encode(errors="backslashreplace").decode()
        for text in (f"{run.path.resolve().name}-{run.id}", run.corpus.name)
    )
    settings = asdict(run.gpt_config) | asdict(run.train_config)
    return {"name": name, "config": settings | {"corpus": corpus, "versions": run.versions()}}
