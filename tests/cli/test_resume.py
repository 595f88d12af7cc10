"""The promises of stopping and going on: nothing is lost, and only what may change changes."""

import re
import signal
from pathlib import Path

import pytest
from mlx_nanogpt import Done, open_run
from conftest import TEXT, TINY, asked, checkpoint_arrays, finish, in_a_process, same, tiny_run, trained_run
from helpers import NO_CORPUS, command_after, is_a_sentence, pipe, recorded
from mlx_nanogpt_cli.commands import train
from mlx_nanogpt_cli.process.stop_request import STOPPING


def test_ctrl_c_saves_and_prints_a_command_that_goes_on(mlx_gpt):
    options = [*TINY, "--num-iter=100000", "--eval-interval=50", "--run-dir=a run"]  # more than any machine gets done
    with in_a_process("-m", "mlx_nanogpt_cli", "train", *options) as process:
        head = ""
        while not re.search(r"^ +50 ", head, re.M) and (line := process.stdout.readline()):
            head += line
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == f"{STOPPING}\n"
    stopped_at = int(re.search(r"Stopped at iteration (\d+); everything is kept in a run\.", out).group(1))
    run = open_run(Path("a run"))
    assert 50 <= run.position().iteration == stopped_at < 100_000
    end = (stopped_at // 50 + 2) * 50
    result = mlx_gpt(*command_after("Go on with:", out), f"--num-iter={end}")
    assert result.status == 0
    assert run.position().iteration == end
    assert [each.iteration for each in run.history()] == list(range(50, end + 1, 50))


def test_a_kill_saves_as_ctrl_c_does():
    options = [*TINY, "--num-iter=100000", "--eval-interval=50", "--run-dir=mine"]
    with in_a_process("-m", "mlx_nanogpt_cli", "train", *options) as process:
        while (line := process.stdout.readline()) and not re.match(" +50 ", line):
            pass
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 130 and open_run(Path("mine")).position().iteration >= 50


def test_a_resumed_run_says_where_it_goes_on(mlx_gpt):
    assert "  Run       runs/1\n" in mlx_gpt("train", *TINY).out
    assert "runs/1, going on from iteration 4\n" in mlx_gpt("train", "--resume=runs/1", "--num-iter=6").out


def test_a_run_without_a_checkpoint_says_that_it_begins_again(mlx_gpt):
    tiny_run()
    assert (
        "  Run       runs/1, from its beginning, for it has no checkpoint\n" in mlx_gpt("train", "--resume=runs/1").out
    )


@pytest.mark.parametrize("times", [1, 3, 5, 6, 10])
def test_a_run_stopped_anywhere_can_be_resumed(mlx_gpt, times):
    run = tiny_run(dropout=0.1)
    finish(run, asked(times))
    assert mlx_gpt("train", f"--resume={run.path}").status == 0
    assert same(checkpoint_arrays(run), checkpoint_arrays(trained_run(dropout=0.1)))


def test_resume_shows_the_rows_so_far_and_may_extend_the_run(mlx_gpt):
    mlx_gpt("train", *TINY)
    mlx_gpt("train", *TINY, "--num-iter=8")
    result = mlx_gpt("train", "--resume=runs/1", "--num-iter=8")
    assert [line.split()[0] for line in result.out.splitlines() if re.match(r" +\d+ +\d+\.\d{4} ", line)] == list(
        "2468"
    )
    assert recorded("runs/1") == recorded("runs/2")
    assert same(*(checkpoint_arrays(open_run(Path("runs") / name)) for name in "12"))


@pytest.mark.parametrize(
    "option", ["--n-embd=32", "--n-layer=2", "--head-size=4", "--block-size=4", "--batch-size=8", "--seed=3"]
)
def test_resume_with_another_shape_is_refused(mlx_gpt, option):
    mlx_gpt("train", *TINY)
    before = checkpoint_arrays(open_run(Path("runs/1")))
    result = mlx_gpt("train", "--resume=runs/1", "--num-iter=8", option)
    name, value = option.lstrip("-").replace("-", "_").split("=")
    assert is_a_sentence(result) and f"has {name} " in result.err and f"cannot go on with {value}" in result.err
    assert same(before, checkpoint_arrays(open_run(Path("runs/1")))) and recorded()["num_iter"] == 4


def test_resume_may_repeat_what_the_run_has_already(mlx_gpt):
    mlx_gpt("train", *TINY)
    assert mlx_gpt("train", *TINY, "--resume=runs/1", "--num-iter=6").status == 0


def test_resume_with_a_changed_text_is_refused(mlx_gpt):
    mlx_gpt("train", *TINY)
    Path("play.txt").write_text(TEXT[::-1])
    result = mlx_gpt("train", "--resume=runs/1", "--num-iter=8")
    assert is_a_sentence(result) and "learned from another text" in result.err


def test_resume_finds_a_text_that_moved(mlx_gpt):
    mlx_gpt("train", *TINY)
    Path("play.txt").rename("moved.txt")
    assert is_a_sentence(mlx_gpt("train", "--resume=runs/1", "--num-iter=8"))
    assert mlx_gpt("train", "--resume=runs/1", "--num-iter=8", "--data=moved.txt").status == 0


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--resume=runs/1"], "at iteration 4 already; give a larger --num-iter"),
        (["--resume=runs/1", "--num-iter=3"], "at iteration 4 already; give a larger --num-iter"),
        (["--resume=runs/1", "--run-dir=other"], "--run-dir and --resume exclude each other"),
        (["--resume=nowhere"], "nowhere holds no run"),
        (["--run-dir=runs/1"], "runs/1 already holds a run"),
    ],
)
def test_a_resume_that_cannot_be_says_why(mlx_gpt, options, reason):
    mlx_gpt("train", *TINY)
    result = mlx_gpt("train", *(TINY if "--run-dir=runs/1" in options else []), *options)
    assert is_a_sentence(result) and reason in result.err


