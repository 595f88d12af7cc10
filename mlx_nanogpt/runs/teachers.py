"""The teachers of a run: copies of the runs that it learns from, inside its own directory, so that it needs nothing else to resume."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from ..config import GPTConfig, TrainConfig
from ..errors import UserError
from ..model import GPT
from ..text.tokenizer import Tokenizer
from .run import BEST, CHECKPOINT, CONFIG, TOKENIZER, Run, open_run

TEACHERS = "teachers"  # a folder with a run for each, which has its weights alone


def check_teachers(
    teachers: Sequence[Run], gpt_config: GPTConfig, train_config: TrainConfig, tokenizer: Tokenizer
) -> None:
    """Raise `UserError` unless a run of these settings can learn from `teachers`."""
    if not teachers and train_config.distill != TrainConfig.distill:
        problem = f"distill {train_config.distill:g} is never used without a teacher"
        raise UserError(problem, "leave it out, or name trained runs with `teacher`")
    for teacher in teachers:
        if teacher.tokenizer != tokenizer:
            raise UserError(f"the teacher {teacher.path} has other tokens", "name a run on the same text and tokenizer")
        if teacher.gpt_config.block_size < gpt_config.block_size:
            problem = f"the teacher {teacher.path} sees {teacher.gpt_config.block_size} tokens and cannot read {gpt_config.block_size}"
            raise UserError(problem, "give that `block_size`, or another teacher")
        teacher.load_model()  # raises without weights


def keep_teachers(path: Path, teachers: Sequence[Run]) -> None:
    """Copy the best weights of `teachers` into the run directory `path`, or the last ones of a run without an evaluation."""
    shutil.rmtree(path / TEACHERS, ignore_errors=True)  # of a run that was not finished when it was made
    for number, teacher in enumerate(teachers, 1):
        folder = path / TEACHERS / str(number)
        folder.mkdir(parents=True)
        for name in (CONFIG, TOKENIZER, BEST if teacher.takes_best() else CHECKPOINT):
            shutil.copyfile(teacher.path / name, folder / name)


def load_teachers(run: Run) -> list[GPT]:
    """The teachers of `run`. Raises `UserError` if one is gone or damaged."""
    return [open_run(run.path / TEACHERS / str(number)).load_model() for number in range(1, len(run.teachers) + 1)]
