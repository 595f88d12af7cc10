"""The promises of several ranks when something goes wrong: every rank ends with a sentence, and nothing is lost."""

import os
import re
import signal
import socket
import sys
import time
from pathlib import Path

import mlx_nanogpt as gpt
import pytest
from conftest import TEXT, TINY, checkpoint_arrays, same, until
from ring import COMMAND, finish_processes, launch, listening_sockets, ranks_of, start_launcher, start_ring

from mlx_nanogpt_cli.process.ranks import LOST

EAGER = ["train", *TINY, "--backend=eager"]  # there is nothing to compile
ENDLESS = [*EAGER, "--num-iter=1000000"]
AGAIN = "start all ranks again with --resume: they continue from the last checkpoint"
GONE = "lost its connection: another rank ended with an error, was killed, or crashed"
# a rank that waits for a second is ended
IMPATIENT = (
    "from mlx_nanogpt import ranks; ranks.TICK_SECONDS, ranks.STALL_SECONDS, ranks.STALL_FACTOR = 0.1, 1.0, 1;"
    + COMMAND
)


def is_saved(folder: str = "runs/1") -> bool:
    return Path(folder, "checkpoint.safetensors").exists()


def saved_iteration() -> int:
    return gpt.open_run(Path("runs/1")).position().iteration


# ---- a rank that is gone


def test_killed_ranks_end_the_launch_and_resuming_gives_the_same_bits():
    path = Path("runs/1")
    options = ENDLESS
    for victim, resume in ((0, f"resume with mlx-gpt launch -n 2 train --resume {path}"), (1, "")):
        launcher = start_launcher("-n2", *options)
        until(lambda: len(ranks_of(launcher.pid)) == 2)
        ranks = ranks_of(launcher.pid)
        before = saved_iteration() if is_saved() else 0
        until(lambda: is_saved() and saved_iteration() > before)
        if sys.platform == "linux":
            assert not any(map(listening_sockets, [*ranks, launcher.pid]))  # MLX listens only until all are connected
        os.kill(ranks[1 - victim], signal.SIGKILL)
        result = finish_processes([launcher])[0]
        assert result.status == LOST
        sentence = re.fullmatch(rf"Error: rank {victim} \(.+\) {GONE}; (.+)\n", result.err)
        assert sentence and sentence[1] == (AGAIN if victim else resume)
        options = ["train", "--resume=runs/1"]
    last = saved_iteration() + 10
    result = launch("-n2", *options, f"--num-iter={last}")
    assert result.status == 0 and result.err == ""
    assert f"Ranks     2, connected by MLX's ring: {socket.gethostname()} (2)\n" in result.out
    assert result.out.count("iteration  train loss") == 1  # the other rank is silent
    assert launch("-n2", *EAGER, f"--num-iter={last}", "--run-dir=never-killed").status == 0
    assert same(*(checkpoint_arrays(gpt.open_run(Path(name))) for name in ("runs/1", "never-killed")))


def test_a_stopped_rank_ends_the_others_and_a_pause_of_all_ends_none():
    ring = start_ring([ENDLESS, ENDLESS], IMPATIENT)
    until(is_saved)
    for number in (signal.SIGSTOP, signal.SIGCONT):  # as when the machine sleeps
        for process in ring.processes:
            process.send_signal(number)
        time.sleep(1.5 if number == signal.SIGSTOP else 0)
    before = saved_iteration()
    until(lambda: saved_iteration() > before)
    ring.processes[1].send_signal(signal.SIGSTOP)
    ring.processes[0].wait(timeout=30)
    ring.processes[1].kill()
    result = ring.results()[0]
    assert result.status == LOST
    assert re.match(
        r"Error: rank 0 \(.+\) has waited \d+ s for the others: one was stopped, its machine sleeps", result.err
    )
    assert result.err.endswith("resume with mlx-gpt train --resume runs/1\n")


VANISH = """
import os, sys, time
import mlx_nanogpt as gpt
from mlx_nanogpt.text.loss import SplitLoss
from mlx_nanogpt_cli.process.ranks import join_ranks

with join_ranks({}) as ranks:
    if sys.argv[1] == "any":
        should_stop = ranks.any(lambda: False)
        should_stop()
    if ranks.rank == 1:
        os._exit(3)
    time.sleep(0.2)
    if sys.argv[1] == "any":
        print(should_stop(), should_stop())
    elif sys.argv[1] == "sum":
        print(ranks.sum([SplitLoss(4, 1.0)]))
    else:
        print(ranks.broadcast(0))
"""


@pytest.mark.parametrize("method", ["any", "sum", "broadcast"])
def test_nothing_that_a_lost_rank_left_in_memory_is_used(method):
    """MLX's ring returns from a collective whose peer is gone, with what was in memory."""
    first, other = start_ring([[method]] * 2, VANISH).results()
    assert other.status == 3 and first.status == LOST
    assert first.out == "" and re.match(rf"Error: rank 0 \(.+\) {GONE}", first.err)


