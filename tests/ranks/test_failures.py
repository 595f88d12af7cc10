"""The promises of several ranks when something goes wrong: every rank ends with a sentence, and nothing is lost."""

import json
import os
import re
import signal
import socket
import sys
import time
from pathlib import Path

import mlx_nanogpt as gpt
import pytest
from conftest import TEXT, TINY, WAIT, checkpoint_arrays, same, until
from mlx_nanogpt_cli.process.ranks import LOST
from ring import COMMAND, COMMANDS, finish_processes, listening_sockets, ranks_of, start_launcher, start_ring

EAGER = ["train", *TINY, "--backend=eager"]  # there is nothing to compile
ENDLESS = [*EAGER, "--num-iter=1000000"]
RESUME = "mlx-gpt launch -n 2 train --resume runs/1"
GONE = "lost its connection: another rank ended with an error, was killed, or crashed"
# a rank that waits for so many seconds is ended; on a Mac, others wait while rank 0 compiles the kernels of a sample
STALL = 15 if sys.platform == "darwin" else 1
IMPATIENT = (
    f"from mlx_nanogpt import ranks; ranks.TICK_SECONDS, ranks.STALL_SECONDS, ranks.STALL_FACTOR = 0.1, {STALL}, 1;"
    + COMMAND
)


# From the first checkpoint on, saving takes longer than the launcher waits for the others after a rank has failed.
SLOW_DISK = """
import os, time
if "MLX_RANK" in os.environ:
    real = os.fsync
    os.fsync = lambda descriptor: (os.path.exists("runs/1/checkpoint.safetensors") and time.sleep(0.02), real(descriptor))
"""
HASTY = "from mlx_nanogpt_cli.commands import launch; launch.GRACE_SECONDS = 0.05;" + COMMAND
STOPPING = "Finishing, then saving. Ctrl-C again quits without saving.\n"


@pytest.fixture
def slow_disk(monkeypatch):
    Path("slow").mkdir()
    Path("slow/sitecustomize.py").write_text(SLOW_DISK)
    monkeypatch.setenv("PYTHONPATH", f"{Path('slow').absolute()}:{os.environ.get('PYTHONPATH', '')}")


def is_saved(folder: str = "runs/1") -> bool:
    return Path(folder, "checkpoint.safetensors").exists()


def saved_iteration() -> int:
    return gpt.open_run(Path("runs/1")).position().iteration


# ---- a rank that is gone


def test_a_launch_that_loses_a_rank_or_its_launcher_resumes_with_the_same_bits():
    launcher = start_launcher("-n2", *ENDLESS)
    until(is_saved)
    ranks = ranks_of(launcher.pid)
    if sys.platform == "linux":
        assert not any(map(listening_sockets, [*ranks, launcher.pid]))  # MLX listens only until all are connected
    os.kill(ranks[1], signal.SIGKILL)
    result = finish_processes([launcher])[0]
    assert result.status == LOST
    assert re.fullmatch(rf"Error: rank 0 \(.+\) {GONE}; resume with {RESUME}\n", result.err)

    before = saved_iteration()
    launcher = start_launcher("-n2", "train", "--resume=runs/1")
    until(lambda: saved_iteration() > before)
    launcher.kill()  # the ranks notice it, save, and end
    result = finish_processes([launcher])[0]  # its streams end with those of the ranks
    assert result.err == STOPPING and result.out.endswith(f"  {RESUME}\n")

    last = saved_iteration() + 3
    resume = ["train", "--resume=runs/1", f"--num-iter={last}"]
    once = [*EAGER, f"--num-iter={last}", f"--eval-interval={last}", "--run-dir=never-killed"]
    first, other = start_ring([[json.dumps(resume), json.dumps(once)]] * 2, COMMANDS).results()
    assert first.status == other.status == 0 and first.err == other.err == other.out == ""
    assert f"Ranks     2, connected by MLX's ring: {socket.gethostname()} (2)\n" in first.out
    assert first.out.count("iteration  train loss") == 2
    assert same(*(checkpoint_arrays(gpt.open_run(Path(name))) for name in ("runs/1", "never-killed")))


