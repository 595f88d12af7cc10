"""The teachers of a run: copies in float16 of the models that it learns from, inside its own directory, so that it needs nothing else to
resume."""

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
    def from_json(cls, content: Mapping) -> "Teacher":
        """The teacher that `dataclasses.asdict` turned into `content`. Raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        if not (isinstance(content["path"], str) and isinstance(content["checksum"], int)):
            raise ValueError(f"{content!r} is no teacher")
        return cls(content["path"], GPTConfig(**content["gpt"]), content["checksum"])


def keep_teachers(folder: Folder, paths: Sequence[str], models: Sequence[GPT]) -> tuple[Teacher, ...]:
    """Write a copy of each of `models`, the runs at `paths`, into a run's `folder`; all of them, or none."""
    names = file_names(len(models))
    try:
        checksums = [write_half(folder, name, 0, model) for name, model in zip(names, models)]
    except BaseException:
        folder.remove(*names)
        raise
    return tuple(Teacher(path, model.config, found) for path, model, found in zip(paths, models, checksums))


def load_teachers(path: Path, teachers: Sequence[Teacher]) -> list[GPT]:
    """The `teachers` of the run directory `path`. Raises `UserError` if a copy is gone, damaged or another one."""
    return [_load(path / name, teacher) for name, teacher in zip(file_names(len(teachers)), teachers)]


def _load(file: Path, teacher: Teacher) -> GPT:
    model = GPT(teacher.gpt)
    try:
        model.update(read_half(file, model, teacher.checksum))
    except UserError as error:
        raise UserError(
            f"{error.problem}: it is a teacher of the run", "restore it from a copy, or train a new run"
        ) from error
    return model


def file_names(count: int) -> list[str]:
    """The names of the copies of so many teachers."""
    return [f"teacher-{number}.safetensors" for number in range(1, count + 1)]
