"""The teachers of a run: copies in float16 of the models that it learns from, inside its own directory, so that it needs nothing else to
resume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import GPTConfig, TrainConfig
from ..errors import UserError
from ..files import Folder
from ..model import GPT
from ..text.dataset import Dataset
from .snapshots import read_half, write_half

if TYPE_CHECKING:
    from .run import Run


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


def check_teachers(teachers: Sequence[Run], gpt_config: GPTConfig, train_config: TrainConfig, data: Dataset) -> None:
    """Raise `UserError` unless a run of these settings on `data` can learn from `teachers`."""
    if not teachers and train_config.distill != TrainConfig.distill:
        problem = f"distill {train_config.distill:g} is never used without a teacher"
        raise UserError(problem, "leave it out, or name trained runs with `teacher`")
    for teacher in teachers:
        name, block_size = f"the teacher {teacher.path}", teacher.gpt_config.block_size
        if teacher.tokenizer != data.tokenizer:
            raise UserError(f"{name} has other tokens", "name a run on the same text and tokenizer")
        if block_size < gpt_config.block_size:
            problem = f"{name} sees {block_size} tokens and cannot read {gpt_config.block_size}"
            raise UserError(problem, f"give `block_size` {block_size}, or another teacher")
        if teacher.corpus == data.corpus and teacher.train_config.train_fraction > data.train_fraction:
            problem = f"{name} has learned from a part of the text that is to validate"
            raise UserError(
                problem, f"give `train_fraction` {teacher.train_config.train_fraction:g}, or another teacher"
            )


def keep_teachers(folder: Folder, models: Sequence[GPT]) -> list[int]:
    """Write a copy of each of `models` into a run's `folder`; return their checksums."""
    return [write_half(folder, file_name(number), 0, model) for number, model in enumerate(models)]


def load_teachers(run: Run) -> list[GPT]:
    """The teachers of `run`. Raises `UserError` if a copy is gone, damaged or another one."""
    return [_load(run.path / file_name(number), teacher) for number, teacher in enumerate(run.teachers)]


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