def test_a_pause_of_all_ranks_ends_none_and_a_stop_of_one_ends_all_even_if_nobody_reads_why():
    ring = start_ring([ENDLESS, ENDLESS], IMPATIENT)
    until(is_saved)
    for number in (signal.SIGSTOP, signal.SIGCONT):  # as when the machine sleeps
        for process in ring.processes:
            process.send_signal(number)
        time.sleep(STALL + 0.2 if number == signal.SIGSTOP else 0)
    before = saved_iteration()
    until(lambda: saved_iteration() > before)
    first, other = ring.processes
    other.send_signal(signal.SIGSTOP)
    _, error = first.communicate(timeout=WAIT)
    assert first.returncode == LOST
    assert re.match(r"Error: rank 0 \(.+\) has waited \d+ s for the others: one was stopped, its machine sleeps", error)
    assert error.endswith("resume with mlx-gpt train --resume runs/1\n")
    other.stdout.close()
    other.stderr.close()
    other.send_signal(signal.SIGCONT)
    assert other.wait(timeout=WAIT) == LOST


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
    else:
        print(ranks.sum([SplitLoss(4, 1.0)]))
"""


@pytest.mark.parametrize("method", ["any", "sum"])
def test_nothing_that_a_lost_rank_left_in_memory_is_used(method):
    """MLX's ring returns from a collective whose peer is gone, with what was in memory."""
    first, other = start_ring([[method]] * 2, VANISH).results()
    assert other.status == 3 and first.status == LOST
    assert first.out == "" and re.match(rf"Error: rank 0 \(.+\) {GONE}", first.err)


def test_a_rank_that_does_not_come_ends_the_one_that_waits():
    impatient = "from mlx_nanogpt_cli.process import ranks; ranks.JOIN_SECONDS = 0.5;" + COMMAND
    (first,) = start_ring([ENDLESS], impatient, missing=1).results()
    assert first.status == -signal.SIGKILL and not Path("runs").exists()
    assert first.err.startswith(
        "Error: MLX did not connect rank 0 to its neighbours within 0.5 s; start all ranks, and"
    )


# ---- ranks that do not fit together


def test_other_options_are_named_before_there_is_a_run_and_another_text_before_the_first_step():
    for folder, text in (("a", TEXT), ("b", TEXT.replace("be", "bee"))):
        Path(folder).mkdir()
        Path(folder, "play.txt").write_text(text)
    commands = [[json.dumps([*ENDLESS, *seed]), json.dumps(ENDLESS)] for seed in ([], ["--seed=4"])]
    for result in start_ring(commands, COMMANDS, folders=["a", "b"]).results():
        of_options, of_text = result.err.splitlines()
        another = r"Error: rank 1 \(.+\) has another {} than rank 0 \(.+\) \(here it is {}\); "
        assert re.match(another.format("seed", "(not given|4)"), of_options) and result.status == 1
        assert re.match(another.format("text", ".+") + "copy the text of rank 0", of_text)
    assert os.listdir("a/runs") == ["1"] and not is_saved("a/runs/1") and not Path("b/runs").exists()


def test_standard_input_is_not_shared(mlx_gpt, monkeypatch):
    monkeypatch.setenv("MLX_RANK", "0")
    result = mlx_gpt(*ENDLESS, "--data=-")
    assert result.status == 1
    assert result.err.startswith("Error: several ranks cannot share standard input; write the text")


# ---- a run that is asked to stop


def test_ctrl_c_saves_even_on_a_slow_disk_and_names_the_command_that_resumes(slow_disk):
    launcher = start_launcher("-n2", *ENDLESS, script=HASTY, start_new_session=True)
    until(is_saved)
    before = saved_iteration()
    os.killpg(launcher.pid, signal.SIGINT)
    result = finish_processes([launcher])[0]
    assert result.status == 130 and result.err == STOPPING
    assert re.search(r"Stopped at iteration \d+; everything is kept in runs/1", result.out)
    assert result.out.endswith(f"  {RESUME}\n") and saved_iteration() >= before


def test_a_stop_before_the_first_step_ends_all_ranks():
    launcher = start_launcher("-n2", *ENDLESS)
    until(lambda: len(ranks_of(launcher.pid)) == 2)
    launcher.send_signal(signal.SIGTERM)
    result = finish_processes([launcher])[0]
    assert result.status == 130 and "Traceback" not in result.err
