"""The promises of the lifeline: a rank that is gone, or a collective that hangs, is noticed and named; an end in good order is
not."""

import queue
import socket
import time
from dataclasses import dataclass

import pytest
from mlx_nanogpt.distributed import lifeline
from mlx_nanogpt.distributed.lifeline import Lifeline, Verdict

HOSTS = ["mac-a", "mac-b", "mac-c"]


@dataclass
class Line:
    """The lifeline of a rank, and the verdicts that it came to."""

    line: Lifeline
    verdicts: queue.Queue

    def verdict(self) -> Verdict:
        return self.verdicts.get(timeout=5)


@pytest.fixture
def three(monkeypatch):
    """The lifelines of three ranks, two hundred times as fast as real ones."""
    for name in ("BEAT_SECONDS", "SILENT_SECONDS", "STALL_SECONDS"):
        monkeypatch.setattr(lifeline, name, getattr(lifeline, name) / 200)
    ends = {rank: socket.socketpair() for rank in (1, 2)}
    peers = [{rank: pair[0] for rank, pair in ends.items()}, *({0: pair[1]} for pair in ends.values())]
    lines = []
    for rank, own in enumerate(peers):
        verdicts = queue.Queue()
        lines.append(Line(Lifeline(rank, own, HOSTS, verdicts.put), verdicts))
    yield lines
    for each in lines:
        each.line.close()
    for pair in ends.values():
        for end in pair:
            end.close()


def test_ranks_that_beat_and_leave_in_good_order_are_left_in_peace(three):
    time.sleep(3 * lifeline.SILENT_SECONDS)
    for each in three:
        each.line.close()
    time.sleep(3 * lifeline.BEAT_SECONDS)
    assert all(each.verdicts.empty() for each in three)


def test_what_one_rank_tells_all_others_hear(three):
    three[1].line.tell("cannot go on: its disk is full", "make room")
    expected = Verdict("rank 1 (mac-b) cannot go on: its disk is full", "make room", lost=False)
    assert three[0].verdict() == three[2].verdict() == expected
    three[1].line.close()
    assert three[1].verdicts.empty()  # it knows already


@pytest.mark.parametrize("gone", [0, 2])
def test_a_broken_connection_is_a_rank_that_ended(three, gone, monkeypatch):
    monkeypatch.setattr(three[gone].line, "_judge", lambda verdict: None)  # its process is gone, too
    for connection in three[gone].line.peers.values():
        connection.shutdown(socket.SHUT_RDWR)
    others = [each for each in three if each is not three[gone]]
    for each in others:
        found = each.verdict()
        assert found.lost and found.problem.startswith(f"rank {gone} ({HOSTS[gone]}) ended without a word")


@pytest.mark.parametrize("silent", [0, 2])
def test_a_rank_without_a_beat_is_named(three, silent, monkeypatch):
    monkeypatch.setattr(three[silent].line, "_send", lambda **message: None)  # the link is cut
    others = [each for each in three if each is not three[silent]]
    for each in others:
        found = each.verdict()
        assert found.lost and found.problem.startswith(f"rank {silent} ({HOSTS[silent]}) has not answered for 0.1 s")


def test_a_step_that_never_ends_is_noticed_though_all_ranks_answer(three):
    for each in three:
        each.line.note_progress()
        each.line.note_progress()
    started = time.monotonic()
    for each in three:
        assert each.verdict().problem == "no step ended for 0 s although all ranks answer: an exchange hangs"
    assert time.monotonic() - started > 0.9 * lifeline.STALL_SECONDS


def test_a_step_may_take_long(three):
    for each in three:
        each.line.note_progress()  # the first has begun: nobody knows how long it takes
    time.sleep(1.5 * lifeline.STALL_SECONDS)
    for each in three:
        each.line.note_progress()  # it took that long, and the next ones may, too
    time.sleep(1.5 * lifeline.STALL_SECONDS)
    assert all(each.verdicts.empty() for each in three)


def test_a_rank_that_saves_for_long_hangs_nothing(three):
    for each in three:
        each.line.note_progress()
        each.line.note_progress()
    with three[0].line.busy():
        time.sleep(2 * lifeline.STALL_SECONDS)
    assert all(each.verdicts.empty() for each in three)
    assert three[2].verdict().problem.endswith("an exchange hangs")  # from now on it is one


def test_a_process_that_was_stopped_itself_blames_nobody(three):
    line = three[1].line
    with line.sending:  # its beat waits, as all of a process does that is stopped
        time.sleep(5 * lifeline.BEAT_SECONDS)
        line.heard = {0: time.monotonic() - 2 * lifeline.SILENT_SECONDS}  # what the others said is not read yet
    time.sleep(2 * lifeline.BEAT_SECONDS)
    assert three[1].verdicts.empty()
