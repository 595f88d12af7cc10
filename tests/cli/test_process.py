"""The promises of the process: closed streams, full outputs, signals at any time and a terminal that goes away do no harm."""

import errno
import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest
from mlx_nanogpt import open_run
from conftest import LONGEST, SESSION_CACHE, TEXT, TINY, in_a_process, python, tiny_run
from helpers import read_until
from mlx_nanogpt_cli.process.stop_request import STOPPING

ENDLESS = [*TINY, "--num-iter=1000000", "--run-dir=mine"]


def in_a_shell(command: str, redirection: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"XDG_CACHE_HOME": SESSION_CACHE, "PYTHON": sys.executable}
    line = f'"$PYTHON" -m mlx_nanogpt_cli {command} {redirection}'
    return subprocess.run(["sh", "-c", line], env=environment, capture_output=True, text=True, timeout=LONGEST)


def is_quiet(error: str) -> bool:
    """Whether `error` holds nothing that is for programmers."""
    return "Traceback" not in error and "Exception ignored" not in error


# ---- streams


with_full_device = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")


def test_a_closed_stream_is_never_taken_for_a_checkpoint():
    result = in_a_shell(f"train {' '.join(TINY)}", "<&- >&- 2>&-")
    assert result.returncode == 0
    assert open_run(Path("runs/1")).load_model()  # nothing that is printed is in it


def test_a_command_writes_although_other_streams_are_closed(run):
    assert in_a_shell("generate --tokens=3", "<&- 2>&-").stdout


@with_full_device
def test_an_output_that_takes_nothing_is_a_sentence():
    result = in_a_shell("presets", ">/dev/full")
    assert result.returncode == 1 and is_quiet(result.stderr)
    assert result.stderr.startswith(f"Error: the output cannot be used ({os.strerror(errno.ENOSPC)})")


def test_an_output_and_errors_that_take_nothing_are_a_status():
    assert in_a_shell("--version", "1</dev/null 2>&1").returncode == 1  # they are opened to be read


def test_a_reader_of_the_help_may_leave_and_a_width_of_0_columns_is_ignored(monkeypatch):
    monkeypatch.setenv("COLUMNS", "0")
    assert in_a_shell("train --help", "| true").stderr == ""
    assert max(map(len, in_a_shell("presets", "").stdout.splitlines())) == 80


def test_an_empty_name_is_a_usage_error_and_not_the_folder_here(mlx_gpt):
    tiny_run(".")
    before = sorted(Path().iterdir())
    for command, *options in (
        ["train", "--run-dir=", "--resume=", "--config=", "--data=", "--init-from="],
        ["generate", ""], ["eval", "--data="], ["export", "--out="], ["prepare", "--out="], ["bench", "--json="],
    ):  # fmt: skip
        for option in options:
            result = mlx_gpt(command, option)
            assert result.status == 2 and "it is empty" in result.err, (command, option)
    assert sorted(Path().iterdir()) == before


# ---- pipes with a name


def test_a_pipe_is_a_text_once_and_never_waited_for_again(mlx_gpt):
    os.mkfifo("pipe")
    threading.Thread(target=Path("pipe").write_text, args=[TEXT], daemon=True).start()
    assert mlx_gpt("train", *TINY[:-1], "--data=pipe").status == 0
    for command in (["train", "--resume=runs/1", "--num-iter=8"], ["eval"], ["prepare", "--data=pipe", "--out=tokens"]):
        result = mlx_gpt(*command)
        assert result.status == 1 and "pipe is a pipe and gives its text only once; pipe the text into" in result.err
    assert mlx_gpt("train", "--resume=runs/1", "--num-iter=8", "--data=play.txt").status == 0


# ---- names that command the terminal

EVIL = "a\x1b]0;pwned\x07\u202e\x9b31m\n.txt"
SHOWN = r"a\u001B]0;pwned\u0007\u202E\u009B31m\u000A.txt"


