"""The promises of long runs: a Mac stays awake while it trains, and a training that becomes slower says so once."""

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import TINY
from mlx_nanogpt_cli.commands import train
from mlx_nanogpt_cli.process import caffeinate
from mlx_nanogpt_cli.screen import training_display
from mlx_nanogpt_cli.screen.slowdown import Slowdown

# ---- sleep


@pytest.fixture
def mac(monkeypatch, tmp_path):
    """A Mac whose `caffeinate` notes its arguments, and its end."""
    program = tmp_path / "bin" / "caffeinate"
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/sh\ntrap 'echo ended >> {tmp_path}/called; exit' TERM\necho $* > {tmp_path}/called\n"
        "while true; do sleep 0.05; done\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(caffeinate, "sys", SimpleNamespace(platform="darwin"))
    return tmp_path / "called"


def test_a_mac_is_kept_awake_while_it_trains_and_no_longer(mac, mlx_gpt, monkeypatch):
    follow = train.follow

    def follow_once_called(*arguments):
        while not (mac.exists() and mac.read_text()):
            time.sleep(0.01)
        return follow(*arguments)

    monkeypatch.setattr(train, "follow", follow_once_called)
    out = mlx_gpt("train", *TINY).out
    assert "  Sleep     the Mac stays awake while its lid is open (--no-caffeinate lets it sleep)\n" in out
    assert mac.read_text().splitlines() == [f"-i -w {os.getpid()}", "ended"]


def test_a_mac_may_sleep_if_the_user_wants_it(mac, mlx_gpt):
    assert "  Sleep     the Mac may fall asleep" in mlx_gpt("train", *TINY, "--no-caffeinate").out
    assert not mac.exists()
    assert mlx_gpt("train", "--resume=runs/1", "--num-iter=6", "--no-caffeinate").status == 0


def test_a_mac_without_caffeinate_trains_and_says_so(mac, mlx_gpt, monkeypatch):
    monkeypatch.setenv("PATH", str(Path("nothing").resolve()))
    monkeypatch.setattr(
        caffeinate.subprocess, "Popen", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError(2, "not found"))
    )
    result = mlx_gpt("train", *TINY)
    assert result.status == 0 and "caffeinate cannot be started (not found)" in result.out


@pytest.mark.skipif(sys.platform == "darwin", reason="this is a Mac")
def test_other_systems_say_nothing_of_sleep(mlx_gpt):
    assert "Sleep" not in mlx_gpt("train", *TINY).out


# ---- speed


def told(speeds: list[float], seconds: float = 10.0) -> list[tuple[float, float]]:
    """What is told of a training with these tokens/s, each for `seconds`."""
    slowdown = Slowdown()
    notes = [slowdown.note(round(speed * seconds), seconds) for speed in speeds]
    return [note for note in notes if note]


def test_a_minute_slower_by_more_than_a_third_is_told_once_with_both_speeds():
    assert told([300.0] * 12 + [150.0] * 30) == [(300.0, pytest.approx(175.0))]  # ten seconds of the old speed are left


@pytest.mark.parametrize(
    "speeds",
    [
        [300.0] * 30,
        [300.0] * 12 + [210.0] * 30,  # less than a third
        [300.0] * 12 + [150.0] * 3 + [300.0] * 12,  # for half a minute
        [100.0] * 3 + [300.0] * 30,  # a slow start
        [300.0] * 5,  # less than a minute
    ],
)
def test_less_is_not_told(speeds):
    assert told(speeds) == []


def test_reports_of_more_than_a_minute_count_too():
    assert told([300.0, 300.0, 100.0, 100.0], seconds=90.0) == [(300.0, 100.0)]


def test_a_slower_training_says_so_on_the_screen(mlx_gpt, monkeypatch):
    monkeypatch.setattr(training_display.Slowdown, "note", lambda *_: (3000.0, 1500.0))
    out = mlx_gpt("train", *TINY, "--num-iter=10", "--eval-interval=10").out
    assert "The training has become slower: 1,500 tokens/s in the last minute, 3,000 in the fastest one." in out
