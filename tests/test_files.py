"""Files: the new file whole, or the old one untouched; and only damage is called damage."""

import errno
import fcntl
import os
import platform
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlx_nanogpt import UserError
from conftest import finish, in_a_process, tiny_run
from mlx_nanogpt.files import LOCK, cache_dir, create_folder, explaining_damage, locked, replacing


def test_a_replaced_file_is_the_new_one_and_nothing_else_is_left():
    Path("note").write_text("old")
    with replacing(Path("note")) as file:
        file.write(b"new")
        assert Path("note").read_text() == "old"
    assert Path("note").read_text() == "new"
    assert not list(Path().glob(".*"))


def test_a_failure_leaves_the_old_file_and_nothing_else():
    Path("note").write_text("old")
    with pytest.raises(RuntimeError), replacing(Path("note")) as file:
        file.write(b"half")
        raise RuntimeError
    assert Path("note").read_text() == "old"
    assert not list(Path().glob(".*"))


@pytest.fixture
def refuses(monkeypatch):
    """A disk that refuses a function of fcntl, as network and FUSE volumes do on a Mac."""

    def arrange(name: str, number: int) -> list:
        calls = []

        def refuse(*arguments):
            calls.append(arguments)
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
        monkeypatch.setattr(fcntl, name, refuse)
        return calls

    return arrange


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.EINVAL, errno.ENOTTY])
def test_a_disk_that_cannot_empty_its_cache_is_synchronised_as_far_as_it_can(refuses, monkeypatch, number):
    refused, synchronised = refuses("fcntl", number), []
    monkeypatch.setattr(os, "fsync", synchronised.append)
    with replacing(Path("note")) as file:
        file.write(b"new")
    assert Path("note").read_text() == "new" and refused[0][1] == fcntl.F_FULLFSYNC
    assert len(synchronised) == 2  # the file, and its name


def test_a_disk_that_fails_to_synchronise_is_an_error(refuses):
    Path("note").write_text("old")
    refuses("fcntl", errno.EIO)
    with pytest.raises(OSError), replacing(Path("note")) as file:
        file.write(b"new")
    assert Path("note").read_text() == "old"


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK])
def test_a_disk_without_locks_trains_with_a_warning(refuses, number):
    run = tiny_run()
    refuses("flock", number)
    with pytest.warns(RuntimeWarning, match="the disk of runs/1 has no locks .*; let no two processes write there"):
        finish(run)
    assert run.position().iteration == 8


def test_a_lock_that_is_taken_is_an_error():
    with locked(Path()), pytest.raises(UserError, match="is in use by another process"), locked(Path()):
        pass
    with locked(Path()):
        pass


def test_a_disk_that_locks_files_but_no_folders_is_locked(monkeypatch):
    """As SMB on a Mac."""
    flock = fcntl.flock

    def only_files(descriptor, how):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", only_files)
    run = tiny_run()
    with locked(run.path), pytest.raises(UserError, match="is in use by another process"):
        finish(run)
    finish(run)
    assert run.position().iteration == 8


def test_those_who_wait_for_a_lock_have_it_one_after_the_other():
    Path("folder").mkdir()
    Path("count").write_text("0")

    def count() -> None:
        for _ in range(100):
            with locked(Path("folder"), wait=True):  # a lock belongs to an open file, also within a process
                number = int(Path("count").read_text())
                Path("count").write_text(str(number + 1))

    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(count) for _ in range(3)]:
            done.result()
    assert Path("count").read_text() == "300" and os.listdir("folder") == [LOCK]


def test_a_lock_file_of_another_user_can_be_locked(monkeypatch):
    Path(LOCK).touch()
    right = os.open

    def only_read(path, flags, *more, **named):
        if path == LOCK and flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return right(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", only_read)
    with locked(Path()), pytest.raises(UserError, match="is in use by another process"), locked(Path()):
        pass
    os.unlink(LOCK)
    with (
        pytest.raises(UserError, match=r"\.lock cannot be written \(Permission denied\); make it writable"),
        locked(Path()),
    ):
        pass


def test_a_folder_whose_lock_file_was_removed_stays_locked():
    with locked(Path()):
        os.unlink(LOCK)
        with pytest.raises(UserError, match="is in use by another process"), locked(Path()):
            pass


@pytest.mark.parametrize("number", [errno.EWOULDBLOCK, errno.EACCES])
def test_a_lock_that_another_machine_has_is_an_error(refuses, number):
    refuses("flock", number)
    with pytest.raises(UserError, match="is in use by another process"), locked(Path()):
        pass


def test_what_a_killed_process_left_is_removed_and_what_another_one_writes_is_not():
    ended = in_a_process("-c", "")
    ended.communicate()
    here, elsewhere = platform.node(), "nas"
    left = [f".out.{here}.{ended.pid}.part", f".out.{here}.{os.getppid()}.part", f".out.{elsewhere}.{ended.pid}.part"]
    for name in left:
        Path(name).mkdir()
    with create_folder(Path("out")) as aside:
        (aside / "note").write_text("new")
    assert Path("out/note").read_text() == "new"
    assert sorted(path.name for path in Path().glob(".out*")) == sorted(left[1:])


def test_the_cache_is_where_the_desktop_wants_it_and_by_default_in_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert cache_dir() == tmp_path / "elsewhere" / "mlx-nanogpt"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == tmp_path / "home" / ".cache" / "mlx-nanogpt"


# ---- damage


@pytest.mark.parametrize(
    "error", [ValueError("no JSON"), RuntimeError("[load] bad header"), KeyError("wte"), RecursionError()]
)
def test_an_error_of_reading_is_a_sentence_about_damage(error):
    with pytest.raises(UserError, match=f"note is damaged, .*{type(error).__name__}.*; restore it"):
        with explaining_damage(Path("note")):
            raise error


def test_a_file_that_cannot_be_read_is_named():
    with pytest.raises(UserError, match=r"run/note cannot be read \(No such file or directory\); make it readable, or"):
        with explaining_damage(Path("run")):
            Path("run/note").read_bytes()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[malloc_or_wait] Unable to allocate 9 bytes."),
        RuntimeError("out of memory"),
        RuntimeError("Resource temporarily unavailable"),  # C++, where no thread can start
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("[METAL] Command buffer execution failed: Internal Error (0000000e:Internal Error)."),
    ],
)
def test_a_lack_of_memory_or_a_failure_of_the_gpu_is_not_damage(error):
    with pytest.raises(type(error)), explaining_damage(Path("note")):
        raise error
