"""The promises about the volume of a folder: a network's is known, and one that locks nothing is named once."""

from pathlib import Path

import pytest
from conftest import finish, python, tiny_run
from mlx_nanogpt.files import locked
from mlx_nanogpt.machine import volume
from mlx_nanogpt.machine.volume import keeps_others_out, network_type

ON_A_MAC = """/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
devfs on /dev (devfs, local, nobrowse)
//me@nas._smb._tcp.local/Home on /Volumes/Home (smbfs, nodev, nosuid, mounted by me)
nas:/volume1/a (b) on /Volumes/a (b) (nfs, asynchronous)
/dev/disk4s1 on /Volumes/Home/stick (exfat, local)
"""
ON_LINUX = r"""/dev/vda1 / ext4 rw 0 0
nas:/home /mnt/my\040nas nfs4 rw 0 0
/etc/auto.nas /auto autofs rw 0 0
nas:/auto /auto nfs4 rw 0 0
/dev/sda1 /windows fuseblk rw 0 0
me@host: /sshfs fuse.sshfs rw 0 0
"""


@pytest.mark.parametrize(
    "path, kind",
    [
        ("/Users/me/runs", None), ("/Volumes/Home", "smbfs"), ("/Volumes/Home/runs/1", "smbfs"),
        ("/Volumes/Home/stick/runs", None), ("/Volumes/Homes", None), ("/Volumes/a (b)/runs", "nfs"),
    ],
)  # fmt: skip
def test_a_network_volume_of_a_mac_is_known(monkeypatch, path, kind):
    monkeypatch.setattr(volume.sys, "platform", "darwin")
    monkeypatch.setattr(volume, "ask_macos", lambda *command: ON_A_MAC if command == ("/sbin/mount",) else "")
    assert network_type(Path(path)) == kind


@pytest.mark.parametrize(
    "path, kind",
    [
        ("/home/me", None),
        ("/mnt/my nas/runs", "nfs4"),
        ("/auto/runs", "nfs4"),
        ("/windows", None),
        ("/sshfs", "fuse.sshfs"),
    ],
)
def test_a_network_volume_of_linux_is_known(monkeypatch, path, kind):
    monkeypatch.setattr(volume.sys, "platform", "linux")
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: ON_LINUX)
    assert network_type(Path(path)) == kind


@pytest.mark.parametrize(
    "mounts",
    ["", "\n\n", " /any tmpfs rw 0 0\n", "x\n", "a /b\u2028c nfs4 rw 0 0\n", r"a /\999 nfs4 rw 0 0", "a b c d"],
)
def test_an_odd_list_of_mounts_is_no_error(monkeypatch, mounts):
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: mounts)
    monkeypatch.setattr(volume.sys, "platform", "linux")
    assert network_type(Path("/home")) is None


def test_a_folder_that_is_gone_has_no_known_volume(monkeypatch):
    def gone(*_):
        raise FileNotFoundError

    monkeypatch.setattr(volume.os.path, "realpath", gone)
    assert network_type(Path()) is None


def test_a_lock_keeps_another_process_out():
    with locked(Path()):
        assert keeps_others_out(Path())


TRAINING = """
import mlx_nanogpt as gpt
from mlx_nanogpt.files import fcntl
from mlx_nanogpt.machine import volume

fcntl.flock = lambda *_: None
volume.network_type = lambda _: "nfs"
data = gpt.tokenize(gpt.Corpus(("play.txt",), open("play.txt").read()))
shape = gpt.GPTConfig(vocab_size=data.tokenizer.vocab_size, block_size=8, n_layer=1, n_embd=8, head_size=8)
for _ in range(2):
    run = gpt.create_run(shape, gpt.TrainConfig(num_iter=1, batch_size=2, eval_iters=1), data, "run")
    list(gpt.train(run, data))
    __import__("shutil").rmtree("run")
"""


def test_a_network_volume_that_locks_nothing_is_named_once(monkeypatch):
    run = tiny_run()
    monkeypatch.setattr(volume, "network_type", lambda _: "nfs")
    finish(run)  # its locks hold, and pytest makes a warning an error
    done = python(f"import sys; sys.stderr = sys.stdout\n{TRAINING}")
    assert done.count("the disk of run is a network volume (nfs) that locks nothing; let no two processes write") == 1
