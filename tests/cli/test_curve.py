"""The promises of the curve under a progress bar: it shows the losses at the screen's width, and only on a screen."""

import fcntl
import os
import pty
import signal
import struct
import termios
from contextlib import suppress

import mlx_nanogpt as gpt
import pytest
from conftest import SESSION_CACHE, TINY, in_a_process, tiny_run
from mlx_nanogpt_cli.process.stop_request import STOPPING
from mlx_nanogpt_cli.screen import training_display
from mlx_nanogpt_cli.screen.curve import BLOCKS, HEIGHT, LABEL, draw_curve

FALLING = [(i, 4.0 - i / 100) for i in range(10, 210, 10)]


def heights(losses, last: int, width: int) -> list[int]:
    """The height of each column in eighths of a row."""
    lines = draw_curve(losses, last, width).plain.splitlines()[:HEIGHT]
    rows = [line[LABEL:].ljust(width - LABEL) for line in lines]
    return [sum(BLOCKS.index(row[column]) for row in rows) for column in range(width - LABEL)]


def test_a_falling_loss_falls_from_the_top_to_the_bottom_and_what_is_to_come_is_empty():
    found = heights(FALLING, last=200, width=60)
    assert found[0] == 8 * HEIGHT and found[-1] == 1 and found == sorted(found, reverse=True)
    found = heights(FALLING, last=400, width=46)
    assert all(found[:21]) and not any(found[21:])
    assert set(heights([(i, 1.5) for i in range(10, 110, 10)], 100, 50)) == {1}  # equal losses are a line


@pytest.mark.parametrize("width", [46, 80, 200])
@pytest.mark.parametrize("count", [1, 2, 500])
def test_the_curve_is_as_wide_as_the_screen_and_no_wider(width, count):
    losses = [(10 * i, 3.0 + 1 / i) for i in range(1, count + 1)]
    lines = draw_curve(losses, 10 * count, width).plain.splitlines()
    assert len(lines) == HEIGHT + 1 and max(map(len, lines)) == width
    assert all(heights(losses, 10 * count, width))  # few points are joined


@pytest.mark.parametrize("losses, width", [([], 80), (FALLING, 45)])
def test_without_losses_or_room_there_is_no_curve(losses, width):
    assert not draw_curve(losses, 200, width)


def test_a_column_is_the_mean_of_its_losses():
    noisy = [(i, 9.0 if i > 1180 else 2.0 + (-1) ** i) for i in range(1201)]  # 20 in each of 60 columns
    found = heights(noisy, last=1200, width=66)
    assert set(found[:-1]) == {1} and found[-1] == 8 * HEIGHT


def test_the_labels_are_the_highest_and_the_lowest_mean_and_have_room():
    lines = draw_curve(FALLING, 200, 60).plain.splitlines()
    assert lines[0].startswith(" 3.90 ") and lines[HEIGHT - 1].startswith(" 2.00 ")
    assert lines[-1].split() == ["0", "training", "loss,", "to", "iteration", "200"]
    for large in (99.999, 150.0, 1e30):
        lines = draw_curve([(10, 3.0), (20, large)], 20, 60).plain.splitlines()
        assert {line[LABEL - 1] for line in lines[:HEIGHT]} == {" "} and max(map(len, lines)) == 60


def on_a_terminal(*options: str, stop_at: str | None = None) -> tuple[int, str]:
    """Train on a terminal of 80 columns, and send Ctrl-C's signal once it shows `stop_at`; return the exit status and all that
    it was sent."""
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    command = ["-m", "mlx_nanogpt_cli", "train", *TINY, *options]
    with in_a_process(
        *command, stdin=end, stdout=end, stderr=end, env=os.environ | {"XDG_CACHE_HOME": SESSION_CACHE, "TERM": "xterm"}
    ) as process:
        os.close(end)
        seen = b""
        with suppress(OSError):  # Linux raises it when the other end is closed, macOS returns nothing
            while part := os.read(terminal, 4096):
                seen += part
                if stop_at and stop_at.encode() in seen:
                    process.send_signal(signal.SIGINT)
                    stop_at = None
    os.close(terminal)
    return process.returncode, seen.decode()


def test_ctrl_c_is_answered_below_the_bar():
    status, text = on_a_terminal("--num-iter=1000000", "--eval-interval=1000000", stop_at="training loss, to")
    assert status == 130
    before, after = text.split(STOPPING, 1)
    assert before.endswith("\n") and after.startswith(("\r\n", "\n"))
    assert after.index("training loss, to") < after.index("Stopped at iteration")  # the curve is below it


def test_a_terminal_shows_the_curve_while_it_trains_and_at_the_end():
    status, text = on_a_terminal("--num-iter=40", "--eval-interval=20")
    assert status == 0, text
    assert text.count("training loss, to iteration 40") > 1
    last = text[text.rindex("training loss, to iteration 40") :]
    assert "Final loss" in last and "\x1b[2K" not in last  # it stays on the screen


def test_a_pipe_shows_no_curve(mlx_gpt):
    out = mlx_gpt("train", *TINY, "--num-iter=40", "--eval-interval=40").out
    assert "training loss, to" not in out and not set(BLOCKS[1:]) & set(out)


def test_a_long_run_keeps_few_losses(monkeypatch):
    monkeypatch.setattr(training_display, "MOST_LOSSES", 10)
    display = training_display._Display(tiny_run(), lambda: False)
    for iteration in range(10, 1010, 10):
        display.show(gpt.Progress(iteration, 3.0, 0.1, 1.0, 100.0))
    assert len(display.losses) <= 10 and display.losses[-1][0] == 1000