def test_the_name_of_a_text_does_not_command_the_terminal(mlx_gpt):
    Path(EVIL).write_text(Path("play.txt").read_text())
    folder = "run\x1b[31m"
    options = [*TINY[:-1], "--tied", "--activation=gelu"]
    results = [
        mlx_gpt("train", *options, f"--data={EVIL}", f"--run-dir={folder}"),
        *(mlx_gpt(command, folder) for command in ("eval", "config")),
        mlx_gpt("generate", "--tokens=3", folder),
        mlx_gpt("export", folder, "--out=model"),
    ]
    Path(EVIL).unlink()
    gone = mlx_gpt("eval", folder)
    assert [result.status for result in results] == [0] * len(results) and gone.status == 1
    card = Path("model/README.md").read_text()
    for text in [result.out + result.err for result in (*results, gone)] + [card]:
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert all(
        SHOWN in text for text in (results[0].out, results[1].out, results[2].out, results[3].err, gone.err, card)
    )


# ---- signals


def end(process: subprocess.Popen) -> tuple[int, str]:
    with process:
        _, error = process.communicate()
    return process.returncode, error


def test_the_end_of_a_terminal_saves_as_ctrl_c_does():
    terminal, other_end = pty.openpty()

    def let_it_control() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    command = ["-m", "mlx_nanogpt_cli", "train", *ENDLESS, "--eval-interval=1000000"]
    process = in_a_process(*command, stdin=other_end, stdout=other_end, preexec_fn=let_it_control)
    os.close(other_end)
    seen = b""
    while not re.search(rb"loss \d", seen) and select.select([terminal], [], [], LONGEST)[0]:
        part = os.read(terminal, 4096)
        assert part, seen  # of a process that has ended, macOS returns nothing, without end
        seen += part
    os.close(terminal)
    process.send_signal(signal.SIGHUP)  # as a shell does, too
    status, error = end(process)
    assert status in (130, -signal.SIGHUP) and is_quiet(error)
    assert open_run(Path("mine")).position().iteration > 0


def test_signals_that_were_ignored_from_the_start_stay_ignored_and_a_kill_saves():
    def as_nohup_does() -> None:
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

    process = in_a_process("-m", "mlx_nanogpt_cli", "train", *ENDLESS, preexec_fn=as_nohup_does)
    read_until(process, r" +\d")
    for number in (signal.SIGHUP, signal.SIGINT):
        process.send_signal(number)
    for _ in range(20):  # it continues
        assert process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert end(process)[0] == 130 and open_run(Path("mine")).position().iteration > 2


@pytest.mark.parametrize("seconds", [0.15, 0.3, 0.6, 1.2])
@pytest.mark.slow
def test_two_signals_at_any_time_are_no_traceback(seconds):
    processes = [in_a_process("-m", "mlx_nanogpt_cli", "train", *ENDLESS, f"--run-dir={name}") for name in "ab"]
    time.sleep(seconds)
    for process, second in zip(processes, (signal.SIGINT, signal.SIGTERM)):
        for number in (signal.SIGINT, second):
            process.send_signal(number)
        time.sleep(0.05)
        process.send_signal(second)  # one that came while MLX looked for a compiler is lost
        status, error = end(process)
        stopped = status in (130, -signal.SIGINT, -signal.SIGTERM) and is_quiet(error)
        assert stopped or ("Traceback" in error and "mlx_nanogpt_cli" not in error)  # Python itself was still starting


def test_ctrl_c_is_answered_and_a_second_one_quits_while_a_step_computes_for_minutes():
    script = """if True:
        import hashlib, mlx_nanogpt as gpt, mlx_nanogpt_cli
        def train(*arguments, **more):
            print("started", flush=True)
            hashlib.pbkdf2_hmac("sha256", b"a step", b"", 10**9)  # as MLX does, it lets no handler of Python's run
            yield
        gpt.train = train
        mlx_nanogpt_cli.main()"""
    process = in_a_process("-c", script, "train", *ENDLESS)
    read_until(process, "started")
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == f"{STOPPING}\n"
    process.send_signal(signal.SIGINT)
    assert end(process) == (130, "Stopped. mine has no checkpoint; --resume starts it over.\n")


def test_the_program_is_in_charge_of_signals_before_it_imports_anything_large():
    script = "import sys; before = set(sys.modules); import mlx_nanogpt_cli; print(*(set(sys.modules) - before))"
    loaded = set(python(script).split())
    assert "mlx_nanogpt_cli" in loaded and len(loaded) < 20
    assert not {"mlx_nanogpt", "mlx", "numpy", "typer", "rich"} & {name.partition(".")[0] for name in loaded}
