"""The promises of `mlx-gpt bench`: it shows the table, writes its measurements, and warns of figures that are unreliable."""

import json
from pathlib import Path

import pytest
from mlx_nanogpt.measure import benchmark, timing
from mlx_nanogpt_cli.commands import bench

QUICK = ["bench", "--quick", "--json=bench.json"]


def test_the_command_shows_the_table_and_writes_its_measurements(small_protocol, mlx_gpt):
    result = mlx_gpt(*QUICK, "--data=pastiche")
    assert result.status == 0
    for expected in ("compiled", "eager", "extrapolated", "here on pastiche", "tokens/s", "Written: bench.json"):
        assert expected in result.out
    for published in ("Reactant", "Zygote", "M4 Pro", "504.00 s", "873.00 s", "1.7820", "1.7811"):
        assert published in result.out
    assert all(result.out.count(metric) == 1 for metric in bench.METRICS.values())
    written = json.loads(Path("bench.json").read_text())
    assert written["corpus"] == "pastiche" and written["machine"]["cores"] >= 1
    assert written["backends"][0]["step_seconds"]["rounds"] == 2


@pytest.mark.parametrize("steady", [True, False])
def test_figures_that_are_unreliable_are_named_with_the_remedy(small_protocol, mlx_gpt, monkeypatch, steady):
    def rounds(work, number=None) -> list[float]:
        evaluated = work(1)  # nothing else returns something
        return [1.0, 1.0, 2.0, 2.0] if evaluated and not steady else [1.0, 1.1]

    for module in (benchmark, timing):
        monkeypatch.setattr(module, "time_rounds", rounds)
    monkeypatch.setattr(timing, "_compute_rate", lambda times: 5.0)
    out = mlx_gpt(*QUICK, "--data=play.txt").out
    assert [line for line in out.splitlines() if line.startswith("Warning: ")] == [
        "Warning: half of the rounds differ by more than 20% in compiled evaluation, eager evaluation. These figures are "
        "unreliable; close other programs and measure again."
    ] * (not steady)
    compiled = json.loads(Path("bench.json").read_text())["backends"][0]
    assert compiled["evaluation_seconds_per_window"]["steady"] == steady and compiled["step_seconds"]["steady"]


@pytest.mark.parametrize(
    "name, reason",
    [("play.txt/bench.json", "cannot be written"), (".", "is a folder or a device, not a file; choose another --json")],
)
def test_a_result_that_cannot_be_written_is_not_measured(mlx_gpt, name, reason):
    result = mlx_gpt("bench", "--quick", "--data=play.txt", f"--json={name}")
    assert result.status == 1 and f"{name} {reason}" in result.err
