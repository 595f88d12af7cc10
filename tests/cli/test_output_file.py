"""The promises of --json and --out: a file of the user's own stays, unless --force says otherwise."""

from pathlib import Path

import pytest
from helpers import is_a_sentence
from mlx_nanogpt.measure import doctor
from mlx_nanogpt_cli.commands import doctor as doctor_command


@pytest.fixture(autouse=True)
def quick_doctor(monkeypatch):
    for module in (doctor, doctor_command):
        monkeypatch.setattr(module, "CHECKS", {"Sums": lambda: "all right"})


WRITERS = {
    "page": ("page", "--out"),
    "bench": ("bench", "--quick", "--data=play.txt", "--json"),
    "doctor": ("doctor", "--json"),
}


@pytest.mark.parametrize("words", WRITERS.values(), ids=WRITERS)
def test_a_file_of_ones_own_is_replaced_by_force_alone_and_a_file_of_the_program_at_once(
    mlx_gpt, run, small_protocol, words
):
    own = Path("notes.txt")
    own.write_text("precious")
    result = mlx_gpt(*words, own)
    assert is_a_sentence(result) and own.read_text() == "precious"
    assert "notes.txt is there already, and was not written by this program; choose another --" in result.err
    assert mlx_gpt(*words, own, "--force").status == 0
    replaced = own.read_text()
    assert "precious" not in replaced and mlx_gpt(*words, own).status == 0


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "config.json", "log.jsonl"])
def test_a_file_of_a_run_is_not_replaced(mlx_gpt, run, name):
    before = (run.path / name).read_bytes()
    assert is_a_sentence(mlx_gpt("page", "--out", run.path / name))
    assert (run.path / name).read_bytes() == before


def test_an_empty_file_is_replaced(mlx_gpt):
    Path("found.json").touch()
    assert mlx_gpt("doctor", "--json=found.json").status == 0 and Path("found.json").stat().st_size > 0
