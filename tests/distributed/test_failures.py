"""The promises of a training of several ranks that goes wrong: every rank ends, says why, and nothing is lost."""

import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import mlx_nanogpt as gpt
import pytest
from conftest import TEXT, TINY, checkpoint_arrays, in_a_process, same, until
from ring import IMPATIENT, start_ring

from mlx_nanogpt_cli.process.ranks import LOST

ENDLESS = ["train", *TINY, "--num-iter=1000000"]
RESUMABLE = "(start all ranks again with --resume: they go on from the last checkpoint|go on with mlx-gpt train --resume runs/1)"


def said(result) -> str:
    """What a rank says of an error, without what MLX's ring adds."""
    assert "Traceback" not in result.err
    return "".join(line for line in result.err.splitlines(keepends=True) if not line.startswith("[ring]"))


def is_saved(folder: str = "runs/1") -> bool:
    return Path(folder, "checkpoint.safetensors").exists()


# ---- a rank that is gone


@pytest.mark.parametrize("number, name", [(signal.SIGKILL, "killed"), (signal.SIGSTOP, "stopped")])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_gone_ends_the_others_by_its_name(number, name, victim):
    ring = start_ring([ENDLESS, ENDLESS], IMPATIENT)
    until(is_saved)
    ring.processes[victim].send_signal(number)
    other = ring.processes[1 - victim]
    other.wait(timeout=10)
    ring.processes[victim].kill()
    result = ring.results()[1 - victim]
    assert result.status == LOST
    assert re.fullmatch(rf"Error: rank {victim} \(.+\) .*it was {name}.*; {RESUMABLE}\n", said(result))
    assert gpt.open_run(Path("runs/1")).load_model()


def test_a_rank_that_does_not_come_is_named(monkeypatch):
    impatient = "from mlx_nanogpt.distributed import joining; joining.JOIN_SECONDS = 0.5; "
    ring = start_ring([ENDLESS, ["--version"]], impatient + IMPATIENT)
    first, other = ring.results()
    assert first.status == 1 and said(first).startswith("Error: rank 1 did not come within 0.5 s; start all 2 ranks")
    assert other.status == 0 and not Path("runs").exists()


def test_ten_kills_lose_nothing():
    options = ["train", *TINY, "--num-iter=40", "--eval-interval=5", "--backend=eager"]
    process = in_a_process("-c", LAUNCHER, "launch", "-n2", "--restarts=10", *options, "--run-dir=killed")
    chance, killed, iteration = random.Random(1), set(), 0
    for _ in range(10):
        until(lambda: len(ranks_of(process.pid) - killed) == 2)
        ranks = ranks_of(process.pid) - killed
        time.sleep(chance.uniform(0, 0.6))
        os.kill(chance.choice(sorted(ranks)), signal.SIGKILL)
        killed |= ranks
        if is_saved("killed"):
            run = gpt.open_run(Path("killed"))
            assert run.load_model() and len(run.history()) == run.position().iteration // 5
            assert run.position().iteration >= iteration
            iteration = run.position().iteration
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in err and err.count("Restart ") == 10
    trained = in_a_process("-m", "mlx_nanogpt_cli", "launch", "-n2", *options, "--run-dir=never-killed")
    assert trained.communicate(timeout=60) and trained.returncode == 0
    assert same(*(checkpoint_arrays(gpt.open_run(Path(name))) for name in ("killed", "never-killed")))


LAUNCHER = "from mlx_nanogpt_cli import main; from mlx_nanogpt_cli.commands import launch; launch.GRACE_SECONDS = 0.05; main()"  # after each kill


