"""Helpers of the tests of the command line: the settings of a run, the output of a command, a text on standard input."""

import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

from conftest import NOBODY, TINY

HOST = NOBODY.split("/")[2]


NO_CORPUS = TINY[:-1]  # TINY without --data


def read_settings(run: str = "runs/1") -> dict:
    config = json.loads((Path(run) / "config.json").read_text())
    return config["gpt"] | config["train"] | {"sources": config["corpus"]["sources"]}


def command_after(words: str, output: str) -> list[str]:
    """The arguments of the command that `output` names after `words`."""
    program, *arguments = shlex.split(re.search(rf"{words}\s+(mlx-gpt .*?)(?:  .*)?$", output, re.M).group(1))
    return arguments


def is_a_sentence(result) -> bool:
    """Whether the program ended as it does for a mistake of the user's: with one line that explains it, no traceback."""
    return result.status == 1 and result.err.splitlines()[-1].startswith("Error: ") and "Traceback" not in result.err


def rows(out: str) -> dict[str, list[str]]:
    """The rows of the tables of `mlx-gpt eval`; those of a later table replace those of an earlier one."""
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    return {name.removeprefix("> "): values for name, *values in cells}


def pipe(monkeypatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode(errors="surrogateescape"))))


def read_until(process: subprocess.Popen, pattern: str) -> str:
    """Read the output of `process` up to the end of the first line that matches; return it."""
    text = ""
    for line in iter(process.stdout.readline, ""):
        text += line
        if re.match(pattern, line):
            return text
    raise AssertionError(text)
