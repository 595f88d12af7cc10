"""The promises of MLX's kernels: compiled where only this user can write; without such a folder, a message says so."""

import os
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import TINY, in_a_process, only_here
from mlx_nanogpt.files import cache_dir
from mlx_nanogpt.machine.linux_cpu import kernels

COMPILE = """if True:
    import mlx_nanogpt, mlx.core as mx, os, tempfile
    mx.eval(mx.compile(lambda x: mx.exp(x) * 2 + x)(mx.ones(3)))
    print(tempfile.gettempdir())"""


@pytest.fixture
def temporary(monkeypatch):
    folder = Path("temporary").resolve()
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def kept() -> dict[str, int]:
    """The number of kernels in the user's folder for temporary files, and in our cache."""
    return {name: len(list(Path(name).rglob("*.so"))) for name in ("temporary", str(cache_dir() / "tmp"))}


def share(folder: Path) -> None:
    (folder / "mlx").mkdir()
    (folder / "mlx").chmod(0o777)


def link(folder: Path) -> None:
    Path("elsewhere").mkdir()
    (folder / "mlx").symlink_to(Path("elsewhere").resolve())


def take(folder: Path) -> None:
    (folder / "mlx" / version("mlx")).mkdir(parents=True)
    (folder / "mlx" / version("mlx") / "cpu").write_text("no folder")


@only_here
def test_kernels_stay_in_the_usual_folder_if_it_is_ours(temporary):
    assert kernels._is_ours(str(temporary))
    assert all(folder.stat().st_mode & 0o777 == 0o700 for folder in temporary.rglob("*"))


@only_here
@pytest.mark.parametrize("spoil", [share, link, take])
def test_a_folder_where_others_may_write_is_not_used(temporary, spoil):
    spoil(temporary)
    assert not kernels._is_ours(str(temporary))
    assert not list(Path().glob("elsewhere/*"))


@only_here
def test_kernels_are_kept_in_our_cache_instead(temporary):
    share(temporary)
    with in_a_process("-c", COMPILE, env=dict(os.environ)) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out.strip()) == (0, str(temporary)), err  # the folder that Python uses is unchanged
    assert list(kept().values()) == [0, 1]


@only_here
def test_another_users_kernels_are_not_loaded(temporary, monkeypatch):
    assert kernels._is_ours(str(temporary))
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    assert not kernels._is_ours(str(temporary))


@only_here
def test_a_temporary_folder_that_does_not_exist_is_not_used():
    assert not any(map(kernels._is_ours, ("/nowhere", "", "play.txt")))


def compiler(script: str) -> str:
    """A PATH whose g++ is `script`."""
    Path("bin").mkdir()
    Path("bin/g++").write_text(f"#!/bin/sh\n{script}\n")
    Path("bin/g++").chmod(0o755)
    return f"{Path('bin').resolve()}:{os.environ['PATH']}"


@only_here
def test_a_broken_compiler_is_a_sentence(temporary, monkeypatch):
    monkeypatch.setenv("PATH", compiler('[ "$1" = --version ] || { echo "error: no cc1plus"; exit 1; }'))
    with in_a_process("-m", "mlx_nanogpt_cli", "train", *TINY) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in err
    assert err.startswith("Error: MLX could not compile what it computes with (error: no cc1plus); make room in")


@only_here
def test_a_lack_of_any_folder_is_a_sentence(temporary):
    share(temporary)
    script = (
        "import os, sys; os.environ['XDG_CACHE_HOME'] = '/dev/null'; import mlx_nanogpt_cli; mlx_nanogpt_cli.main()"
    )
    with in_a_process("-c", script, "train", *TINY) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in err
    assert err.startswith("Error: MLX could not compile") and "set TMPDIR to another one" in err


def test_other_errors_are_not_explained():
    assert kernels.explain(RuntimeError("[matmul] shapes")) is None
