"""How the ranks that a launcher started find each other, before MLX connects them.

MLX waits without a time limit for a rank that does not come, and trains on with one that has other options. So the ranks first
meet here: each calls rank 0, says what it is, and rank 0 says whether all fit together.
"""

import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from ..errors import UserError
from ..machine import machine, package_versions
from .lifeline import RESTART, Lifeline, LostRank, Verdict, host_name
from .ranks import ALONE, Ranks

JOIN_SECONDS = 60.0  # for all ranks to be there
ANSWER_SECONDS = 5.0  # for a caller to say who it is
LONGEST_LINE = 2**20
# Seconds for rank 0 to listen: the last rank calls it first, and after a failure MLX waits a whole second.
HEAD_START = 0.1


@dataclass(frozen=True)
class Launch:
    """What a launcher said: which rank this is, of how many, MLX's backend, and where rank 0 can be called."""

    rank: int
    size: int
    backend: str
    address: tuple[str, int]
    name: str  # the same for all ranks of a launch


def launched(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """What mlx.launch, or another launcher, put into the environment; None for a process alone.

    The ranks meet at the port before the one that MLX's own connection to rank 0 has. Raises `UserError` if the environment
    makes no sense.
    """
    if "MLX_RANK" not in environment:
        return None
    try:
        if "MLX_IBV_DEVICES" in environment:
            backend, address = "jaccl", environment["MLX_JACCL_COORDINATOR"]
            size, name = len(json.loads(Path(environment["MLX_IBV_DEVICES"]).read_text())), address
        elif "NCCL_HOST_IP" in environment:
            backend, size = "nccl", int(environment["MLX_WORLD_SIZE"])
            address = name = f"{environment['NCCL_HOST_IP']}:{environment['NCCL_PORT']}"
        else:
            text = Path(environment["MLX_HOSTFILE"]).read_text()
            hosts = json.loads(text or "[[]]")  # mlx.launch writes an empty file for one rank
            if len(hosts) == 1:
                return None
            backend, size, name = "ring", len(hosts), hashlib.sha256(json.dumps(hosts).encode()).hexdigest()
            address = hosts[0] if isinstance(hosts[0], str) else hosts[0][0]
        host, port = address.rsplit(":", 1)
        rank = int(environment["MLX_RANK"])
        if not 0 <= rank < size:
            raise ValueError(f"rank {rank} of {size}")
        return Launch(rank, size, backend, (host, int(port) - 1), name)
    except (KeyError, ValueError, TypeError, IndexError, OSError) as error:
        raise UserError(
            f"MLX_RANK is {environment['MLX_RANK']!r}, but the rest of a launch is not as mlx.launch leaves it "
            f"({type(error).__name__}: {error})",
            "start all ranks with mlx-gpt launch, or unset MLX_RANK to train alone",
        ) from error


@contextmanager
def joined(
    options: Mapping[str, str],
    on_verdict: Callable[[Verdict], None],
    connecting: AbstractContextManager,
) -> Iterator[Ranks]:
    """Join the ranks of a launch for the time of the body; a process alone is `ALONE`.

    `options` say how this rank was started, and have to be those of rank 0. `on_verdict` ends the process when another rank
    cannot go on: see `Lifeline`. MLX connects the ranks in the context `connecting`, in which no other thread of this process
    runs and nothing limits the time.

    Raises `UserError` if a rank does not come, or has other options, versions or devices than rank 0. A `UserError` in the body is
    told to all other ranks.
    """
    launch = launched()
    if launch is None:
        yield ALONE
        return
    connections, hosts = _met(launch, claims_of(options, launch))
    lifeline = Lifeline(launch.rank, connections, hosts, on_verdict)
    try:
        with connecting:
            if launch.rank == launch.size - 1:
                time.sleep(HEAD_START)
            group = mx.distributed.init(strict=True, backend=launch.backend)
        yield Ranks(group, launch.backend, lifeline)
    except UserError as error:
        problem = f"cannot go on: {error.problem}"
        lifeline.tell(problem, error.remedy)
        if launch.rank == 0:
            raise
        raise UserError(f"{lifeline.name_of(launch.rank)} {problem}", error.remedy) from error
    except BaseException as error:
        if isinstance(error, RuntimeError) and str(error).startswith(f"[{launch.backend}]"):
            lifeline.wait_for_verdict()  # a peer is gone, and the lifeline knows or will know which
            lifeline.tell("lost a neighbour", RESTART, lost=True)
            raise LostRank(
                f"{lifeline.name_of(launch.rank)} lost a neighbour, although all ranks answer ({error})", RESTART
            ) from error
        lifeline.tell(f"was stopped ({type(error).__name__})", RESTART, lost=True)
        raise
    finally:
        lifeline.close()


def claims_of(options: Mapping[str, str], launch: Launch) -> dict[str, str]:
    """What has to be the same in all ranks, under the names that a user knows. The streams of a device decide in which order it
    takes part in collectives."""
    device = f"{mx.default_device().type.name}, {type(machine()).__name__}, {len(machine().streams())} stream(s)"
    return {"launch": launch.name, "kind of device": device} | package_versions() | dict(options)


def _met(launch: Launch, claims: Mapping[str, str]) -> tuple[dict[int, socket.socket], list[str]]:
    """The connections to the peers of this rank, and the host names of all. Raises `UserError` if they do not fit together."""
    return _received(launch, claims) if launch.rank == 0 else _called(launch, claims)


def _received(launch: Launch, claims: Mapping[str, str]) -> tuple[dict[int, socket.socket], list[str]]:
    """As rank 0: wait for all others, and tell them who is there, or why it ends here."""
    connections: dict[int, socket.socket] = {}
    hosts, problem = {0: host_name()}, None
    deadline = time.monotonic() + JOIN_SECONDS
    try:
        listener = socket.create_server(launch.address, backlog=launch.size)
    except OSError as error:
        raise UserError(
            f"rank 0 cannot be called at {launch.address[0]}:{launch.address[1]} ({error.strerror})",
            "give the address of this machine, and another port, to the launcher",
        ) from error
    with listener:
        while len(connections) < launch.size - 1 and problem is None:
            listener.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                connection, _ = listener.accept()
            except OSError:
                missing = sorted(set(range(1, launch.size)) - connections.keys())
                problem = UserError(
                    f"{'rank' if len(missing) == 1 else 'ranks'} {', '.join(map(str, missing))} did not come within "
                    f"{JOIN_SECONDS:g} s",
                    f"start all {launch.size} ranks, and see what the missing ones say",
                )
                break
            try:
                connection.settimeout(ANSWER_SECONDS)
                said = _line(connection)
                rank, host, theirs = int(said["rank"]), str(said["host"]), dict(said["claims"])
                if theirs.get("launch") != launch.name or rank in connections or not 0 < rank < launch.size:
                    _say(
                        connection,
                        problem=f"rank {rank} ({host}) belongs to another launch",
                        remedy="give another port",
                    )
                    raise ValueError
            except (OSError, ValueError, LookupError, TypeError):
                connection.close()  # a stranger
                continue
            connections[rank], hosts[rank] = connection, host
            problem = _misfit(rank, host, theirs, claims, hosts[0])
    for connection in connections.values():
        connection.settimeout(None)
        if problem:
            _say(connection, problem=problem.problem, remedy=problem.remedy)
        else:
            _say(connection, hosts=[hosts[rank] for rank in range(launch.size)])
    if problem:
        raise problem
    return connections, [hosts[rank] for rank in range(launch.size)]


def _called(launch: Launch, claims: Mapping[str, str]) -> tuple[dict[int, socket.socket], list[str]]:
    """As another rank: call rank 0 until it answers, and hear what it says."""
    deadline = time.monotonic() + JOIN_SECONDS
    place = f"{launch.address[0]}:{launch.address[1]}"
    while True:
        try:
            connection = socket.create_connection(launch.address, timeout=ANSWER_SECONDS)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"rank 0 was not there at {place} within {JOIN_SECONDS:g} s ({error.strerror or error})",
                    "start rank 0, too; see that its address is right and that no firewall blocks the port",
                ) from error
            time.sleep(0.05)
    try:
        _say(connection, rank=launch.rank, host=host_name(), claims=dict(claims))
        connection.settimeout(JOIN_SECONDS + ANSWER_SECONDS)  # rank 0 waits for all ranks
        answer = _line(connection)
        refusal = UserError(answer["problem"], answer["remedy"]) if "problem" in answer else None
        hosts = [] if refusal else answer["hosts"]
    except (OSError, ValueError, LookupError) as error:
        raise UserError(f"rank 0 at {place} did not answer ({error})", "see what rank 0 says") from error
    if refusal:
        raise refusal
    connection.settimeout(None)
    return {0: connection}, hosts


def _misfit(
    rank: int, host: str, theirs: Mapping[str, str], firsts: Mapping[str, str], first_host: str
) -> UserError | None:
    """The error if a rank says something else of itself than rank 0 does."""
    for name in sorted(theirs.keys() | firsts.keys()):
        if theirs.get(name) != firsts.get(name):
            here, there = (f"{name} {said[name]}" if name in said else f"no {name}" for said in (theirs, firsts))
            remedy = (
                "install the same versions everywhere"
                if name in package_versions()
                else "start all ranks with the same options, on machines of one kind"
            )
            return UserError(f"rank {rank} ({host}) has {here}, and rank 0 ({first_host}) has {there}", remedy)
    return None


def _say(connection: socket.socket, **message: object) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _line(connection: socket.socket) -> dict:
    """The next message. It is read byte by byte, so that nothing after it is lost."""
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte or len(line) > LONGEST_LINE:
            raise ValueError("the connection was closed")
        line += byte
    return json.loads(line)
