"""A connection between the ranks beside MLX's, which notices a rank that is gone and says which.

A collective of MLX waits for ever for a rank that was stopped or cut off. So each rank is also connected to rank 0, and a
thread of its own, which goes on while a collective waits, sends a beat every second and listens for those of the others.
Rank 0 passes on what it learns. Messages are lines of JSON.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

from ..errors import UserError

BEAT_SECONDS = 1.0  # between two beats
SILENT_SECONDS = 20.0  # without a beat: the rank was stopped, or cut off
STALL_SECONDS, STALL_FACTOR = 60.0, 10  # without progress, and in the longest waits so far: a collective hangs
RESTART = "start all ranks again with `resume`: they go on from the last checkpoint"


@dataclass(frozen=True)
class Verdict:
    """Why a training of several ranks ends before its end. If a rank was `lost`, a new start may help."""

    problem: str
    remedy: str
    lost: bool


class LostRank(UserError):
    """Another rank is gone. A new start may help."""


class Lifeline:
    """The connection of rank `rank` to its `peers`: of rank 0 to all others, of another one to rank 0.

    `on_verdict` is called once, in a thread of the lifeline, when a training cannot go on because of another rank. The main
    thread may wait in a collective that never returns, so `on_verdict` has to end the process.
    """

    def __init__(
        self,
        rank: int,
        peers: Mapping[int, socket.socket],
        hosts: list[str],
        on_verdict: Callable[[Verdict], None],
    ):
        self.rank, self.peers, self.hosts, self.on_verdict = rank, peers, hosts, on_verdict
        self.left: set[int] = set()  # ranks that ended in good order
        self.judged = threading.Lock()  # held from the first verdict on
        self.ended = threading.Event()
        self.heard = dict.fromkeys(peers, time.monotonic())
        self.progress: float | None = None  # when something was computed last
        self.longest_wait: float | None = None  # for something to be computed
        self.is_busy = False
        self.sending = threading.Lock()  # two threads send
        for peer in peers:
            threading.Thread(target=self._listen, args=(peer,), daemon=True).start()
        threading.Thread(target=self._beat, daemon=True).start()

    def note_progress(self) -> None:
        """Something was computed, to which all ranks contributed."""
        now = time.monotonic()
        if self.progress is not None:
            self.longest_wait = max(self.longest_wait or 0.0, now - self.progress)
        self.progress = now

    @contextmanager
    def busy(self) -> Iterator[None]:
        """A context in which no rank computes, because all wait for this one."""
        self.is_busy = True
        try:
            yield
        finally:
            self.is_busy = False

    def tell(self, problem: str, remedy: str, lost: bool = False) -> None:
        """Tell the other ranks that this one cannot go on."""
        if self.judged.acquire(blocking=False):
            self._send(verdict=asdict(Verdict(f"{self.name_of(self.rank)} {problem}", remedy, lost)))

    def wait_for_verdict(self) -> None:
        """Wait as long as it takes to notice that a rank is gone; `on_verdict` then ends the process."""
        self.ended.wait(SILENT_SECONDS + 3 * BEAT_SECONDS)

    def close(self) -> None:
        """Leave in good order, or after `tell`."""
        self._send(bye=True)
        self.ended.set()

    def _send(self, **message: object) -> None:
        line = json.dumps(message).encode() + b"\n"
        with self.sending:
            for connection in self.peers.values():
                with suppress(OSError):  # a peer that is gone: its thread notices
                    connection.sendall(line)

    def _listen(self, peer: int) -> None:
        with suppress(OSError, ValueError), self.peers[peer].makefile("rb") as lines:
            for line in lines:
                message = json.loads(line)
                self.heard[peer] = time.monotonic()
                if message.get("busy"):
                    self._excuse()
                if "bye" in message:
                    self.left.add(peer)
                if "verdict" in message:
                    self._judge(Verdict(**message["verdict"]))
        if peer not in self.left:
            self._judge(Verdict(f"{self.name_of(peer)} ended without a word: it was killed, or crashed", RESTART, True))

    def _beat(self) -> None:
        last = time.monotonic()
        while not self.ended.wait(BEAT_SECONDS):
            self._send(busy=self.is_busy)
            now = time.monotonic()
            if now - last > 3 * BEAT_SECONDS:  # this process was stopped itself, and has heard nothing meanwhile
                self.heard = dict.fromkeys(self.heard, now)
                self._excuse()
            if self.is_busy:
                self._excuse()
            last = now
            for peer, heard in self.heard.items():
                if now - heard > SILENT_SECONDS and peer not in self.left:
                    self._judge(
                        Verdict(
                            f"{self.name_of(peer)} has not answered for {SILENT_SECONDS:g} s: it was stopped, its machine "
                            "sleeps, or the link to it is cut",
                            RESTART,
                            True,
                        )
                    )
            self._check_stall(now)

    def _excuse(self) -> None:
        """Count the time up to now as no wait for an exchange."""
        if self.progress is not None:
            self.progress = time.monotonic()

    def _check_stall(self, now: float) -> None:
        if self.longest_wait is None or self.progress is None:
            return  # nobody knows yet how long a step takes
        limit = max(STALL_SECONDS, STALL_FACTOR * self.longest_wait)
        if now - self.progress > limit:
            self._judge(
                Verdict(f"no step ended for {limit:.0f} s although all ranks answer: an exchange hangs", RESTART, True)
            )

    def _judge(self, verdict: Verdict) -> None:
        """End this process because of `verdict`, after all peers were told, unless it ends already."""
        if not self.ended.is_set() and self.judged.acquire(blocking=False):
            self._send(verdict=asdict(verdict))
            self.on_verdict(verdict)
            self.ended.set()

    def name_of(self, rank: int) -> str:
        return f"rank {rank} ({self.hosts[rank]})"


def host_name() -> str:
    return os.uname().nodename
