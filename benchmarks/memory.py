"""The memory of training on token files of 10 MB and of 1 GB: it reads only the windows that it needs.

    python benchmarks/memory.py

Linux only: its /proc separates a process's own memory (RssAnon) from pages of files, which the system may take back at any
time. Each run is a process of its own; the token files are temporary.
"""

import pickle
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

SIZES = {"10 MB": 10**7, "1 GB": 10**9}  # bytes, of train.bin
PIECE = 10**7
VOCABULARY = "".join(map(chr, range(32, 97)))  # as many characters as tiny Shakespeare has
SAMPLE_SECONDS = 0.01


def write_tokens(folder: Path, size: int) -> None:
    """Write random tokens into a folder like nanoGPT's."""
    rng = np.random.default_rng(1)
    folder.mkdir()
    with (folder / "train.bin").open("wb") as file:
        for _ in range(size // PIECE):
            rng.integers(len(VOCABULARY), size=PIECE // 2, dtype=np.uint16).tofile(file)
    rng.integers(len(VOCABULARY), size=PIECE // 2, dtype=np.uint16).tofile(folder / "val.bin")
    itos = dict(enumerate(VOCABULARY))
    (folder / "meta.pkl").write_bytes(
        pickle.dumps({"vocab_size": len(itos), "itos": itos, "stoi": {c: i for i, c in itos.items()}})
    )


def measure_peak(command: list[str]) -> dict[str, int]:
    """Run `command`; return its largest RssAnon and RssFile in bytes."""
    peak = {"RssAnon": 0, "RssFile": 0}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            except OSError:  # it has just ended
                break
            for name, _, value in (line.partition(":") for line in lines):
                if name in peak:
                    peak[name] = max(peak[name], 1024 * int(value.split()[0]))
            time.sleep(SAMPLE_SECONDS)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed")
    return peak


def main() -> None:
    print("| Tokens | Peak memory of its own | Peak of pages of files |\n|---|---:|---:|")
    for name, size in SIZES.items():
        with TemporaryDirectory() as work:
            write_tokens(Path(work) / "tokens", size)
            options = ["--num-iter=200", "--eval-interval=200", "--eval-iters=20", "--n-layer=2"]
            run = [f"--data={work}/tokens", f"--run-dir={work}/run", "--device=cpu"]
            peak = measure_peak([sys.executable, "-m", "mlx_nanogpt_cli", "train", *run, *options])
            print(f"| {name} | {peak['RssAnon'] / 1e6:.0f} MB | {peak['RssFile'] / 1e6:.0f} MB |")


if __name__ == "__main__":
    main()
