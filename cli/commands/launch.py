"""`mlx-gpt launch`: one training on several processes, here or on several machines."""

import json
import os
import random
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from mlx_nanogpt import UserError

from ..options.shared import PATH
from ..process.ranks import INTERRUPTED, LAUNCH_WORDS, LOST, RESUME_FILE
from ..process.stop_request import stop_signals_handled
from ..screen.consoles import errors

HERE = "127.0.0.1"
RESUME = "resume.json"  # the file in which rank 0 writes how the training goes on
GRACE_SECONDS = 3.0  # for the other ranks to end after one has failed
PORTS = range(20_000, 32_000)  # below those that Linux and macOS give to connections


class Host(NamedTuple):
    """A machine: its name for ssh, None for this one, and the address that the other ranks reach it at."""

    ssh: str | None
    address: str


def launch(
    ctx: typer.Context,
    arguments: Annotated[list[str], typer.Argument(metavar="train ...", help="mlx-gpt train and its options.")],
    ranks: Annotated[
        int | None, typer.Option("-n", min=2, help="Start this many processes on this machine.", show_default=False)
    ] = None,
    hostfile: Annotated[
        Path | None,
        typer.Option(
            help="Start one process on each machine of this file, which mlx.distributed_config writes. The first is this one; "
            "the others are reached by ssh.",
            **PATH,
        ),
    ] = None,
    restarts: Annotated[
        int, typer.Option(min=0, help="How often to go on from the last checkpoint after a process was lost.")
    ] = 0,
) -> None:
    """Train one model with several processes, called ranks, on this machine or on several: mlx-gpt launch -n 2 train.

    The exit status is that of the training; 75 says that a process was lost.
    """
    if arguments[0] != "train":
        ctx.fail(f"mlx-gpt launch starts mlx-gpt train, and not {arguments[0]}; its own options go before train")
    if ranks is None and hostfile is None:
        ctx.fail("say before train how many processes there are, as in mlx-gpt launch -n 2 train, or give a --hostfile")
    if ranks and hostfile:
        ctx.fail("-n and --hostfile exclude each other; leave out one of them")
    train = ctx.parent.command.commands["train"]
    train.make_context("train", arguments[1:], parent=ctx.parent)  # a mistake is told once, and here
    words = ["launch", *(["-n", str(ranks)] if ranks else ["--hostfile", str(hostfile)])]
    words += ["--restarts", str(restarts)] if restarts else []
    hosts, variables = ([Host(None, HERE)] * ranks, {}) if ranks else read_hostfile(hostfile)
    variables[LAUNCH_WORDS] = shlex.join(words)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for restart in range(restarts + 1):
            status = _run(hosts, arguments, folder, variables)
            if status != LOST or restart == restarts:
                raise typer.Exit(status)
            if (folder / RESUME).exists():  # else it was lost before it had a run
                arguments = ["train", *json.loads((folder / RESUME).read_text())]
            errors.print(f"Restart {restart + 1} of {restarts}: {shlex.join(arguments)}", soft_wrap=True)


def read_hostfile(path: Path) -> tuple[list[Host], dict[str, str]]:
    """The machines in a file of mlx.distributed_config, or in one of the same kind, and the variables for their environment. Raises
    `UserError` if they cannot be used."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        said = said if isinstance(said, dict) else {"hosts": said}
        backend, variables = said.get("backend"), dict(each.split("=", 1) for each in said.get("envs", ()))
        hosts = [Host(each["ssh"], each["ips"][0]) for each in said["hosts"]]
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror})", "name a file that mlx.distributed_config wrote"
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is no list of hosts with ssh and ips ({type(error).__name__}: {error})",
            "let mlx.distributed_config write it",
        ) from error
    if backend not in (None, "", "ring"):
        raise UserError(
            f"{path} is for the backend {backend}, and mlx-gpt launch starts the ring only",
            f"use mlx.launch --hostfile {shlex.quote(str(path))} -- mlx-gpt train",
        )
    if len(hosts) < 2:
        raise UserError(f"{path} names fewer than 2 hosts", "a training alone needs no launch: use mlx-gpt train")
    return [Host(None, hosts[0].address), *hosts[1:]], variables


def _run(hosts: Sequence[Host], arguments: Sequence[str], folder: Path, variables: Mapping[str, str]) -> int:
    """Start a rank on each of `hosts` with `variables` in its environment, wait for all, and return the exit status of the training.
    `folder` is for files that the ranks of this machine share with this process."""
    port = free_ports(hosts[0].address, len(hosts) + 1) + 1  # the ranks meet at the port before
    ring = json.dumps([[f"{host.address}:{port + rank}"] for rank, host in enumerate(hosts)])
    (folder / "ring.json").write_text(ring)
    here = {"MLX_HOSTFILE": str(folder / "ring.json"), RESUME_FILE: str(folder / RESUME)}
    processes: list[subprocess.Popen] = []
    with _forwarding_signals(processes) as asked:
        for rank, host in enumerate(hosts):
            command = [sys.executable, "-m", "mlx_nanogpt_cli", *arguments]
            more = {"MLX_RANK": str(rank), **variables}
            if host.ssh:
                command = ["ssh", "-o", "BatchMode=yes", host.ssh, _remote(command, more, ring)]
            # a session of its own, so that Ctrl-C in the terminal reaches this process alone, which passes it on once
            processes.append(
                subprocess.Popen(command, env=os.environ | here | more, stdin=subprocess.PIPE, start_new_session=True)
            )
            if asked:  # while not all were there
                processes[-1].terminate()
        status = _status(_wait(processes))
    return INTERRUPTED if asked and status == LOST else status


def _remote(command: Sequence[str], variables: Mapping[str, str], ring: str) -> str:
    """`command`, with `variables` in its environment, for the shell of another machine, in a folder of the same name as this one."""
    words = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    script = f"""
        cd {shlex.quote(os.getcwd())} || exit 1
        MLX_HOSTFILE=$(mktemp)
        printf %s {shlex.quote(ring)} >"$MLX_HOSTFILE"
        export MLX_HOSTFILE {words}
        {shlex.join(command)}
        status=$?
        rm "$MLX_HOSTFILE"
        exit $status
    """
    return f"sh -c {shlex.quote(script)}"


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


def _status(statuses: Sequence[int]) -> int:
    """The status of a training whose ranks ended with `statuses`: that of an error, if one told its error."""
    if statuses[0] in (0, INTERRUPTED):  # the first has saved all
        return statuses[0]
    told = [status for status in statuses if status > 0 and status not in (LOST, 255)]  # 255: ssh lost its connection
    return told[0] if told else LOST


@contextmanager
def _forwarding_signals(processes: Sequence[subprocess.Popen]) -> Iterator[list[int]]:
    """Send the signals that ask for an end on to all ranks of this machine; the process itself then waits for them. Yield a list,
    of the signals that came."""
    asked: list[int] = []

    def forward(signum: int, frame: object) -> None:
        asked.append(signum)
        for process in processes:
            if process.poll() is None and "ssh" not in process.args[:1]:  # the others stop with them
                process.send_signal(signum)

    with stop_signals_handled(forward):
        yield asked


def free_ports(address: str, count: int) -> int:
    """The first of `count` ports in a row that nobody listens at. Raises `UserError` if `address` is not of this machine."""
    for _ in range(100):
        first = random.randrange(PORTS.start, PORTS.stop - count)
        try:
            for port in range(first, first + count):
                with socket.create_server((address, port)):
                    pass
            return first
        except OSError as error:
            failure = error
    raise UserError(f"no port of {address} can be used ({failure.strerror})", "name an address of this machine first")