# ---- the text of the run


def test_a_run_on_several_texts_is_resumed_without_naming_them(mlx_gpt, halves):
    mlx_gpt("train", *NO_CORPUS, "--data=halves/1.txt", "--data=halves/2")
    assert mlx_gpt("train", "--resume=runs/1", "--num-iter=6").status == 0
    result = mlx_gpt("train", "--resume=runs/1", "--num-iter=8", "--data=halves/2", "--data=halves/1.txt")
    assert is_a_sentence(result) and "learned from another text than halves/2 + halves/1.txt" in result.err


def test_a_file_more_in_a_folder_is_another_text(mlx_gpt, halves):
    mlx_gpt("train", *NO_CORPUS, "--data=halves")
    Path("halves/3.txt").write_text("more")
    result = mlx_gpt("train", "--resume=runs/1", "--num-iter=6")
    assert is_a_sentence(result) and "learned from another text than halves holds now" in result.err


def test_a_run_kept_in_the_folder_of_its_text_is_resumed(mlx_gpt, halves):
    for _ in range(2):
        assert mlx_gpt("train", *NO_CORPUS, "--data=.").status == 0
    first, second = (open_run(Path("runs") / number) for number in "12")
    assert first.corpus == second.corpus
    assert mlx_gpt("train", "--resume=runs/1", "--num-iter=6").status == 0


def test_a_run_on_standard_input_needs_the_same_text_again(mlx_gpt, monkeypatch):
    pipe(monkeypatch, TEXT)
    assert mlx_gpt("train", *NO_CORPUS, "--data=-").status == 0
    pipe(monkeypatch, "")
    result = mlx_gpt("train", "--resume=runs/1", "--num-iter=6")
    assert is_a_sentence(result) and "standard input is empty; pipe the same text in" in result.err
    pipe(monkeypatch, TEXT[::-1])
    result = mlx_gpt("train", "--resume=runs/1", "--num-iter=6")
    assert is_a_sentence(result) and "standard input holds now; pipe the same text into it" in result.err
    pipe(monkeypatch, TEXT)
    assert mlx_gpt("train", "--resume=runs/1", "--num-iter=6").status == 0


def test_a_text_that_moved_is_asked_for(mlx_gpt):
    mlx_gpt("train", *NO_CORPUS, "--data=play.txt")
    Path("play.txt").rename("moved.txt")
    result = mlx_gpt("train", "--resume=runs/1", "--num-iter=6")
    assert is_a_sentence(result) and "name it with --data where it is now" in result.err
    assert mlx_gpt("train", "--resume=runs/1", "--num-iter=6", "--data=moved.txt").status == 0


def test_a_run_that_is_stopped_goes_on_with_its_trackers(mlx_gpt, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setattr(train, "follow", lambda run, *_: Done(4, "interrupted", run.path))
    out = mlx_gpt("train", *TINY, "--report-to=tensorboard", "--report-to=tensorboard").out
    assert "  mlx-gpt train --resume runs/1 --report-to tensorboard\n" in out
    assert "  Trackers  tensorboard (look with tensorboard --logdir runs)\n" in out


def test_a_resumed_run_that_is_stopped_goes_on_with_the_options_it_was_given(mlx_gpt, monkeypatch):
    mlx_gpt("train", *NO_CORPUS, "--data=play.txt")
    Path("play.txt").rename("the play.txt")
    monkeypatch.setattr(train, "follow", lambda run, *_: Done(4, "interrupted", run.path))
    out = mlx_gpt("train", "--resume=runs/1", "--num-iter=6", "--data=the play.txt", "--device=cpu").out
    assert "  mlx-gpt train --resume runs/1 --data 'the play.txt' --device cpu\n" in out
