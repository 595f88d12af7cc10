"""The promises of long runs: a Mac stays awake while it trains, and no longer."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import TINY, until
from mlx_nanogpt_cli.commands import train
from mlx_nanogpt_cli.process import caffeinate


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
        until(lambda: mac.exists() and mac.read_text())
        return follow(*arguments)

    monkeypatch.setattr(train, "follow", follow_once_called)
    out = mlx_gpt("train", *TINY).out
    assert "  Sleep     the Mac stays awake while its lid is open (--no-caffeinate lets it sleep)\n" in out
    assert mac.read_text().splitlines() == [f"-i -w {os.getpid()}", "ended"]


def test_a_mac_may_sleep_if_the_user_wants_it(mac, mlx_gpt, run):
    result = mlx_gpt("train", "--resume=runs/1", "--num-iter=9", "--no-caffeinate")
    assert result.status == 0 and "  Sleep     the Mac may fall asleep\n" in result.out and not mac.exists()


def test_a_mac_without_caffeinate_trains(mac, mlx_gpt, run, monkeypatch):
    monkeypatch.setenv("PATH", str(Path("nothing").resolve()))
    result = mlx_gpt("train", "--resume=runs/1", "--num-iter=9")
    assert result.status == 0 and "the Mac may fall asleep" in result.out


@pytest.mark.skipif(sys.platform == "darwin", reason="this is a Mac")
def test_other_systems_do_not_mention_sleep(mlx_gpt, run):
    assert "Sleep" not in mlx_gpt("train", "--resume=runs/1", "--num-iter=9").out
