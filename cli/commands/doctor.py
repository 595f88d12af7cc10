"""`mlx-gpt doctor`: checks that this machine is right, and as fast as it should be."""

import platform
import re
import urllib.parse
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import metadata
from pathlib import Path

import typer
from mlx_nanogpt.machine import describe_device
from mlx_nanogpt.measure.benchmark import describe_measurement
from mlx_nanogpt.measure.doctor import CHECKS, Check, examine
from mlx_nanogpt.measure.notes import make_notes

from ..options.shared import DeviceOption, use_device
from ..screen.consoles import console, fold, make_spinner, print_header, print_notes
from ..screen.describe import describe_versions
from ..screen.output_file import ForceOption, JsonOption, check_replaceable, write_json

FORM, FIELD = "benchmark.yml", "doctor"  # of .github/ISSUE_TEMPLATE: the file, and the field for the line to paste
QUICK_BENCH = "mlx-gpt bench --quick --json my-machine.json"
MARKS = {True: ("\N{CHECK MARK}", "green"), False: ("\N{BALLOT X}", "bold red")}


def doctor(device: DeviceOption = "auto", json_file: JsonOption = None, force: ForceOption = False) -> None:
    """Check that this machine computes, saves and resumes as it should.

    The exit status is 1 if a check fails. Please report a failure, and a Mac of any kind, with the last line.
    """
    use_device(device)
    check_replaceable(json_file, "json", force)
    print_header("mlx-gpt doctor", {"Device": describe_device(), "Versions": describe_versions()})
    console.print()
    checks = []
    with make_spinner() as bar:
        names = iter([*CHECKS, ""])
        task = bar.add_task(next(names))
        for check in examine():
            bar.update(task, description=next(names))
            checks.append(check)
            _print(check)
    failed, notes = [check.name for check in checks if not check.passed], make_notes()
    machine = describe_measurement()
    write_json(json_file, {"machine": machine, "checks": [asdict(check) for check in checks], "notes": notes})
    verdict = f"failed: {', '.join(failed)}" if failed else f"all {len(checks)} checks passed"
    console.print(f"\n{verdict[0].upper()}{verdict[1:]}.", style="bold red" if failed else "bold")
    print_notes(notes)
    line = f"{describe_device()}; {platform.platform()}; {describe_versions()}; {'; '.join([verdict, *notes, checks[-1].detail])}"
    _print_report(line)
    if failed:
        raise typer.Exit(1)


def _print(check: Check) -> None:
    sign, style = MARKS[check.passed]
    text = fold(f"{sign} {check.name}: {check.detail}", "", "  ")
    text.stylize(style, 0, len(sign))
    console.print(text)


def _print_report(line: str) -> None:
    """Print `line`, which describes this machine, and where to send it."""
    console.print(f"\nTo paste into an issue, with the file that {QUICK_BENCH} writes in a minute:")
    console.print(f"  {line}", soft_wrap=True)
    if address := repository():
        console.print("This address opens the issue with the line in it:")
        console.print(f"  {address}/issues/new?template={FORM}&{FIELD}={urllib.parse.quote(line)}", soft_wrap=True)


def repository() -> str | None:
    """The address of this project's repository: that of the installed package, or the origin of the checkout; None if neither is on
    GitHub."""
    addresses = metadata("mlx-nanogpt").get_all("Project-URL") or []
    with suppress(OSError):
        config = (Path(__file__).parents[2] / ".git/config").read_text(encoding="utf-8", errors="replace")
        origin = re.search(r'^\[remote "origin"\]\n((?:[ \t].*\n?)*)', config, re.MULTILINE)
        addresses += re.findall(r"^\s*url = (.*)$", origin[1], re.MULTILINE) if origin else []
    names = (re.search(r"(?:^|[ @/])github\.com[/:]([\w.-]+/[\w.-]+?)(\.git)?/?$", line.strip()) for line in addresses)
    return next((f"https://github.com/{name[1]}" for name in names if name), None)