def test_a_rank_ends_even_if_nobody_hears_why():
    ring = start_ring([ENDLESS, ENDLESS])
    until(is_saved)
    ring.processes[1].stderr.close()
    ring.processes[1].stdout.close()
    ring.processes[0].kill()
    assert ring.processes[1].wait(timeout=30) == LOST
    ring.processes[0].communicate()


def test_a_rank_that_does_not_come_ends_the_one_that_waits():
    impatient = "from mlx_nanogpt_cli.process import ranks; ranks.JOIN_SECONDS = 0.5;" + COMMAND
    first, other = start_ring([ENDLESS, ["--version"]], impatient).results()
    assert first.status == -signal.SIGKILL and other.status == 0 and not Path("runs").exists()
    assert first.err.startswith(
        "Error: MLX did not connect rank 0 to its neighbours within 0.5 s; start all ranks, and"
    )


# ---- ranks that do not fit together


@pytest.mark.parametrize("text, status", [(TEXT.replace("be", "bee"), 1), (None, LOST)], ids=["another", "none"])
def test_another_text_is_named_before_the_first_step(text, status):
    for folder, content in (("a", TEXT), ("b", text)):
        Path(folder).mkdir()
        if content:
            Path(folder, "play.txt").write_text(content)
    first, other = start_ring([ENDLESS, ENDLESS], folders=["a", "b"]).results()
    assert first.status == status and other.status == 1
    for result in (first, other):
        if text:
            named = (
                r"Error: rank 1 \(.+\) has another text than rank 0 \(.+\) \(here it is .+\); copy the text of rank 0"
            )
        else:
            named = (
                rf"Error: rank 0 \(.+\) {GONE}"
                if result is first
                else r"Error: rank 1 \(.+\): .*play.txt cannot be read"
            )
        assert re.match(named, result.err), result.err
    assert not is_saved("a/runs/1") and not Path("b/runs").exists()


def test_other_options_are_named_before_there_is_a_run():
    for result in start_ring([ENDLESS, [*ENDLESS, "--seed=4"]]).results():
        assert result.status == 1 and not Path("runs").exists()
        assert re.match(
            r"Error: rank 1 \(.+\) has another seed than rank 0 \(.+\) \(here it is (not given|4)\)", result.err
        )


def test_standard_input_is_not_shared(mlx_gpt, monkeypatch):
    monkeypatch.setenv("MLX_RANK", "0")
    result = mlx_gpt(*ENDLESS, "--data=-")
    assert result.status == 1
    assert result.err.startswith("Error: several ranks cannot share standard input; write the text")


# ---- a run that is asked to stop

# Saving takes longer than the launcher waits for the others after a rank has failed.
SLOW_DISK = """
import os, time
if "MLX_RANK" in os.environ:
    real = os.fsync
    os.fsync = lambda descriptor: (time.sleep(0.1), real(descriptor))
"""
HASTY = "from mlx_nanogpt_cli.commands import launch; launch.GRACE_SECONDS = 0.05;" + COMMAND


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "launcher killed"])
def test_a_stop_saves_even_on_a_slow_disk_and_names_the_command_that_resumes(monkeypatch, number):
    Path("slow").mkdir()
    Path("slow/sitecustomize.py").write_text(SLOW_DISK)
    monkeypatch.setenv("PYTHONPATH", f"{Path('slow').absolute()}:{os.environ.get('PYTHONPATH', '')}")
    launcher = start_launcher("-n2", *ENDLESS, script=HASTY, start_new_session=True)
    until(is_saved)
    ranks, before = ranks_of(launcher.pid), saved_iteration()
    (os.kill if number == signal.SIGKILL else os.killpg)(launcher.pid, number)
    result = finish_processes([launcher])[0]  # its streams end with those of the ranks
    assert len(ranks) == 2 and result.status == (130 if number == signal.SIGINT else -number)
    assert result.err == "Stopping and saving, after what is under way; Ctrl-C again stops unsaved.\n"
    assert re.search(r"Stopped at iteration \d+; everything is kept in runs/1", result.out)
    assert result.out.endswith("Go on with:\n  mlx-gpt launch -n 2 train --resume runs/1\n")
    assert saved_iteration() >= before


def test_a_stop_before_the_first_step_ends_all_ranks():
    launcher = start_launcher("-n2", *ENDLESS)
    until(lambda: len(ranks_of(launcher.pid)) == 2)
    launcher.send_signal(signal.SIGTERM)
    result = finish_processes([launcher])[0]
    assert result.status == 130 and "Traceback" not in result.err
