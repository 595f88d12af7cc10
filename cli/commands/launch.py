"""`mlx-gpt launch`: one training run by several processes of this machine."""

import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Annotated

import typer

from ..process import MLX_GPT
from ..process.ranks import INTERRUPTED, LAUNCH_WORDS, LOST, UNCONNECTED
from ..process.stop_request import handle_stop_signals
from ..screen.consoles import errors

HERE = "127.0.0.1"
GRACE_SECONDS = 5.0  # for the other ranks to end after one has failed


def launch(
    ctx: typer.Context,
    arguments: Annotated[list[str], typer.Argument(metavar="train ...", help="mlx-gpt train and its options.")],
    ranks: Annotated[int, typer.Option("-n", min=2, help="Start this many processes.", show_default=False)],
) -> None:
    """Train one model with several processes of this machine, called ranks: mlx-gpt launch -n 2 train.

    The exit status is that of the training run; 75 means that a process was lost. For several machines use mlx.launch.
    """
    if arguments[0] != "train":
        ctx.fail(f"mlx-gpt launch starts mlx-gpt train, and not {arguments[0]}; its own options go before train")
    train = ctx.parent.command.commands["train"]
    train.make_context("train", arguments[1:], parent=ctx.parent)  # a mistake is reported once, and here
    status = run_ranks(ranks, arguments)
    if status == UNCONNECTED:
        errors.print("Another program may have taken a port; starting all ranks again with other ports.")
        status = run_ranks(ranks, arguments)
    raise typer.Exit(status)


def run_ranks(size: int, arguments: Sequence[str]) -> int:
    """Run mlx-gpt with `arguments` in `size` ranks, which inherit the terminal; return the exit status of the training run. Signals
    that ask for an end are forwarded. A rank sees the end of its standard input when this process ends, whatever ended it."""
    command = [*MLX_GPT, *arguments]
    processes: list[subprocess.Popen] = []
    stop_signals: list[int] = []

    def forward(signum: int, frame: object) -> None:
        stop_signals.append(signum)
        for process in processes:
            process.send_signal(signum)

    with tempfile.NamedTemporaryFile("w", suffix=".json") as hostfile, handle_stop_signals(forward):
        json.dump([[f"{HERE}:{port}"] for port in free_ports(size)], hostfile)
        hostfile.flush()
        common = os.environ | {"MLX_HOSTFILE": hostfile.name, LAUNCH_WORDS: f"launch -n {size}"}
        for rank in range(size):
            # a session of its own, so that Ctrl-C in the terminal reaches this process alone, which forwards it once
            environment = common | {"MLX_RANK": str(rank)}
            processes.append(subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, start_new_session=True))
            if stop_signals:  # before this rank was there
                processes[-1].terminate()
        status = exit_status(_wait(processes))
    return INTERRUPTED if stop_signals and status in (LOST, UNCONNECTED) else status


def _wait(processes: Sequence[subprocess.Popen]) -> list[int]:
    """Wait for all of `processes`; after one has failed, not longer than `GRACE_SECONDS`. Return their exit statuses."""
    deadline = None
    while None in (statuses := [process.poll() for process in processes]):
        if deadline is None and any(statuses):
            deadline = time.monotonic() + GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            for process in processes:
                process.kill()  # also one that was stopped
        time.sleep(0.05)
    return statuses


def exit_status(statuses: Sequence[int]) -> int:
    """Return the status of a training run whose ranks ended with `statuses`: that of an error, if a rank reported one."""
    if statuses[0] in (0, INTERRUPTED):  # rank 0 has saved everything
        return statuses[0]
    if UNCONNECTED in statuses:
        return UNCONNECTED
    reported = [status for status in statuses if status > 0 and status != LOST]
    return reported[0] if reported else LOST


def free_ports(count: int) -> list[int]:
    """Return ports of this machine that nobody uses: the system chooses them all before one is given back."""
    with ExitStack() as until_chosen:
        sockets = [until_chosen.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind((HERE, 0))
        return [free.getsockname()[1] for free in sockets]
