"""The volume of a folder: whether a network keeps it, and whether its locks keep others out."""

import os
import re
import subprocess
import sys
from pathlib import Path

from ..files import LOCK, Folder, warn_of_disk
from .mac import ask_macos

NETWORKS = re.compile(
    r"(smbfs|smb3|cifs|nfs\d?|afpfs|webdav|ceph|(Apple)?virtiofs|fuse\..+|macfuse|osxfuse)$", re.IGNORECASE
)
PROBE = "import fcntl, sys; fcntl.flock(open(sys.argv[1], 'rb+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"


def network_type(folder: Path) -> str | None:
    """The type of the network volume that holds `folder`, such as smbfs or nfs4; None for a disk of this machine, and if that cannot
    be known."""
    try:
        place = os.path.realpath(folder)
        holding = [mount for mount in _mounts() if os.path.commonpath([place, mount[0]]) == mount[0]]
    except OSError:  # the folder, or the list of mounts, is not there
        return None
    # the last of two at one place: an automatic mount comes before what it mounts
    kind = max(reversed(holding), key=lambda mount: len(mount[0]), default=("", ""))[1]
    return kind if NETWORKS.match(kind) else None


def _mounts() -> list[tuple[str, str]]:
    """The path and the type of each mounted volume."""
    if sys.platform == "darwin":  # //me@server/share on /Volumes/share (smbfs, nodev, nosuid)
        return re.findall(r" on (/.*) \((\w+)", ask_macos("/sbin/mount"))
    # nas:/home /mnt/my\040nas nfs4 rw 0 0
    found = re.findall(r"^[^ ]* (/[^ ]*) ([^ ]+) ", Path("/proc/self/mounts").read_text(errors="replace"), re.MULTILINE)
    return [(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), path), kind) for path, kind in found]


def check_lock(folder: Folder) -> None:
    """Warn if `folder`, which this process has locked, is on a network volume that lets another process lock it, too."""
    kind = network_type(folder.path)
    if kind and not keeps_others_out(folder.path):
        warn_of_disk(f"the disk of {folder.path} is a network volume ({kind}) that locks nothing")


def keeps_others_out(locked_folder: Path) -> bool:
    """Whether another process is refused the lock. Within a process the answer would differ: SMB on a Mac locks for a process."""
    command = [sys.executable, "-I", "-c", PROBE, str(locked_folder / LOCK)]  # -I: no file of the user's is imported
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode != 0
