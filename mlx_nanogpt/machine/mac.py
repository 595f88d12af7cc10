"""Facts about a Mac that MLX does not know. Each comes from a command of macOS that changes nothing and opens no dialog.

Imports nothing of this project: `metal.py` needs it before MLX starts. No Mac has run it yet.
"""

import os
import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

SECONDS = 5  # for an answer
CLOUDS = {"Library/Mobile Documents": "iCloud Drive", "Library/CloudStorage": "a cloud service"}
# Attributes of Desktop and Documents in iCloud Drive, before macOS 15 and from then on.
SYNCHRONISED = "com.apple.icloud.desktop", "com.apple.file-provider-domain-id"


def ask_macos(*command: str) -> str:
    """The output of a command; empty if it fails."""
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", timeout=SECONDS)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def brand() -> str:
    """The name of the chip, such as "Apple M4 Pro"; empty if it cannot be had."""
    return ask_macos("/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string")


@cache
def has_tools() -> bool:
    """Whether Apple's command line tools are there. Without them g++, clang and git are stand-ins that open a dialog to install
    them."""
    folder = ask_macos("/usr/bin/xcode-select", "-p")
    return bool(folder) and os.path.isdir(folder)


def wrong_installation() -> str | None:
    """The reason why MLX cannot work as it is installed, with the remedy."""
    if platform.machine() != "arm64":
        rosetta = ask_macos("/usr/sbin/sysctl", "-n", "sysctl.proc_translated") == "1"
        remedy = "install Python for Apple silicon" if rosetta else "MLX needs a Mac with Apple silicon"
        return f"this Python runs as {platform.machine()}{', under Rosetta' if rosetta else ''}; {remedy}"
    with suppress(PackageNotFoundError):  # another build of MLX
        mlx, metal = version("mlx"), version("mlx-metal")
        if mlx != metal:
            return f"mlx {mlx} and mlx-metal {metal} do not belong together; run pip install --force-reinstall mlx"
    return None


def power_notes() -> list[str]:
    """Return sentences about what slows this Mac down now."""
    notes = []
    if "Battery Power" in ask_macos("/usr/bin/pmset", "-g", "batt"):
        notes.append("this Mac runs on its battery, and may be slower than with power")
    settings = dict(
        line.split()[:2] for line in ask_macos("/usr/bin/pmset", "-g").splitlines() if len(line.split()) >= 2
    )
    if "1" in (settings.get("lowpowermode"), settings.get("powermode")):  # the second on the Pro and Max chips
        notes.append("Low Power Mode is on, which slows training: see System Settings, Battery")
    return notes


def cloud(folder: Path) -> str | None:
    """The cloud that keeps a copy of `folder`; None if there is none."""
    inside = folder.resolve()
    for part, name in CLOUDS.items():
        if Path.home() / part in (inside, *inside.parents):
            return name
    for top in (Path.home() / "Desktop", Path.home() / "Documents"):
        if top in (inside, *inside.parents):
            attributes = ask_macos("/bin/ls", "-ld@", str(top))
            return "iCloud Drive" if any(name in attributes for name in SYNCHRONISED) else None
    return None
