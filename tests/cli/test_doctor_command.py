"""The promises of `mlx-gpt doctor`: a line for each check, a line for an issue, and a true exit status."""

import json
import urllib.parse
from pathlib import Path

import pytest
from helpers import is_a_sentence
from mlx_nanogpt.measure import doctor
from mlx_nanogpt_cli.commands import doctor as command

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checks(monkeypatch):
    """The two checks that the doctor makes: the second may fail."""

    def arrange(second) -> None:
        made = {"Sums": lambda: "all right", "Products": second}
        for module in (doctor, command):
            monkeypatch.setattr(module, "CHECKS", made)
        monkeypatch.setattr(command, "repository", lambda: None)
        monkeypatch.setattr(command, "make_notes", list)

    return arrange


def breaks() -> str:
    raise doctor.Wrong("2 x 2 is 5")


def test_a_healthy_machine_has_a_line_for_each_check_and_exit_status_0(mlx_gpt, checks):
    checks(lambda: "fine, too")
    result = mlx_gpt("doctor", "--json=found.json")
    assert result.status == 0
    assert "✓ Sums: all right\n✓ Products: fine, too\n" in result.out
    assert "; all 2 checks passed; fine, too\n" in result.out.split("To paste into an issue, ")[1]
    found = json.loads(Path("found.json").read_text())
    assert [(check["name"], check["passed"]) for check in found["checks"]] == [("Sums", True), ("Products", True)]
    assert {"chip", "versions", "os"} <= found["machine"].keys() and found["notes"] == []


def test_notes_are_printed_and_sent_but_fail_nothing(mlx_gpt, checks, monkeypatch):
    checks(lambda: "fine, too")
    monkeypatch.setattr(command, "make_notes", lambda: ["Low Power Mode is on"])
    result = mlx_gpt("doctor", "--json=found.json")
    assert result.status == 0 and "\nNote: Low Power Mode is on.\n" in result.out
    assert "; all 2 checks passed; Low Power Mode is on; fine, too" in result.out.splitlines()[-1]
    assert json.loads(Path("found.json").read_text())["notes"] == ["Low Power Mode is on"]


def test_the_last_line_is_the_address_of_the_issue_form_filled_in(mlx_gpt, checks, monkeypatch):
    checks(lambda: "fine, too")
    monkeypatch.setattr(command, "repository", lambda: "https://github.com/me/gpt")
    *_, line, _, address = mlx_gpt("doctor").out.splitlines()
    url = urllib.parse.urlsplit(address.strip())
    assert (url.netloc, url.path) == ("github.com", "/me/gpt/issues/new")
    form = (ROOT / ".github/ISSUE_TEMPLATE/benchmark.yml").read_text()
    query = dict(urllib.parse.parse_qsl(url.query))
    assert query == {"template": "benchmark.yml", "doctor": line.strip()} and "\n    id: doctor\n" in form
    assert command.QUICK_BENCH in form


CONFIG = """[submodule "other"]
	url = https://github.com/them/other
[remote "upstream"]
	url = https://github.com/them/gpt
[remote "origin"]
	# url = https://github.com/old/one
	url = {}
	fetch = +refs/heads/*:refs/remotes/origin/*
"""


@pytest.mark.parametrize(
    "address, repository",
    [
        ("git@github.com:me/my-gpt.git", "https://github.com/me/my-gpt"),
        ("https://github.com/me/my-gpt/", "https://github.com/me/my-gpt"),
        ("https://notgithub.com/x/y", None),
        ("/home/me/gpt", None),
    ],
)
def test_the_repository_is_the_origin_of_the_checkout(monkeypatch, tmp_path, address, repository):
    monkeypatch.setattr(command, "__file__", str(tmp_path / "cli/commands/doctor.py"))
    assert command.repository() is None
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/config").write_text(CONFIG.format(address))
    assert command.repository() == repository


def test_the_repository_of_a_released_package_is_in_its_metadata(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "__file__", str(tmp_path / "cli/commands/doctor.py"))
    monkeypatch.setattr(command, "metadata", lambda _: Message("Repository, https://github.com/me/my-gpt"))
    assert command.repository() == "https://github.com/me/my-gpt"


class Message:
    """The metadata of a package with one address."""

    def __init__(self, line: str):
        self.line = line

    def get_all(self, name: str) -> list[str]:
        return [self.line] if name == "Project-URL" else []


def test_a_failure_has_its_reason_and_exit_status_1(mlx_gpt, checks):
    checks(breaks)
    result = mlx_gpt("doctor")
    assert result.status == 1 and "✗ Products: 2 x 2 is 5\n" in result.out
    assert "; failed: Products; " in result.out.splitlines()[-1] and "\nFailed: Products.\n" in result.out


def test_a_file_that_cannot_be_written_is_a_sentence_before_anything_is_checked(mlx_gpt, checks):
    checks(lambda: pytest.fail("checked"))
    result = mlx_gpt("doctor", "--json=nowhere/found.json")
    assert is_a_sentence(result) and "nowhere/found.json cannot be written" in result.err