def ranks_of(launcher: int) -> set[int]:
    """The processes of ranks that `launcher` started, but for those that have ended."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return {int(pid) for pid, parent, state in rows if int(parent) == launcher and not state.startswith("Z")}


# ---- ranks that do not fit together


def test_another_text_is_refused_before_the_first_step():
    for folder, text in (("a", TEXT), ("b", TEXT.replace("be", "bee"))):
        Path(folder).mkdir()
        Path(folder, "play.txt").write_text(text)
    first, other = start_ring([ENDLESS, ENDLESS], folders=["a", "b"]).results()
    reason = r"rank 1 \(.+\) cannot go on: play.txt holds another text than rank 0 has; copy the text of rank 0"
    for result in (first, other):
        assert result.status == 1 and re.match(f"Error: {reason}", said(result))
    assert not is_saved("a/runs/1") and not Path("b/runs").exists()


@pytest.mark.parametrize(
    "claim, reason",
    [
        (
            ["--seed=4"],
            r"rank 1 \(.+\) has seed 4, and rank 0 \(.+\) has no seed; start all ranks with the same options",
        ),
        ("mlx", r"rank 1 \(.+\) has mlx 0\.1, and rank 0 \(.+\) has mlx .+; install the same versions everywhere"),
    ],
)
def test_other_options_and_versions_are_refused(claim, reason):
    older = (
        "import sys, os; from mlx_nanogpt.distributed import joining; real = joining.package_versions;"
        f"joining.package_versions = lambda: real() | ({{'mlx': '0.1'}} if os.environ['MLX_RANK'] == '1' and {claim == 'mlx'} else {{}});"
    )
    more = claim if claim != "mlx" else []
    results = start_ring([ENDLESS, [*ENDLESS, *more]], older + IMPATIENT).results()
    for result in results:
        assert result.status == 1 and re.match(f"Error: {reason}", said(result))
    assert not Path("runs").exists()


def test_an_error_of_one_rank_is_told_by_all():
    for folder in "ab":
        Path(folder).mkdir()
    Path("a/play.txt").write_text(TEXT)
    first, other = start_ring([ENDLESS, ENDLESS], folders=["a", "b"]).results()
    for result in (first, other):
        assert result.status == 1 and re.match(
            r"Error: rank 1 \(.+\) cannot go on: .*play.txt cannot be read", said(result)
        )


def test_standard_input_is_not_shared():
    first, _ = start_ring([[*ENDLESS[:-1], "--data=-"]] * 2).results()
    assert first.status == 1 and said(first).startswith(
        "Error: several ranks cannot share standard input; write the text"
    )


# ---- a training that is asked to stop


SLOW_DISK = """
import os, time
if "MLX_RANK" in os.environ:
    import mlx_nanogpt
    from mlx_nanogpt.runs.run import Writer

    real = Writer.save
    Writer.save = lambda *state: (time.sleep(0.7), real(*state))
"""


def test_ctrl_c_stops_all_ranks_and_saves_even_on_a_slow_disk(monkeypatch):
    Path("slow").mkdir()
    Path("slow/sitecustomize.py").write_text(SLOW_DISK)
    monkeypatch.setenv("PYTHONPATH", str(Path("slow").absolute()))
    options = [*ENDLESS, "--eval-interval=1000000"]
    process = in_a_process("-c", LAUNCHER, "launch", "-n2", *options, start_new_session=True)
    until(lambda: Path("runs/1/tokenizer.json").exists())
    time.sleep(0.7)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=40)
    assert process.returncode == 130
    assert err == "Stopping and saving, after what is under way; Ctrl-C again stops unsaved.\n"
    assert re.search(r"Stopped at iteration (\d+); everything is kept in runs/1", out)
    assert gpt.open_run(Path("runs/1")).position().iteration > 0


def test_a_stop_is_no_reason_to_start_again():
    process = in_a_process("-m", "mlx_nanogpt_cli", "launch", "-n2", "--restarts=3", *ENDLESS)
    until(lambda: len(ranks_of(process.pid)) == 2)
    process.send_signal(signal.SIGTERM)  # before a rank can save anything
    _, err = process.communicate(timeout=40)
    assert process.returncode == 130 and "Restart" not in err


def test_a_rank_ends_even_if_nobody_hears_why():
    ring = start_ring([ENDLESS, ENDLESS], IMPATIENT)
    until(is_saved)
    ring.processes[1].stderr.close()
    ring.processes[1].stdout.close()
    ring.processes[0].kill()
    assert ring.processes[1].wait(timeout=20) == LOST
    ring.processes[0].communicate()
