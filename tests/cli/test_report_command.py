"""The promises of `mlx-gpt report`: a file for any run, and a sentence where there can be none."""

import errno
import os
from pathlib import Path

import mlx_nanogpt as gpt
import pytest
from conftest import DATA, TINY, tiny_run, trained_run
from helpers import is_a_sentence

pytest.importorskip("plotly")


def test_it_writes_a_page_on_the_newest_run(mlx_gpt, run):
    result = mlx_gpt("report")
    assert result.status == 0 and result.out.startswith("The report on runs/1 is report.html (")
    page = Path("report.html").read_text()
    for fact in ("play.txt", "Best validation loss", "8 iterations of 4 x 8 = 32 tokens", "mlx-nanogpt"):
        assert fact in page
    assert f"{min(line.valid_loss for line in run.history()):.4f} after" in page


def test_it_compares_runs_in_the_file_that_is_asked_for(mlx_gpt, run):
    trained_run(n_layer=1)
    assert mlx_gpt("report", "runs/1", "runs/2", "--out=both.html").status == 0
    page = Path("both.html").read_text()
    for words in ("Report on runs/1, runs/2", "n_layer 1"):
        assert words in page


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (["runs/7"], "runs/7 holds no run"),
        (
            ["--out=nowhere/report.html"],
            "nowhere/report.html cannot be written (its folder is missing or read-only); choose another --out",
        ),
    ],
)
def test_a_report_that_cannot_be_is_a_sentence(mlx_gpt, run, arguments, reason):
    result = mlx_gpt("report", *arguments)
    assert is_a_sentence(result) and reason in result.err and not Path("report.html").exists()


def test_a_run_without_weights_has_a_report(mlx_gpt):
    tiny_run()
    assert mlx_gpt("report", "runs/1").status == 0
    assert "No evaluation is recorded yet." in Path("report.html").read_text()


def test_a_run_of_the_users_own_model_has_a_report(mlx_gpt):
    class OwnGPT(gpt.GPT):
        pass

    run = tiny_run()
    assert list(gpt.train(run, DATA, model=OwnGPT(run.gpt_config)))
    assert mlx_gpt("report", "runs/1").status == 0
    assert "Best validation loss" in Path("report.html").read_text()


def test_the_name_of_a_text_need_not_be_utf8(mlx_gpt):
    name = os.fsdecode(b"caf\xe9.txt")
    try:
        Path("play.txt").rename(name)
    except OSError as error:
        assert error.errno == errno.EILSEQ
        pytest.skip("this disk takes names in UTF-8 alone, as a Mac's does")
    assert mlx_gpt("train", *TINY[:-1], f"--data={name}").status == 0
    for command in (["report"], ["page"]):
        assert mlx_gpt(*command).status == 0
    assert all("caf\\udce9.txt" in Path(page).read_text() for page in ("report.html", "model.html"))
