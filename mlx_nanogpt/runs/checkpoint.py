"""A checkpoint: one file of arrays, how far the training is, and checksums of both."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from ..errors import UserError
from ..files import Folder, check_counts, check_measures, explaining_damage

MODEL, OPTIMIZER, RANDOM = "model", "optimizer", "random"  # the three parts of a checkpoint
CONTENTS, CHECKSUM = "contents", "checksum"  # the metadata of its file


@dataclass(frozen=True)
class Position:
    """How far a checkpoint is: steps done, and seconds of training since the last evaluation. Raises `ValueError` for
    values that cannot be."""

    iteration: int = 0
    train_seconds: float = 0.0

    def __post_init__(self) -> None:
        check_counts(self.iteration)
        check_measures(self.train_seconds)


@dataclass(frozen=True)
class Contents:
    """The metadata of a file of weights: how far they are, the number of lines in the history by then and their checksum,
    and the checksum of each part."""

    position: Position
    evaluations: int
    history_checksum: int
    parts: Mapping[str, int]


def write_arrays(folder: Folder, name: str, parts: Mapping[str, Mapping[str, mx.array]], contents: Contents) -> None:
    """Replace the file `name` by `parts`, arrays under their full names, and `contents`."""
    text = json.dumps(asdict(replace(contents, parts={part: contents.parts[part] for part in parts})))
    arrays = {name: array for part in parts.values() for name, array in part.items()}
    with folder.replacing(name) as file:
        mx.save_safetensors(file, arrays, {CONTENTS: text, CHECKSUM: str(zlib.crc32(text.encode()))})


def open_arrays(file: Path) -> tuple[Contents, dict[str, mx.array]]:
    """The contents of a file of weights, and its arrays under their full names, not read yet."""
    file.open("rb").close()  # a file that may not be read raises here; MLX would call it damaged
    arrays, metadata = mx.load(str(file), return_metadata=True)
    text = metadata[CONTENTS]
    if metadata[CHECKSUM] != str(zlib.crc32(text.encode())):
        raise ValueError("its metadata is not as it was written")
    fields = json.loads(text)
    check_counts(fields["evaluations"], fields["history_checksum"])
    return Contents(**fields | {"position": Position(**fields["position"])}), arrays


def read_arrays(file: Path, expected: Mapping[str, object]) -> tuple[Contents, dict]:
    """The contents of a file of weights, and the parts that are `expected`, as trees of the same shapes. Raises `UserError` if
    the file is damaged."""
    with explaining_damage(file):
        contents, arrays = open_arrays(file)
        read: dict[str, mx.array] = {}
        for part, tree in expected.items():
            wanted = dict(tree_flatten({part: tree}))
            found = {name: array for name, array in arrays.items() if name.partition(".")[0] == part}
            if _shapes(found) != _shapes(wanted):  # first: a name with a huge number in it would become a huge list
                differs = sorted(_shapes(found).items() ^ _shapes(wanted).items(), key=str)[0][0]
                raise UserError(
                    f"{file} does not fit: its {part} is of another shape, beginning with {differs}",
                    "use the model that the run was trained with, or restore the file from a copy",
                )
            # MLX would say that it is "unable to read": NumPy raises MemoryError if there is no room, and touches none
            np.empty(sum(array.nbytes for array in found.values()), np.uint8)
            if checksum(found) != contents.parts[part]:
                raise ValueError(f"its {part} is not as it was written")
            # infinity is allowed: an own block may keep a mask
            if part == MODEL and any(np.isnan(np.asarray(array)).any() for array in found.values()):
                raise ValueError("its weights are not all numbers")
            read |= found
        return contents, tree_unflatten(list(read.items()))


def checksum(arrays: Mapping[str, mx.array]) -> int:
    """CRC-32 of the names, types, shapes and numbers of `arrays`."""
    crc = 0
    for name, array in sorted(arrays.items()):
        crc = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), crc)
        crc = zlib.crc32(np.ascontiguousarray(np.asarray(array)).data, crc)
    return crc


def _shapes(arrays: Mapping[str, mx.array]) -> dict[str, tuple]:
    return {name: (array.shape, array.dtype) for name, array in arrays.items()}
