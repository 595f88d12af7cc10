"""The promises of `mlx-gpt train --retries`: after the GPU failed, a new process resumes, as if nothing had happened."""

import itertools
import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import mlx_nanogpt as gpt
import mlx.core as mx
import pytest
from mlx_nanogpt import open_run, training
from conftest import (
    DATA,
    LONGEST,
    SESSION_CACHE,
    TEXT,
    TINY,
    checkpoint_arrays,
    finish,
    fully_prepared,
    in_a_process,
    same,
    tiny_run,
    until,
)
from helpers import NO_CORPUS, is_a_sentence, read_until
from mlx_nanogpt_cli.process import retries, stop_request

# Each process takes the first line of `plan`: how its step fails, and in which of its steps.
FAULTY = """
import os, sys, time
from pathlib import Path

if any("mlx_nanogpt_cli" in word for word in sys.orig_argv):
    from mlx_nanogpt import training

    right = training.make_step

    def make_step(*arguments):
        step, (first, _, rest) = right(*arguments), Path("plan").read_text().partition("\\n")
        Path("plan").write_text(rest)
        how, number = first.split() if first else ("never", -1)
        steps = iter(range(1, 10**9))

        def faulty(*batch):
            if next(steps) == int(number):
                if how == "abort":
                    os.abort()
                raise RuntimeError("[METAL] Command buffer execution failed: Impacting Interactivity (0000000e:k).")
            if how == "slow":
                time.sleep(0.02)
            return step(*batch)

        return faulty

    training.make_step = make_step
"""


NOTES = {"run": "runs/1", "iteration": 2, "options": ["--device", "gpu"], "is_training": True}


@pytest.fixture
def train(tmp_path):
    """Start mlx-gpt train with steps that fail as planned."""
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults/sitecustomize.py").write_text(FAULTY)

    def start(plan: str, *options: str, **more) -> subprocess.Popen:
        Path("plan").write_text(plan)
        path = os.pathsep.join([str(tmp_path / "faults"), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "XDG_CACHE_HOME": SESSION_CACHE}
        return in_a_process("-m", "mlx_nanogpt_cli", "train", *options, env=environment, **more)

    return start


def finished(process: subprocess.Popen, text: str | None = None) -> tuple[int, str, str]:
    with process:
        out, err = process.communicate(text, timeout=LONGEST)
    return process.returncode, out, err


@fully_prepared
@pytest.mark.slow
def test_a_run_whose_gpu_fails_ends_as_one_whose_gpu_does_not(train):
    """Its text comes from standard input, which only the first process could read."""
    options = [*NO_CORPUS, "--num-iter=8", "--dropout=0.1", "--data=-", "--run-dir=run", "--retries=2"]
    status, out, err = finished(train("raise 4\nabort 2\n", *options, stdin=subprocess.PIPE), TEXT)
    assert status == 0, err
    assert "macOS stopped it for the sake of the display" in err and "The process aborted" in err
    assert err.count("Resuming run from iteration 2 in a new process") == 2
    assert out.count("run, resumed at iteration 2\n") == 2
    failed = open_run("run")
    whole = gpt.create_run(failed.gpt_config, failed.train_config, DATA, "whole")
    finish(whole)
    assert same(checkpoint_arrays(failed), checkpoint_arrays(whole))


def test_without_retries_a_failure_is_that_sentence_at_once(mlx_gpt, monkeypatch):
    def fail(*_):
        raise RuntimeError("[metal::malloc] Resource limit (499000) exceeded.")

    monkeypatch.setattr(training, "make_step", lambda *_: fail)
    result = mlx_gpt("train", *TINY)
    assert (
        is_a_sentence(result)
        and "(no checkpoint had been written); resume with mlx-gpt train --resume runs/1; if" in result.err
    )


def test_ctrl_c_stops_the_process_that_trains_and_saves(train):
    with train("slow 0\n", *TINY, "--num-iter=100000", "--retries=1") as process:
        read_until(process, " +2 ")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=LONGEST)
    assert process.returncode == 130 and "mlx-gpt train --resume runs/1" in out and "Resuming" not in err
    assert open_run("runs/1").position().iteration >= 2


def test_a_process_whose_parent_is_killed_saves_and_ends_with_its_last_words(train):
    with train("slow 0\n", *TINY, "--num-iter=100000", "--eval-interval=1000", "--retries=1") as process:
        read_until(process, "iteration ")
        until(lambda: Path("plan").read_text() == "")
        process.kill()
        out, err = process.communicate(timeout=LONGEST)  # of the process that trains, which has the same pipes
    assert "mlx-gpt train --resume runs/1" in out and "Traceback" not in err
    assert open_run("runs/1").position().iteration > 0


