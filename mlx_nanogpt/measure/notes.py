"""What makes training slow or unsafe here, and is no fault of the machine."""

import sys
from pathlib import Path

from ..machine import compiler_source, mac
from ..machine.volume import network_type


def make_notes(folder: Path = Path()) -> list[str]:
    """Sentences about this machine, and about `folder`, which keeps runs."""
    notes = []
    if kind := network_type(folder):
        notes.append(f"this folder is on a network volume ({kind}): keep runs on a disk of this machine")
    if sys.platform != "darwin":
        return notes
    if cloud := mac.cloud(folder):
        notes.append(f"this folder is copied to {cloud}, which may take files off this disk: keep runs elsewhere")
    if not mac.has_tools():
        notes.append(
            f"on the CPU nothing is compiled, because Apple's tools are missing: {compiler_source()} brings them"
        )
    return notes + mac.power_notes()
