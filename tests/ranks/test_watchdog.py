"""The promises of the watchdog: a rank that waits forever ends, and one that only takes long does not."""

import threading
from pathlib import Path

import pytest
from mlx_nanogpt import ranks
from mlx_nanogpt.ranks import STALL_FACTOR, STALL_SECONDS, START_SECONDS, TICK_SECONDS, Watchdog

STALL, START = (int(seconds / TICK_SECONDS) for seconds in (STALL_SECONDS, START_SECONDS))


class Ticks:
    """An event whose `wait` takes no time: the watchdog counts ticks and reads no clock. It notes progress after each of the numbers
    of ticks in `progress`, and ends the watchdog after `last` more."""

    def __init__(self, progress: list[int], last: int, is_lost: bool = False):
        self.errors: list[str] = []
        self.watchdog = Watchdog("rank 1 (mac-b)", lambda error: self.errors.append(error.problem), self)
        self.progress, self.last, self.is_lost = progress, last, is_lost
        self.watchdog.run()

    def wait(self, seconds: float) -> bool:
        assert seconds == TICK_SECONDS
        if self.progress:
            self.progress[0] -= 1
            if self.progress[0] < 0:
                self.progress.pop(0)
                self.watchdog.note_progress()
        else:
            self.last -= 1
            self.watchdog.is_over = self.last < 0
        return self.is_lost


@pytest.mark.parametrize(
    "progress, patience",
    [
        ([], START),  # nobody knows yet how long a step takes
        ([5], START),
        ([START - 9, 5], STALL),  # what comes before the first step is not a step
        ([5, STALL * 2], STALL * 2 * STALL_FACTOR),  # it took that long, and the next one may, too
        ([5, 5, 5], STALL),
    ],
)
def test_a_rank_is_ended_after_a_stall_and_not_before(progress, patience):
    assert Ticks(list(progress), patience - 3).errors == []
    errors = Ticks(list(progress), patience + 30).errors
    assert len(errors) == 1 and errors[0].startswith("rank 1 (mac-b) has waited ")


def test_a_lost_connection_ends_a_rank_at_once():
    errors = Ticks([], 3, is_lost=True).errors
    assert errors == ["rank 1 (mac-b) lost its connection: another rank ended with an error, was killed, or crashed"]


def test_a_rank_that_has_left_is_not_ended():
    lost, errors = threading.Event(), []
    watchdog = Watchdog("rank 1", errors.append, lost)
    watchdog.is_over = True
    lost.set()
    watchdog.start()
    watchdog.join(5)
    assert not watchdog.is_alive() and errors == []


def test_the_library_opens_no_socket():
    assert "socket" not in Path(ranks.__file__).read_text(encoding="utf-8")
