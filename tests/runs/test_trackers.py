"""The promises of trackers: each has every record of a run exactly once, whatever happened in between, and none can stop a
training."""

import itertools
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlx_nanogpt as gpt
import numpy as np
import pytest
from mlx_nanogpt import training
from conftest import DATA, TINY, asked, finish, in_a_process, tiny_run
from mlx_nanogpt.runs.log import measurements
from mlx_nanogpt.runs.trackers import KINDS, PROJECT, Trackers

NAMES = {"loss": "train/loss", "learning_rate": "train/learning_rate", "grad_norm": "train/grad_norm"}
LONG = {"num_iter": 25, "eval_interval": 10, "n_layer": 1, "backend": "eager"}


def never(name: str, reason: str) -> None:
    pytest.fail(f"{name} failed: {reason}")


def follow(run: gpt.Run, *names: str, events: int | None = None, should_stop=lambda: False, on_failure=never) -> None:
    """Train `run`, followed by trackers. With a number of `events`, the process is gone after them, and closes nothing."""
    told = Trackers(names, run, on_failure).__enter__()
    stream = gpt.train(run, DATA, should_stop)
    for event in itertools.islice(stream, events):
        told.note(event)
    stream.close()
    if events is None:
        told.__exit__(None)


def recorded(run: gpt.Run) -> dict[int, dict[str, float]]:
    """The values of each iteration that trackers should have, as the run's files have them; without the speed."""
    found: dict[int, dict[str, float]] = {
        line.iteration: {name: getattr(line, ours) for ours, name in NAMES.items()} for line in measurements(run.log())
    }
    for each in run.history():
        found.setdefault(each.iteration, {}).update({"eval/loss": each.valid_loss, "eval/train_loss": each.train_loss})
    return found


# ---- what each tracker has


def events_in(run: gpt.Run) -> dict[int, dict[str, float]]:
    """The scalars in the event files of `run`, by TensorBoard's own reader."""
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reader = reading.EventAccumulator(str(run.path)).Reload()
    found: dict[int, dict[str, float]] = {}
    for tag in reader.Tags()["scalars"]:
        steps = [each.step for each in reader.Scalars(tag)]
        assert steps == sorted(set(steps)), tag
        for each in reader.Scalars(tag):
            found.setdefault(each.step, {})[tag] = each.value
    return found


def trackios_rows(run: gpt.Run) -> dict[int, dict[str, float]]:
    """The rows of `run` in trackio's database."""
    storage = pytest.importorskip("trackio.sqlite_storage").SQLiteStorage
    name = name_of(run)
    assert [each["name"] for each in storage.get_run_records(PROJECT)].count(name) == 1
    rows = storage.get_logs(PROJECT, name)
    assert len({row["step"] for row in rows}) == len(rows)
    return {row["step"]: {name: value for name, value in row.items() if "/" in name} for row in rows}


def wandbs_history(run: gpt.Run) -> dict[int, dict[str, float]]:
    """The history of `run` in the file that wandb wrote last."""
    found = {}
    for record in wandbs_records(run):
        if record.WhichOneof("record_type") == "history":
            values = {"/".join(item.nested_key) or item.key: float(item.value_json) for item in record.history.item}
            assert int(values["_step"]) not in found
            found[int(values["_step"])] = {name: value for name, value in values.items() if "/" in name}
    return found


def wandbs_records(run: gpt.Run) -> list:
    """The newest file of wandb's on `run`, by wandb's own protocol."""
    messages, name = pytest.importorskip("wandb.proto.wandb_internal_pb2"), name_of(run)
    folders = Path("wandb").glob(f"offline-run-*-{name}*")
    file = max(folders, key=lambda folder: folder.stat().st_mtime_ns) / f"run-{name}.wandb"
    return [messages.Record.FromString(record) for record in records(file.read_bytes())]


def records(data: bytes) -> Iterator[bytes]:
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


def name_of(run: gpt.Run) -> str:
    with run.locked() as writer:
        return writer.tracked_name()


def trackios_config(run: gpt.Run) -> dict:
    storage = pytest.importorskip("trackio.sqlite_storage").SQLiteStorage
    return storage.get_run_config(PROJECT, name_of(run))


def wandbs_run(run: gpt.Run):
    """What wandb keeps of `run` beside its history."""
    return next(record.run for record in wandbs_records(run) if record.WhichOneof("record_type") == "run")


STORES = {"tensorboard": events_in, "trackio": trackios_rows, "wandb": wandbs_history}


