"""The shared parts of the scripts that measure peers: the product's settings, the circumstances, and the folder of results.

Only for the scripts: it imports `mlx_nanogpt`, which a PyTorch or JAX peer must not have in its process.
"""

import json
import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import mlx_nanogpt as gpt
from mlx_nanogpt.measure.benchmark import describe_measurement
from mlx_nanogpt.model import INIT_STD

from . import Settings

RESULTS = Path(__file__).resolve().parents[1] / "results"
PEER_PACKAGES = ("torch", "jax", "jaxlib")


def settings_of(model: gpt.GPTConfig, training: gpt.TrainConfig) -> Settings:
    """Return the product's configuration as every peer takes it."""
    return Settings(
        vocab_size=model.vocab_size,
        block_size=model.block_size,
        n_layer=model.n_layer,
        n_embd=model.n_embd,
        head_size=model.head_size,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        seed=training.seed,
        init_std=INIT_STD,
        start_token=0,  # a new line, in tiny Shakespeare
    )


def circumstances(script: str) -> dict:
    """Return the facts to judge and repeat a measurement that `script` made in this process."""
    machine = describe_measurement()
    machine["versions"] |= {package: _version(package) for package in PEER_PACKAGES}
    return {"command": shlex.join(["python", script, *sys.argv[1:]]), "machine": machine}


def write_json(kind: str, result: dict) -> Path:
    """Keep `result`, which has its circumstances, as results/<machine>-<kind>.json."""
    path = RESULTS / f"{slug(result['machine']['chip'])}-{kind}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return path


def slug(chip: str) -> str:
    """Return the chip as a file name: `Intel(R) Xeon(R) Processor` is intel-xeon, `Apple M4 Pro` is apple-m4-pro."""
    name = re.sub(r"\(R\)|\(TM\)|\b(Processor|CPU)\b|@.*", " ", chip)
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
