"""The promises of trackers: each has every record that came after it was asked for, and none can stop a training run."""

import errno
import itertools
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import mlx_nanogpt as gpt
import pytest
from mlx_nanogpt import training
from conftest import DATA, TINY, WAIT, asked, in_a_process, tiny_run
from mlx_nanogpt.runs.recorder import Recorder
from mlx_nanogpt.runs.trackers import KINDS, PROJECT, Trackers

NAMES = {"loss": "train/loss", "learning_rate": "train/learning_rate", "grad_norm": "train/grad_norm"}
SMALL = {"n_layer": 1, "backend": "eager"}
LONG = SMALL | {"num_iter": 35, "eval_interval": 10}


def never(name: str, reason: str) -> None:
    pytest.fail(f"{name} failed: {reason}")


def follow(run: gpt.Run, *names: str, records: int | None = None, should_stop=lambda: False, on_failure=never) -> None:
    """Train `run` with trackers. With a number of `records`, the process is gone after them, and closes nothing."""
    trackers = Trackers(names, run, on_failure)
    stream = gpt.train(run, DATA, should_stop)
    for record in itertools.islice(stream, records):
        trackers.note(record)
    stream.close()
    if records is None:
        trackers.__exit__(None)
    if "wandb" in names:
        sys.modules["wandb"].teardown()  # as the end of the process does


def recorded(run: gpt.Run, since: int = 0) -> dict[int, dict[str, float]]:
    """The values of each iteration after `since` that trackers should have, as the run's files have them; without the speed."""
    found: dict[int, dict[str, float]] = {}
    for line in run.log():
        if isinstance(line, gpt.Progress):
            found[line.iteration] = {name: getattr(line, ours) for ours, name in NAMES.items()}
    for evaluation in run.history():
        losses = {"eval/loss": evaluation.valid_loss, "eval/train_loss": evaluation.train_loss}
        found.setdefault(evaluation.iteration, {}).update(losses)
    return {iteration: values for iteration, values in found.items() if iteration > since}


# ---- the records that each tracker has, read by its own program


def read_tensorboard(run: gpt.Run) -> Iterator[tuple[int, str, float]]:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reader = reading.EventAccumulator(str(run.path)).Reload()
    for tag in reader.Tags()["scalars"]:
        for scalar in reader.Scalars(tag):
            yield scalar.step, tag, scalar.value


def read_trackio(run: gpt.Run) -> Iterator[tuple[int, str, float]]:
    storage, name = pytest.importorskip("trackio.sqlite_storage").SQLiteStorage, f"{run.path.name}-{run.id}"
    assert [record["name"] for record in storage.get_run_records(PROJECT)].count(name) == 1
    settings = storage.get_run_config(PROJECT, name)
    assert settings["n_layer"] == 1 and settings["corpus"] == "play.txt" and "mlx" in settings["versions"]
    for row in storage.get_logs(PROJECT, name):
        for tag in row.keys() & {*NAMES.values(), "eval/loss", "eval/train_loss"}:
            yield row["step"], tag, row[tag]


def read_wandb(run: gpt.Run) -> Iterator[tuple[int, str, float]]:
    """The history in the files of all folders of `run`, by wandb's own protocol."""
    messages = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    for file in Path("wandb").glob(f"offline-run-*-{run.id}*/run-{run.id}.wandb"):
        for record in map(messages.Record.FromString, leveldb_records(file.read_bytes())):
            if record.WhichOneof("record_type") == "run":
                settings = {item.key: json.loads(item.value_json) for item in record.run.config.update}
                assert record.run.project == "mine" and record.run.display_name == f"{run.path.name}-{run.id}"
                assert settings["n_layer"] == 1 and settings["corpus"] == "play.txt"
            if record.WhichOneof("record_type") == "history":
                values = {"/".join(item.nested_key) or item.key: float(item.value_json) for item in record.history.item}
                yield from ((int(values["_step"]), tag, value) for tag, value in values.items() if "/" in tag)