def check_store(name: str, run: gpt.Run) -> None:
    """Check that a tracker has all that the run recorded, and that alone."""
    found, wanted = STORES[name](run), recorded(run)
    assert found.keys() == wanted.keys()
    for iteration, values in wanted.items():
        assert found[iteration].keys() - {"train/tokens_per_second"} == values.keys()
        for each, value in values.items():
            assert np.float32(found[iteration][each]) == np.float32(value)  # TensorBoard keeps float32


@pytest.mark.filterwarnings("default")  # those of the trackers are theirs
@pytest.mark.parametrize("name", KINDS)
def test_a_tracker_has_all_records_of_a_run_once_also_of_one_that_goes_on(name, monkeypatch):
    pytest.importorskip(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    run = tiny_run(**LONG)
    follow(run, should_stop=asked(7))  # before the tracker was asked for
    follow(run, name, should_stop=asked(9))
    shutil.move("runs/1", "moved")
    run = gpt.open_run(Path("moved"))
    follow(run, name)
    assert run.position().iteration == 25 and 25 in recorded(run)
    check_store(name, run)
    if name == "trackio":
        found = trackios_config(run)
        assert found["n_layer"] == 1 and found["corpus"] == "play.txt" and "mlx" in found["versions"]
    if name == "wandb":
        about = wandbs_run(run)
        said = {each.key: json.loads(each.value_json) for each in about.config.update}
        assert about.project == "mine" and said["n_layer"] == 1 and said["corpus"] == "play.txt"


# ---- whatever happens in between


class Memory:
    """A tracker that keeps what it is told, and knows later where it was, as trackio does."""

    rows: list[tuple[int, dict]]
    failed: list[bool]  # what it was told at its end

    def __init__(self, run: gpt.Run, writer):
        self.told = max((iteration for iteration, _ in self.rows), default=-1)

    def log(self, iteration: int, values: dict) -> None:
        self.rows.append((iteration, dict(values)))

    def close(self, failed: bool) -> None:
        self.failed.append(failed)


class Forgetful(Memory):
    """A tracker that begins anew each time, as a folder of wandb does."""

    def __init__(self, run: gpt.Run, writer):
        self.rows.clear()
        super().__init__(run, writer)


@pytest.fixture
def kinds(monkeypatch) -> dict[str, type[Memory]]:
    """Trackers of both kinds, without rows."""
    found = {kind.__name__: type("Kind", (kind,), {"rows": [], "failed": []}) for kind in (Memory, Forgetful)}
    for name, kind in found.items():
        monkeypatch.setitem(KINDS, name, kind)
    return found


def without_speed(rows: list) -> list:
    return [
        (step, {key: value for key, value in row.items() if key != "train/tokens_per_second"}) for step, row in rows
    ]


def test_a_tracker_has_no_gap_and_nothing_twice_after_a_kill_at_any_event(kinds, monkeypatch):
    monkeypatch.setattr(training, "REPORT_INTERVAL", 2)
    settings = LONG | {"num_iter": 5, "eval_interval": 2}
    whole = tiny_run(**settings)
    events = len(finish(whole))
    wanted = sorted(recorded(whole).items())
    assert [iteration for iteration, _ in wanted] == [2, 4, 5]
    for killed_after in range(1, events):
        run = tiny_run(**settings)
        follow(run, *kinds, events=killed_after)
        follow(run, *kinds)
        for kind in kinds.values():
            assert without_speed(kind.rows) == wanted, killed_after
            kind.rows.clear()


@pytest.mark.parametrize("size", [0, 5, 40, 300])
def test_an_event_file_that_was_cut_is_completed(size):
    pytest.importorskip("tensorboard")
    run = tiny_run(**LONG)
    follow(run, "tensorboard", should_stop=asked(22))
    (file,) = run.path.glob("events.out.tfevents.*")
    os.truncate(file, size)
    follow(run, "tensorboard")
    check_store("tensorboard", run)


def test_the_last_step_before_the_loss_is_not_finite_is_told(kinds):
    run = tiny_run(num_iter=40, eval_interval=40)
    with pytest.raises(training.Diverged), Trackers([*kinds], run, never) as told:
        for event in gpt.train(run, DATA):
            told.note(event)
            if isinstance(event, gpt.Measurement):
                raise training.Diverged("the loss is not finite", "try a lower rate")
    assert all([step for step, _ in kind.rows] == [10] for kind in kinds.values())


@pytest.mark.parametrize("call", [10, 11])  # an evaluation follows iteration 10, a step that is logged
def test_a_tracker_has_an_evaluation_that_a_stop_put_off(kinds, call):
    run = tiny_run(**LONG)
    follow(run, *kinds, should_stop=asked(call))
    assert run.position().iteration in (9, 10) and not run.history()
    follow(run, *kinds)
    for kind in kinds.values():
        assert without_speed(kind.rows) == sorted(recorded(run).items())


def test_a_run_keeps_its_name_unless_the_file_is_damaged():
    run = tiny_run("my run")
    name = name_of(run)
    assert name.startswith("my-run-") and name_of(run) == name != name_of(tiny_run("other/my run"))
    assert name_of(tiny_run("日本")).startswith("run-")
    for damaged in ("", "{", '{"name": 7}', '{"name": ""}', '{"name": "a/b"}'):
        (run.path / "tracked.json").write_text(damaged)
        assert re.fullmatch("my-run-[0-9a-f]{8}", name_of(run)) and name_of(run) != name


def test_a_run_that_another_process_trains_is_not_told(kinds, run):
    with run.locked(), pytest.raises(gpt.UserError, match="in use by another process"), Trackers([*kinds], run, never):
        pass
    assert not any(kind.rows for kind in kinds.values())


# ---- failures


@pytest.mark.parametrize("part", ["__init__", "log", "close"])
def test_a_tracker_that_fails_is_told_once_and_stops_nothing(kinds, part, monkeypatch):
    def fail(*arguments, **more) -> None:
        raise OSError("no space\nleft")

    monkeypatch.setattr(kinds["Forgetful"], part, fail)
    failures, run = [], tiny_run()
    follow(run, *reversed(kinds), on_failure=lambda *failure: failures.append(failure))
    assert failures == [("Forgetful", "no space left")]
    assert kinds["Forgetful"].failed == ([True] if part == "log" else [])
    assert run.position().iteration == 8 and without_speed(kinds["Memory"].rows) == sorted(recorded(run).items())


def test_a_tracker_is_told_whether_the_training_failed(kinds):
    run = tiny_run()
    follow(run, *kinds)
    with pytest.raises(gpt.UserError), Trackers([*kinds], run, never):
        raise gpt.UserError("the loss is not finite", "try a lower rate")
    assert all(kind.failed == [False, True] for kind in kinds.values())


def test_a_full_disk_stops_no_training():
    pytest.importorskip("tensorboard")
    failures, run = [], tiny_run()
    with Trackers(["tensorboard"], run, lambda *failure: failures.append(failure)) as told:
        with open("/dev/full", "wb") as full, told.trackers["tensorboard"].file as file:
            os.dup2(full.fileno(), file.fileno())
            for event in gpt.train(run, DATA):
                told.note(event)
    assert [name for name, _ in failures] == ["tensorboard"] and "No space left on device" in failures[0][1]
    assert run.position().iteration == 8


# ---- the command line


@pytest.mark.parametrize("name", KINDS)
def test_a_missing_package_is_named_before_a_run_is_made(mlx_gpt, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    result = mlx_gpt("train", *TINY, f"--report-to={name}")
    assert result.status == 1 and f'install it with pip install -e ".[{name}]"' in result.err
    assert not Path("runs").exists()


def test_an_unknown_tracker_is_a_mistake(mlx_gpt):
    result = mlx_gpt("train", *TINY, "--report-to=mlflow")
    assert result.status == 2 and "'mlflow'" in result.err and "trackio" in result.err


def test_train_and_resume_report(mlx_gpt):
    pytest.importorskip("tensorboard")
    twice = ["--report-to=tensorboard", "--report-to=tensorboard"]
    result = mlx_gpt("train", *TINY, *twice)
    assert result.status == 0 and "(look with tensorboard --logdir runs)" in result.out
    assert len(list(Path("runs/1").glob("events.out.tfevents.*"))) == 1
    assert mlx_gpt("train", "--resume=runs/1", "--num-iter=12", "--report-to=tensorboard").status == 0
    check_store("tensorboard", gpt.open_run(Path("runs/1")))


def test_train_goes_on_if_wandb_does_not_start(monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with in_a_process(
        "-m", "mlx_nanogpt_cli", "train", *TINY, "--report-to=wandb", stdin=subprocess.DEVNULL
    ) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert (
        "wandb failed; training continues without it: there is no account at Weights & Biases to send to; call wandb login"
        in out
        and "Traceback" not in err
    )
    assert gpt.open_run(Path("runs/1")).position().iteration == 4
