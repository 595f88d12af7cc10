"""Snapshots of a run: copies of its weights in float16, at steps evenly spread over the logarithm of its training, so that one can
watch the model learn. Each is a file of its own, which is written once and holds nothing that depends on the time."""

import re
import zlib
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

from ..config import TrainConfig
from ..errors import UserError
from ..files import Folder
from ..model import GPT
from .checkpoint import MODEL, Contents, Position, checksum, read_arrays, write_arrays

SNAPSHOTS = "snapshot-*.safetensors"  # the names of the files


def snapshot_steps(config: TrainConfig) -> list[int]:
    """The iterations that a run keeps a snapshot of: 0, the untrained model, and then up to `num_iter`; fewer than `snapshots` if two
    would be the same."""
    exponents = [i / (config.snapshots - 1) for i in range(1, config.snapshots)]
    return sorted({0, *(round(config.num_iter**exponent) for exponent in exponents)}) if exponents else []


def find_snapshots(path: Path, last: int) -> list[int]:
    """The iterations of the snapshots in the run directory `path`, up to the iteration `last`, in rising order."""
    found = (re.fullmatch(r"snapshot-(\d{7,})\.safetensors", file.name) for file in path.glob(SNAPSHOTS))
    return sorted(iteration for match in found if match and (iteration := int(match[1])) <= last)


def write_snapshot(folder: Folder, iteration: int, model: GPT) -> None:
    """Write the weights of `model` into a run's `folder`."""
    write_half(folder, _name_of(iteration), iteration, model)


def read_snapshot(path: Path, iteration: int, existing: list[int], model: GPT) -> Mapping:
    """The weights in the snapshot of `iteration` of the run directory `path`, one of the `existing`, as those of `model`. Raises
    `UserError` if there is none, or if its file is damaged."""
    if iteration not in existing:
        kept = f"it has those of {', '.join(map(str, existing))}" if existing else "train a run with `snapshots`"
        raise UserError(f"the run {path} has no snapshot of iteration {iteration}", kept)
    try:
        return read_half(path / _name_of(iteration), model)
    except UserError as error:
        raise UserError(error.problem, "remove this file: the run does not need it") from error


def write_half(folder: Folder, name: str, iteration: int, model: GPT) -> int:
    """Write the weights of `model` in float16 into the file `name` of `folder`; return their checksum."""
    part = dict(tree_flatten({MODEL: _in_half(model.parameters())}))
    contents = Contents(Position(iteration), 0, zlib.crc32(b""), {MODEL: (found := checksum(part))})
    write_arrays(folder, name, {MODEL: part}, contents)
    return found


def read_half(file: Path, model: GPT, expected: int | None = None) -> Mapping:
    """The weights in `file`, as those of `model`. Raises `UserError` if it is damaged or gone, or has not the `expected` checksum."""
    own = model.parameters()
    contents, found = read_arrays(file, {MODEL: _in_half(own)})
    if expected not in (None, contents.parts[MODEL]):
        raise UserError(f"{file} has other weights than it had", "restore it from a copy")
    return tree_map(lambda array, like: array.astype(like.dtype), found[MODEL], own)


def _name_of(iteration: int) -> str:
    return SNAPSHOTS.replace("*", f"{iteration:07}")


def _in_half(tree: Mapping) -> Mapping:
    """Without what is not float32, as a mask of an own block."""
    return tree_map(lambda array: array.astype(mx.float16) if array.dtype == mx.float32 else array, tree)
