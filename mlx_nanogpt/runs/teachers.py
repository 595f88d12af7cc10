"""The teachers of a run: copies in float16 of the models that it learns from, inside its own directory, so that it needs nothing else to
resume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..config import GPTConfig
from ..errors import UserError
from ..files import Folder
from ..model import GPT
from .snapshots import read_half, write_half


@dataclass(frozen=True)
class Teacher:
    """A model that a run learns from: the run that it was, its shape, and the checksum of its copy."""

    path: str
    gpt: GPTConfig
    checksum: int

    @classmethod
    def from_json(cls, content: Mapping) -> Teacher:
        """The teacher that `dataclasses.asdict` turned into `content`. Raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        if not (isinstance(content["path"], str) and isinstance(content["checksum"], int)):
            raise ValueError(f"{content!r} is no teacher")
        return cls(content["path"], GPTConfig(**content["gpt"]), content["checksum"])


def keep_teachers(folder: Folder, models: Sequence[GPT]) -> list[int]:
    """Write a copy of each of `models` into a run's `folder`; return their checksums."""
    return [write_half(folder, file_name(number), 0, model) for number, model in enumerate(models)]


def load_teachers(path: Path, teachers: Sequence[Teacher]) -> list[GPT]:
    """The `teachers` of the run directory `path`. Raises `UserError` if a copy is gone, damaged or another one."""
    return [_load(path / file_name(number), teacher) for number, teacher in enumerate(teachers)]


def _load(file: Path, teacher: Teacher) -> GPT:
    model = GPT(teacher.gpt)
    try:
        model.update(read_half(file, model, teacher.checksum))
    except UserError as error:
        raise UserError(
            f"{error.problem}: it is a teacher of the run", "restore it from a copy, or train a new run"
        ) from error
    return model


def file_name(number: int) -> str:
    return f"teacher-{number + 1}.safetensors"
