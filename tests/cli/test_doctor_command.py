"""The promises of `mlx-gpt doctor`: a line for each check, a line for an issue, and a true exit status."""

import json
from pathlib import Path

import pytest
from helpers import is_a_sentence
from mlx_nanogpt.measure import doctor
from mlx_nanogpt_cli.commands import doctor as command


@pytest.fixture
def checks(monkeypatch):
    """The two checks that the doctor makes: the second may fail."""

    def arrange(second) -> None:
        made = {"Sums": lambda: "all right", "Products": second}
        for module in (doctor, command):
            monkeypatch.setattr(module, "CHECKS", made)

    return arrange


def breaks() -> str:
    raise doctor.Wrong("2 x 2 is 5")


def test_a_healthy_machine_has_a_line_for_each_check_and_exit_status_0(mlx_gpt, checks):
    checks(lambda: "fine, too")
    result = mlx_gpt("doctor", "--json=found.json")
    assert result.status == 0
    assert "✓ Sums: all right\n✓ Products: fine, too\n" in result.out
    assert "; all 2 checks passed; fine, too\n" in result.out.split("To paste into an issue:")[1]
    found = json.loads(Path("found.json").read_text())
    assert [(check["name"], check["passed"]) for check in found["checks"]] == [("Sums", True), ("Products", True)]
    assert {"chip", "versions", "os"} <= found["machine"].keys()


def test_a_failure_has_its_reason_and_exit_status_1(mlx_gpt, checks):
    checks(breaks)
    result = mlx_gpt("doctor")
    assert result.status == 1 and "✗ Products: 2 x 2 is 5\n" in result.out
    assert "; failed: Products; " in result.out.splitlines()[-1] and "\nFailed: Products.\n" in result.out


def test_a_file_that_cannot_be_written_is_a_sentence_before_anything_is_checked(mlx_gpt, checks):
    checks(lambda: pytest.fail("checked"))
    result = mlx_gpt("doctor", "--json=nowhere/found.json")
    assert is_a_sentence(result) and "nowhere/found.json cannot be written" in result.err
