"""The promises of `mlx-gpt bench`: it shows the table, writes what it measured, and warns of figures that say little."""

import json
from pathlib import Path

from mlx_nanogpt.measure import benchmark
from mlx_nanogpt_cli.screen import tables


def test_the_command_shows_the_table_and_writes_what_it_measured(small_protocol, mlx_gpt):
    result = mlx_gpt("bench", "--quick", "--data=pastiche", "--json=bench.json")
    assert result.status == 0
    for expected in ("Reactant", "compiled", "eager", "Extrapolated", "on pastiche", "tokens/s", "Written: bench.json"):
        assert expected in result.out
    written = json.loads(Path("bench.json").read_text())
    assert written["corpus"] == "pastiche" and written["machine"]["cores"] >= 1
    assert written["backends"][0]["step_seconds"]["rounds"] == 2


def test_figures_that_say_little_are_named_with_the_remedy(small_protocol, mlx_gpt, monkeypatch):
    def rounds(work, number=None) -> list[float]:
        evaluated = work(1)  # nothing else returns something
        return [1.0, 1.0, 2.0, 2.0] if evaluated else [1.0, 1.0]

    monkeypatch.setattr(benchmark, "_rounds", rounds)
    monkeypatch.setattr(benchmark, "_rate", lambda times: 5.0)
    out = mlx_gpt("bench", "--quick", "--data=play.txt", "--json=bench.json").out
    warning = next(line for line in out.splitlines() if line.startswith("Warning: "))
    assert warning == (
        "Warning: half of the rounds differ by more than 20% in compiled evaluation, eager evaluation. These figures say "
        "little; close other programs and measure again."
    )
    compiled = json.loads(Path("bench.json").read_text())["backends"][0]
    assert not compiled["evaluation_seconds_per_window"]["steady"] and compiled["step_seconds"]["steady"]


def test_steady_figures_are_shown_without_a_warning(small_protocol, mlx_gpt, monkeypatch):
    monkeypatch.setattr(benchmark, "_rounds", lambda work, number=None: [1.0, 1.1])
    monkeypatch.setattr(benchmark, "_rate", lambda times: 5.0)
    assert "Warning" not in mlx_gpt("bench", "--quick", "--data=play.txt").out


def test_a_result_that_cannot_be_written_is_a_sentence(small_protocol, mlx_gpt):
    result = mlx_gpt("bench", "--quick", "--data=play.txt", "--json=play.txt/bench.json")
    assert result.status == 1 and "play.txt/bench.json cannot be written" in result.err


def test_a_gpu_that_rounds_products_is_named_beside_the_losses(small_protocol, mlx_gpt, monkeypatch):
    assert "TF32" not in mlx_gpt("bench", "--quick", "--data=play.txt").out
    monkeypatch.setattr(tables, "rounds_products", lambda: True)
    assert "with MLX_ENABLE_TF32=0 the losses are exact" in mlx_gpt("bench", "--quick", "--data=play.txt").out