@pytest.mark.parametrize("seconds, ends", [(0.0, False), (0.2, True), (2.0, True)], ids=["at once", "fast", "later"])
def test_a_signal_that_both_processes_get_is_one_signal(monkeypatch, seconds, ends):
    times = itertools.accumulate(itertools.repeat(seconds), initial=100.0)
    monkeypatch.setenv(retries.PARENT, "5")
    monkeypatch.setattr(stop_request.time, "monotonic", lambda: next(times))
    quits = []
    with stop_request.stop_request(lambda: quits.append("now"), silent=True) as should_stop:
        for _ in range(3):
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
    assert should_stop() and bool(quits) == ends


def test_a_file_of_the_users_beside_the_text_is_not_imported(train):
    Path("random.py").write_text("raise SystemExit('imported')")
    status, out, err = finished(train("", "--help", "--retries=1"))
    assert status == 0, err


def test_a_gpu_that_fails_while_the_checkpoint_is_read_is_retried_too(monkeypatch):
    reader, writer = os.pipe()
    monkeypatch.setenv(retries.PARENT, str(writer))
    monkeypatch.setattr(retries, "_stop_with_parent", lambda: None)
    run = tiny_run()
    with pytest.raises(retries.typer.Exit) as end, retries.report_failures(run, ["--device", "gpu"]):
        raise RuntimeError("[METAL] Command buffer execution failed: Internal Error (0000000e:Internal Error).")
    assert end.value.exit_code == retries.LOST
    began, failed = os.read(reader, 10_000).splitlines()
    assert json.loads(began) == NOTES | {"iteration": 0}
    assert json.loads(failed)["problem"].startswith("the GPU failed")


@pytest.mark.parametrize(
    "status, notes, ends", [(0, {}, 0), (1, {}, 1), (130, NOTES, 130), (-9, NOTES, 137), (-6, {}, 134), (75, {}, 75)]
)
def test_only_a_failure_while_it_trains_is_resumed(monkeypatch, status, notes, ends):
    monkeypatch.setattr(retries, "_run", lambda *_: (status, notes))
    assert retries.train_with_retries(1, ["train"], False) == ends


def test_a_new_checkpoint_starts_the_count_again_and_the_last_failure_names_the_command_that_resumes(monkeypatch):
    tiny_run()
    iterations = iter([2, 4, 4, 4])
    monkeypatch.setattr(retries, "_run", lambda *_: (-signal.SIGABRT, NOTES | {"iteration": next(iterations)}))
    with pytest.raises(retries.UserError, match="resume with mlx-gpt train --resume runs/1 --device gpu;"):
        retries.train_with_retries(2, ["train"], False)
    assert next(iterations, None) is None  # one at 2, and at 4 the two that are allowed and the last


def test_a_failure_after_the_last_checkpoint_is_not_retried(monkeypatch, run):
    monkeypatch.setattr(retries, "_run", lambda *_: (-signal.SIGABRT, NOTES))
    with pytest.raises(retries.UserError, match="the run runs/1 is complete and saved all the same"):
        retries.train_with_retries(2, ["train"], False)


def test_a_process_that_was_killed_is_named_with_the_command_that_resumes(monkeypatch, capsys):
    monkeypatch.setattr(retries, "_run", lambda *_: (-signal.SIGKILL, NOTES))
    assert retries.train_with_retries(1, ["train"], False) == 137
    assert capsys.readouterr().err == (
        "Error: SIGKILL ended the process that trained (perhaps the system lacked memory); resume with mlx-gpt train --resume runs/1 "
        "--device gpu\n"
    )


def test_a_run_that_was_moved_is_resumed_where_it_is(monkeypatch):
    reader, writer = os.pipe()
    monkeypatch.setenv(retries.PARENT, str(writer))
    monkeypatch.setattr(retries, "_stop_with_parent", lambda: None)
    run = tiny_run()
    with pytest.raises(retries.typer.Exit), retries.report_failures(run, []):
        run.path.rename("moved")
        raise RuntimeError("[METAL] Command buffer execution failed: Internal Error (0000000e:Internal Error).")
    assert json.loads(os.read(reader, 10_000).splitlines()[1])["run"] == str(Path("moved").resolve())


def test_only_the_gpu_of_a_mac_retries_unasked(monkeypatch):
    monkeypatch.setattr(mx, "default_device", lambda: mx.cpu)
    assert [retries.count_retries(given) for given in (None, 0, 2)] == [0, 0, 2]
    monkeypatch.setattr(retries, "MAC_RETRIES", 3)
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    monkeypatch.setattr(mx.metal, "is_available", lambda: False)
    assert retries.count_retries(None) == 0  # CUDA
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    assert [retries.count_retries(given) for given in (None, 0, 2)] == [3, 0, 2]
    monkeypatch.setenv(retries.PARENT, "5")
    assert retries.count_retries(None) == 0
    monkeypatch.delenv(retries.PARENT)
    monkeypatch.setattr(retries, "is_rank", lambda: True)
    assert retries.count_retries(None) == 0


def test_ranks_and_retries_exclude_each_other(mlx_gpt, monkeypatch):
    monkeypatch.setenv("MLX_RANK", "0")
    result = mlx_gpt("train", *TINY, "--retries=1")
    assert is_a_sentence(result) and "several ranks cannot use --retries" in result.err
