"""The promises of the process: closed streams, full outputs, signals at any time and a terminal that goes away do no harm."""

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from mlx_nanogpt import open_run
from conftest import SESSION_CACHE, TINY, in_a_process, trained_run

ENDLESS = [*TINY, "--num-iter=1000000", "--run-dir=mine"]
ALL_CLOSED = "<&- >&- 2>&-"


def in_a_shell(command: str, redirection: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"XDG_CACHE_HOME": SESSION_CACHE, "PYTHON": sys.executable}
    line = f'"$PYTHON" -m mlx_nanogpt_cli {command} {redirection}'
    return subprocess.run(["sh", "-c", line], env=environment, capture_output=True, text=True, timeout=60)


def is_quiet(error: str) -> bool:
    """Whether `error` holds nothing that is for programmers."""
    return "Traceback" not in error and "Exception ignored" not in error


# ---- streams


@pytest.mark.parametrize("redirection", ["<&-", ">&-", "2>&-", ALL_CLOSED])
def test_a_closed_stream_is_never_taken_for_a_checkpoint(redirection):
    result = in_a_shell(f"train {' '.join(TINY)}", redirection)
    assert result.returncode == 0 and is_quiet(result.stderr)
    assert open_run(Path("runs/1")).load_model()  # nothing of what is printed is in it


@pytest.mark.parametrize("command", ["generate --tokens=3", "config"])
def test_a_text_that_nobody_can_get_is_a_sentence(command):
    trained_run()
    result = in_a_shell(command, ">&-")
    assert result.returncode == 1 and result.stderr.startswith("Error: standard output is closed, ")
    assert in_a_shell(command, "<&- 2>&-").stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full device here")
@pytest.mark.parametrize("command", ["--version", "presets"])
def test_a_full_output_is_a_sentence(command):
    result = in_a_shell(command, ">/dev/full")
    assert result.returncode == 1 and is_quiet(result.stderr)
    assert result.stderr.startswith("Error: the output cannot be used (No space left on device)")
    both = in_a_shell(command, ">/dev/full 2>&1")
    assert both.returncode == 1 and both.stderr == ""


def test_a_reader_of_the_help_may_leave():
    assert in_a_shell("train --help", "| true").stderr == ""


def test_a_width_of_nothing_is_none(monkeypatch):
    monkeypatch.setenv("COLUMNS", "0")
    assert max(map(len, in_a_shell("presets", "").stdout.splitlines())) == 80


@pytest.mark.parametrize(
    "arguments",
    [["train", "--run-dir="], ["train", "--resume="], ["train", "--config="], ["train", "--data="],
     ["train", "--init-from="], ["generate", "--run="], ["eval", "--data="], ["export", "--out="], ["prepare", "--out="],
     ["bench", "--json="]],
    ids=" ".join,
)  # fmt: skip
def test_an_empty_name_is_a_usage_error_and_not_the_folder_here(mlx_gpt, arguments):
    trained_run(".")
    before = sorted(Path().iterdir())
    result = mlx_gpt(*arguments)
    assert result.status == 2 and "it is empty; give a name" in result.err
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize("name", [".", "pipe"])
def test_a_benchmark_that_cannot_be_written_is_not_measured(mlx_gpt, name):
    os.mkfifo("pipe")
    result = mlx_gpt("bench", "--quick", "--data=play.txt", f"--json={name}")
    assert result.status == 1 and "is a folder or a device, not a file; choose another --json" in result.err


# ---- pipes with a name


def test_a_pipe_is_a_text_once_and_never_waited_for_again(mlx_gpt):
    os.mkfifo("pipe")
    once = in_a_shell(f"train {' '.join(TINY[:-1])} --data=pipe", "& cat play.txt >pipe; wait $!")
    assert once.returncode == 0, once.stderr
    for command in (["train", "--resume=runs/1", "--num-iter=8"], ["eval"], ["prepare", "--data=pipe", "--out=tokens"]):
        result = mlx_gpt(*command)
        assert result.status == 1 and "pipe is a pipe and gives its text only once; pipe the text into" in result.err
    assert mlx_gpt("train", "--resume=runs/1", "--num-iter=8", "--data=play.txt").status == 0


# ---- names that command the terminal

EVIL = "a\x1b]0;pwned\x07\u202e\x9b31m\n.txt"
SHOWN = r"a\u001B]0;pwned\u0007\u202E\u009B31m\u000A.txt"


