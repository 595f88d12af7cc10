"""`mlx-gpt doctor`: checks that this machine is right, and as fast as it should be."""

import platform
from dataclasses import asdict

import typer
from mlx_nanogpt.machine import describe_device
from mlx_nanogpt.measure.benchmark import describe_measurement
from mlx_nanogpt.measure.doctor import CHECKS, Check, examine

from ..options.shared import DeviceOption, use_device
from ..screen.consoles import console, fold, make_spinner, print_header
from ..screen.describe import describe_versions
from ..screen.output_file import JsonOption, check_replaceable, write_json

MARKS = {True: ("\N{CHECK MARK}", "green"), False: ("\N{BALLOT X}", "bold red")}


def doctor(device: DeviceOption = "auto", json_file: JsonOption = None) -> None:
    """Check that this machine computes, saves and resumes as it should.

    The exit status is 1 if a check fails. Please report a failure, and a Mac of any kind, with the last line.
    """
    use_device(device)
    check_replaceable(json_file, "json")
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
    failed = [check.name for check in checks if not check.passed]
    machine = describe_measurement()
    write_json(json_file, {"machine": machine, "checks": [asdict(check) for check in checks]})
    verdict = f"failed: {', '.join(failed)}" if failed else f"all {len(checks)} checks passed"
    console.print(f"\n{verdict[0].upper()}{verdict[1:]}.", style="bold red" if failed else "bold")
    console.print("To paste into an issue:")
    console.print(
        f"  {describe_device()}; {platform.platform()}; {describe_versions()}; {verdict}; {checks[-1].detail}",
        soft_wrap=True,
    )
    if failed:
        raise typer.Exit(1)


def _print(check: Check) -> None:
    sign, style = MARKS[check.passed]
    text = fold(f"{sign} {check.name}: {check.detail}", "", "  ")
    text.stylize(style, 0, len(sign))
    console.print(text)
