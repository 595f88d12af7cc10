"""The promises of stopping and resuming: nothing is lost, and only settings that may change do."""

import re
import signal
from pathlib import Path

import pytest
from mlx_nanogpt import Done, open_run
from conftest import TEXT, TINY, asked, checkpoint_arrays, finish, in_a_process, same, tiny_run, trained_run
from helpers import NO_CORPUS, command_after, is_a_sentence, pipe, read_settings, read_until
from mlx_nanogpt_cli.commands import train
from mlx_nanogpt_cli.process.stop_request import STOPPING

RESUME = ["train", "--resume=runs/1"]


def test_ctrl_c_saves_and_prints_a_command_that_resumes(mlx_gpt):
    options = [*TINY, "--num-iter=100000", "--eval-interval=50", "--run-dir=a run"]  # more than any machine gets done
    with in_a_process("-m", "mlx_nanogpt_cli", "train", *options) as process:
        read_until(process, " +50 ")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, err) == (130, f"{STOPPING}\n")
    stopped_at = int(re.search(r"Stopped at iteration (\d+); everything is kept in a run\.", out).group(1))
    run = open_run(Path("a run"))
    assert 50 <= run.position().iteration == stopped_at < 100_000
    end = (stopped_at // 50 + 2) * 50
    assert mlx_gpt(*command_after("To resume:", out), f"--num-iter={end}").status == 0
    assert run.position().iteration == end
    assert [evaluation.iteration for evaluation in run.history()] == list(range(50, end + 1, 50))


@pytest.mark.parametrize("times", [1, 3, 5, 6, 10])
def test_a_run_stopped_anywhere_can_be_resumed(mlx_gpt, times):
    run = tiny_run(dropout=0.1)
    finish(run, asked(times))
    stopped_at = run.position().iteration
    result = mlx_gpt("train", f"--resume={run.path}")
    assert result.status == 0 and (f"runs/1, resumed at iteration {stopped_at}\n" in result.out) == (stopped_at > 0)
    assert same(checkpoint_arrays(run), checkpoint_arrays(trained_run(dropout=0.1)))


def test_a_run_without_a_checkpoint_is_started_over(mlx_gpt):
    tiny_run()
    assert "  Run       runs/1, started over: it has no checkpoint\n" in mlx_gpt(*RESUME).out


def test_resume_shows_the_rows_so_far_and_may_extend_the_run(mlx_gpt):
    assert "  Run       runs/1\n" in mlx_gpt("train", *TINY).out
    mlx_gpt("train", *TINY, "--num-iter=8")
    result = mlx_gpt(*RESUME, *TINY, "--num-iter=8")  # the settings it has may be repeated
    lines = [line.split()[0] for line in result.out.splitlines() if re.match(r" +\d+ +\d+\.\d{4} ", line)]
    assert lines == list("2468")
    assert read_settings("runs/1") == read_settings("runs/2")
    assert same(*(checkpoint_arrays(open_run(Path("runs") / name)) for name in "12"))


@pytest.mark.parametrize(
    "options, reason",
    [
        *(
            ([f"--{name.replace('_', '-')}={value}", "--num-iter=9"], f"{name} {own} and cannot be resumed with {value}")
            for name, own, value in (
                ("n_embd", 16, 32), ("n_layer", 1, 2), ("head_size", 8, 4), ("block_size", 8, 4), ("batch_size", 4, 8),
                ("seed", 5, 3),
            )
        ),
        ([], "at iteration 8 already; give a larger --num-iter"),
        (["--num-iter=7"], "at iteration 8 already; give a larger --num-iter"),
        (["--run-dir=other"], "--run-dir and --resume exclude each other"),
        (["--resume=nowhere"], "nowhere holds no run"),
        (["--num-iter=9", "--data=other.txt"], "learned from another text than other.txt holds now"),
    ],
)  # fmt: skip
def test_a_resume_that_cannot_be_is_a_sentence_and_changes_nothing(mlx_gpt, run, options, reason):
    Path("other.txt").write_text(TEXT[::-1])
    before = checkpoint_arrays(run)
    result = mlx_gpt(*RESUME, *options)
    assert is_a_sentence(result) and reason in result.err
    assert same(before, checkpoint_arrays(run)) and read_settings()["num_iter"] == 8


def test_a_new_run_does_not_replace_another(mlx_gpt, run):
    result = mlx_gpt("train", *TINY, "--run-dir=runs/1")
    assert is_a_sentence(result) and "runs/1 already holds a run" in result.err


# ---- the text of the run


def test_a_text_that_moved_is_asked_for(mlx_gpt, run):
    Path("play.txt").rename("moved.txt")
    result = mlx_gpt(*RESUME, "--num-iter=9")
    assert is_a_sentence(result) and "name it with --data where it is now" in result.err
    assert mlx_gpt(*RESUME, "--num-iter=9", "--data=moved.txt").status == 0


def test_a_run_on_several_texts_is_resumed_without_naming_them(mlx_gpt, halves):
    mlx_gpt("train", *NO_CORPUS, "--data=halves/1.txt", "--data=halves/2")
    assert mlx_gpt(*RESUME, "--num-iter=6").status == 0
    result = mlx_gpt(*RESUME, "--num-iter=8", "--data=halves/2", "--data=halves/1.txt")
    assert is_a_sentence(result) and "learned from another text than halves/2 + halves/1.txt" in result.err


def test_a_file_more_in_a_folder_is_another_text(mlx_gpt, halves):
    mlx_gpt("train", *NO_CORPUS, "--data=halves")
    Path("halves/3.txt").write_text("more")
    result = mlx_gpt(*RESUME, "--num-iter=6")
    assert is_a_sentence(result) and "learned from another text than halves holds now" in result.err


def test_a_run_kept_in_the_folder_of_its_text_is_resumed(mlx_gpt, halves):
    for _ in range(2):
        assert mlx_gpt("train", *NO_CORPUS, "--data=.").status == 0
    first, second = (open_run(Path("runs") / number) for number in "12")
    assert first.corpus == second.corpus
    assert mlx_gpt(*RESUME, "--num-iter=6").status == 0


def test_a_run_on_standard_input_needs_the_same_text_again(mlx_gpt, monkeypatch):
    pipe(monkeypatch, TEXT)
    assert mlx_gpt("train", *NO_CORPUS, "--data=-").status == 0
    for text, reason in (
        ("", "is empty; pipe the same text in"),
        (TEXT[::-1], "holds now; pipe the same text into it"),
    ):
        pipe(monkeypatch, text)
        result = mlx_gpt(*RESUME, "--num-iter=6")
        assert is_a_sentence(result) and f"standard input {reason}" in result.err
    pipe(monkeypatch, TEXT)
    assert mlx_gpt(*RESUME, "--num-iter=6").status == 0


# ---- the command to resume


def test_a_stopped_run_is_resumed_with_its_trackers(mlx_gpt, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setattr(train, "follow", lambda run, *_: (run, Done(4, "interrupted")))
    out = mlx_gpt("train", *TINY, "--report-to=tensorboard", "--report-to=tensorboard").out
    assert "  mlx-gpt train --resume runs/1 --report-to tensorboard\n" in out
    assert "  Trackers  tensorboard (look with tensorboard --logdir runs)\n" in out


def test_a_resumed_run_that_is_stopped_is_resumed_with_its_options(mlx_gpt, run, monkeypatch):
    Path("play.txt").rename("the play.txt")
    monkeypatch.setattr(train, "follow", lambda run, *_: (run, Done(4, "interrupted")))
    out = mlx_gpt(*RESUME, "--num-iter=9", "--data=the play.txt", "--device=cpu").out
    assert "  mlx-gpt train --resume runs/1 --data 'the play.txt' --device cpu\n" in out


def test_a_run_whose_rate_is_0_is_not_resumed_and_no_command_recommends_it(mlx_gpt):
    trained_run(schedule="cosine", lr_decay_iters=8)
    result = mlx_gpt("train", "--resume=runs/1", "--num-iter=16")
    assert is_a_sentence(result) and "is 0 from iteration 8 on, so it would learn nothing" in result.err
    assert "start a new run from its weights, with --init-from runs/1" in result.err
    listed = mlx_gpt("runs").out
    assert "--resume" not in listed and "mlx-gpt train --init-from runs/1\n" in listed


def test_a_run_stopped_in_its_last_evaluation_is_resumed_though_its_rate_is_0(mlx_gpt):
    run = tiny_run(lr_decay_iters=8, eval_interval=8)
    finish(run, asked(9))  # after the last step
    assert run.position().iteration == 8 and not run.history()
    assert mlx_gpt(*RESUME).status == 0 and run.history()


def test_a_run_is_resumed_from_another_folder(mlx_gpt, monkeypatch):
    mlx_gpt("train", *TINY)
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    result = mlx_gpt("train", "--resume=../runs/1", "--num-iter=8")
    assert result.status == 0 and "resumed at iteration 4" in result.out