def test_what_a_run_says_of_its_text_does_not_command_the_terminal(mlx_gpt):
    Path(EVIL).write_text(Path("play.txt").read_text())
    folder = "run\x1b[31m"
    options = [*TINY[:-1], "--tied", "--activation=gelu"]
    results = [
        mlx_gpt("train", *options, f"--data={EVIL}", f"--run-dir={folder}"),
        *(mlx_gpt(command, f"--run={folder}") for command in ("eval", "config")),
        mlx_gpt("generate", "--tokens=3", f"--run={folder}"),
        mlx_gpt("export", f"--run={folder}", "--out=model"),
    ]
    Path(EVIL).unlink()
    gone = mlx_gpt("eval", f"--run={folder}")
    assert [each.status for each in results] == [0] * len(results) and gone.status == 1
    card = Path("model/README.md").read_text()
    for text in [each.out + each.err for each in (*results, gone)] + [card]:
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert all(
        SHOWN in text for text in (results[0].out, results[1].out, results[2].out, results[3].err, gone.err, card)
    )


# ---- signals


def begin(*arguments, until: bytes | None = None, **more) -> subprocess.Popen:
    process = in_a_process("-m", "mlx_nanogpt_cli", *arguments, **more)
    if until:
        while until.decode() not in process.stdout.readline():
            pass
    return process


def ended(process: subprocess.Popen) -> tuple[int, str]:
    with process:
        _, error = process.communicate(timeout=60)
    return process.returncode, error


def test_the_end_of_a_terminal_saves_as_ctrl_c_does():
    terminal, end = pty.openpty()

    def let_it_control() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    with open("error", "w") as error:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlx_nanogpt_cli", "train", *ENDLESS, "--eval-interval=1000000"],
            env=os.environ | {"XDG_CACHE_HOME": SESSION_CACHE},
            stdin=end, stdout=end, stderr=error, preexec_fn=let_it_control,
        )  # fmt: skip
    os.close(end)
    seen = b""
    try:
        while not re.search(rb"loss \d", seen) and select.select([terminal], [], [], 60)[0]:
            seen += os.read(terminal, 4096)
        os.close(terminal)
        process.send_signal(signal.SIGHUP)  # as a shell does, too
        assert process.wait(60) in (130, -signal.SIGHUP)
    finally:
        process.kill()
    assert open_run(Path("mine")).position().iteration > 0
    error = Path("error").read_text()
    assert is_quiet(error)


def test_what_was_ignored_from_the_start_stays_ignored():
    def as_nohup_does() -> None:
        for each in (signal.SIGHUP, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)

    process = begin("train", *ENDLESS, until=b"  train loss", preexec_fn=as_nohup_does)
    while not re.match(r" +\d", process.stdout.readline()):
        pass
    for each in (signal.SIGHUP, signal.SIGINT):
        process.send_signal(each)
    for _ in range(20):  # it goes on
        assert process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 130


@pytest.mark.parametrize("seconds", [0.15, 0.3, 0.45, 0.6, 1.0, 1.5])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_two_signals_at_any_time_are_no_traceback(seconds, second):
    process = begin("train", *ENDLESS)
    time.sleep(seconds)
    for each in (signal.SIGINT, second):
        process.send_signal(each)
    time.sleep(0.05)
    process.send_signal(second)  # one that came while MLX looked for a compiler is lost
    status, error = ended(process)
    assert status in (130, -signal.SIGINT, -signal.SIGTERM)
    assert is_quiet(error) or "mlx_nanogpt_cli" not in error  # Python itself was still starting


def test_a_second_ctrl_c_says_that_there_is_no_checkpoint():
    script = """if True:
        import sys, signal, mlx_nanogpt as gpt, mlx_nanogpt_cli
        def train(run, data, should_stop, *more, **others):
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
            yield
        gpt.train = train
        mlx_nanogpt_cli.main()"""
    status, error = ended(in_a_process("-c", script, "train", *ENDLESS))
    assert (status, error.splitlines()[1:]) == (
        130,
        ["Stopped at once; mine has no checkpoint, so --resume begins it anew."],
    )


def test_the_program_is_in_charge_of_signals_before_it_imports_anything_large():
    script = "import sys; before = set(sys.modules); import mlx_nanogpt_cli; print(*(set(sys.modules) - before))"
    with in_a_process("-c", script) as process:
        loaded = set(process.communicate(timeout=60)[0].split())
    assert "mlx_nanogpt_cli" in loaded and len(loaded) < 20
    assert not {"mlx_nanogpt", "mlx", "numpy", "typer", "rich"} & {each.partition(".")[0] for each in loaded}