def leveldb_records(data: bytes) -> Iterator[bytes]:
    """The records of a log of LevelDB, after wandb's header: in blocks of 32 kB, each piece after its checksum, size and kind."""
    position, record = 7, b""
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, size, kind = struct.unpack_from("<IHB", data, position)
        record += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield record
            record = b""


READERS = {"tensorboard": read_tensorboard, "trackio": read_trackio, "wandb": read_wandb}


def check_records(name: str, run: gpt.Run, since: int = 0) -> None:
    """Check that a tracker has all records of `run` after the iteration `since`, each once, and no other."""
    found: dict[int, dict[str, float]] = {}
    for iteration, tag, value in READERS[name](run):
        assert tag not in found.setdefault(iteration, {}), (iteration, tag)
        if tag != "train/tokens_per_second":
            found[iteration][tag] = pytest.approx(value, rel=2**-23)  # TensorBoard keeps float32
    assert found == recorded(run, since) != {}


@pytest.mark.programs
@pytest.mark.filterwarnings("default")  # those of the trackers are theirs
@pytest.mark.parametrize("name", KINDS)
def test_a_tracker_has_the_records_since_it_was_asked_for_also_of_a_resumed_run(name, monkeypatch):
    pytest.importorskip(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    run = tiny_run("one/run", **LONG)
    follow(run, should_stop=asked(15))
    follow(run, name, should_stop=asked(15))
    assert 20 < run.position().iteration < 30
    Path("one").rename("two")
    run = gpt.open_run(Path("two/run"))
    follow(run, name)
    check_records(name, run, since=run.history()[0].iteration)


@pytest.mark.programs
def test_tensorboard_shows_each_step_once_after_a_kill(monkeypatch):
    run = tiny_run(**LONG)
    stages = [type(record).__name__ for record in gpt.train(tiny_run(**LONG), DATA)]
    with monkeypatch.context() as patch:
        patch.setattr(training, "saved_when_left", lambda records, *_: records)  # a kill saves nothing
        follow(run, "tensorboard", records=len(stages) - stages[::-1].index("Progress"))
    assert run.position().iteration == 20
    follow(run, "tensorboard")
    check_records("tensorboard", run)


# ---- records and failures, with a tracker that keeps all in memory


class Memory:
    """A tracker that keeps what it gets."""

    rows: list[tuple[int, dict]]
    failed: list[bool]  # whether the run had failed, at each closing

    def __init__(self, run: gpt.Run):
        pass

    def log(self, iteration: int, values: dict) -> None:
        self.rows.append((iteration, dict(values)))

    def close(self, failed: bool) -> None:
        self.failed.append(failed)


@pytest.fixture
def memories(monkeypatch) -> dict[str, type[Memory]]:
    """Two empty trackers, by their names."""
    found = {name: type("Kind", (Memory,), {"rows": [], "failed": []}) for name in ("first", "second")}
    for name, kind in found.items():
        monkeypatch.setitem(KINDS, name, kind)
    return found


def test_a_record_is_sent_when_it_comes(memories):
    """Before the process can fail: `Diverged` would be raised after the last record."""
    run = tiny_run(num_iter=20, eval_interval=20, **SMALL)
    trackers, iterations = Trackers(["first"], run, never), []
    for record in gpt.train(run, DATA):
        trackers.note(record)
        iterations += [record.iteration] * isinstance(record, gpt.Progress | gpt.Evaluation)
        assert [iteration for iteration, _ in memories["first"].rows] == iterations
    assert iterations == [10, 20, 20]


def test_a_run_that_another_process_trains_opens_no_tracker(memories):
    """TensorBoard would hide the records of the other process."""
    run = tiny_run(**SMALL)
    with Recorder(run), pytest.raises(gpt.UserError, match="in use by another process"):
        follow(run, *memories)
    assert not any(kind.rows or kind.failed for kind in memories.values())


@pytest.mark.parametrize("part", ["__init__", "log", "close"])
def test_a_tracker_that_fails_is_named_once_and_stops_nothing(memories, part, monkeypatch):
    def fail(*arguments, **more) -> None:
        raise OSError("no space\nleft")

    monkeypatch.setattr(memories["second"], part, fail)
    failures, run = [], tiny_run(**SMALL)
    follow(run, "second", "first", on_failure=lambda *failure: failures.append(failure))
    assert failures == [("second", "no space left")]
    assert memories["second"].failed == ([True] if part == "log" else [])
    assert run.position().iteration == 8 and dict(memories["first"].rows) == recorded(run)


def test_a_tracker_learns_whether_the_run_failed(memories):
    run = tiny_run(**SMALL)
    follow(run, *memories)
    with pytest.raises(gpt.UserError), Trackers([*memories], run.extended(num_iter=12), never) as trackers:
        for record in gpt.train(run.extended(num_iter=12), DATA):
            trackers.note(record)
        raise gpt.UserError("the loss is not finite", "try a lower rate")
    assert all(kind.failed == [False, True] for kind in memories.values())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # tensorboardX's thread fails, too
def test_a_full_disk_stops_no_training_run():
    pytest.importorskip("tensorboardX")
    failures, run = [], tiny_run(num_iter=16, eval_interval=2, **SMALL)
    with ExitStack() as disk, Trackers(["tensorboard"], run, lambda *failure: failures.append(failure)) as trackers:
        for record in gpt.train(run, DATA):
            trackers.note(record)
            if isinstance(record, gpt.Evaluation) and record.iteration == 2:
                disk.enter_context(full(*run.path.glob("events.*")))
    assert [name for name, _ in failures] == ["tensorboard"] and os.strerror(REFUSAL) in failures[0][1]
    assert run.position().iteration == 16


# A Mac has no full device; there, one that is opened to be read takes nothing either.
FULL, MODE, REFUSAL = "/dev/full", os.O_WRONLY, errno.ENOSPC
if not Path(FULL).exists():
    FULL, MODE, REFUSAL = os.devnull, os.O_RDONLY, errno.EBADF


@contextmanager
def full(file: Path) -> Iterator[None]:
    """Let all that this process writes to `file` fail as on a full disk."""
    (descriptor,) = (number for number in range(3, 1000) if is_open(number, file))
    kept, device = os.dup(descriptor), os.open(FULL, MODE)
    os.dup2(device, descriptor)
    os.close(device)
    yield
    os.dup2(kept, descriptor)
    os.close(kept)


def is_open(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except OSError:
        return False


# ---- the command line


@pytest.mark.parametrize("name", KINDS)
def test_a_missing_package_is_named_before_a_run_is_made(mlx_gpt, monkeypatch, name):
    monkeypatch.setitem(sys.modules, KINDS[name].package, None)
    result = mlx_gpt("train", *TINY, f"--report-to={name}")
    assert result.status == 1 and f'install it with pip install -e ".[{name}]"' in result.err
    assert not Path("runs").exists()


def test_an_unknown_tracker_is_a_mistake(mlx_gpt):
    result = mlx_gpt("train", *TINY, "--report-to=mlflow")
    assert result.status == 2 and "'mlflow'" in result.err and "trackio" in result.err


def test_train_and_resume_report(mlx_gpt):
    pytest.importorskip("tensorboardX")
    twice = ["--report-to=tensorboard", "--report-to=tensorboard"]
    result = mlx_gpt("train", *TINY, "--backend=eager", *twice)
    assert result.status == 0 and "(look with tensorboard --logdir runs)" in result.out
    assert len(list(Path("runs/1").glob("events.out.tfevents.*"))) == 1
    assert mlx_gpt("train", "--resume=runs/1", "--num-iter=12", "--report-to=tensorboard").status == 0
    assert len(list(Path("runs/1").glob("events.out.tfevents.*"))) == 2


@pytest.mark.programs
def test_training_continues_if_wandb_does_not_start(monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with in_a_process(
        "-m", "mlx_nanogpt_cli", "train", *TINY, "--report-to=wandb", stdin=subprocess.DEVNULL
    ) as process:
        out, err = process.communicate(timeout=WAIT)
    assert process.returncode == 0, err
    assert (
        "wandb failed; training continues without it: there is no account at Weights & Biases to send to; call wandb login"
        in out
        and "Traceback" not in err
    )
    assert gpt.open_run(Path("runs/1")).position().iteration == 4
