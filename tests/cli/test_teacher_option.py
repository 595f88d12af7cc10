"""The promises of --teacher: the header names the teachers, and a file of settings repeats them."""

from pathlib import Path

import mlx_nanogpt as gpt
from conftest import TINY, checkpoint_arrays, same, trained_run
from helpers import is_a_sentence


def test_the_command_line_names_teachers_and_repeats_them_from_a_file(mlx_gpt):
    trained_run(), trained_run(seed=6)
    options = [*TINY[:-1], "--data=play.txt", "--seed=3"]
    result = mlx_gpt("train", *options, "--teacher=1", "--teacher=runs/2", "--distill=0.5")
    assert result.status == 0 and "Teachers  runs/1, runs/2: 0.5 of the loss is from what they expect" in result.out
    Path("again.toml").write_text(mlx_gpt("config", "3").out)
    assert mlx_gpt("train", "--config=again.toml").status == 0
    assert same(*(checkpoint_arrays(gpt.open_run(number)) for number in (3, 4)))
    result = mlx_gpt("train", *options, "--distill=0.5")
    assert (is_a_sentence(result) and "give --teacher" in result.err) or "--teacher" in result.err
    assert is_a_sentence(mlx_gpt("train", "--resume=3", "--teacher=1", "--num-iter=6"))
