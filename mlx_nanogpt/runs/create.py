"""Make the directory of a new run."""

import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..config import GPTConfig, TrainConfig
from ..errors import UserError
from ..files import Folder, check_name, explaining_write, locked
from ..text.dataset import Dataset
from .run import CONFIG, FILES, RUNS, TOKENIZER, Run, is_unfinished, quote
from .teachers import file_names, keep_teachers


def create_run(
    gpt_config: GPTConfig,
    train_config: TrainConfig,
    data: Dataset,
    run_dir: Path | str | None = None,
    init_from: Path | str | None = None,
    teachers: Sequence[Run] = (),
) -> Run:
    """Make the directory of a new run: `run_dir`, or the next number in `runs/`. A run that is there is never touched.

    The run has the `vocab_size` and the `train_fraction` of `data`, whatever the configurations say. `init_from` names the model
    that the weights will come from; `start_from` puts them there. From `teachers`, trained runs with the same tokens, the new one
    learns what to expect; their best weights are copied into it. Raises `UserError` if `run_dir` holds a run or cannot be written, or
    if a teacher cannot teach it.
    """
    gpt_config = replace(gpt_config, vocab_size=data.tokenizer.vocab_size)
    train_config = replace(train_config, train_fraction=data.train_fraction)
    check_teachers(teachers, gpt_config, train_config, data)
    origin, models = str(init_from) if init_from else None, [teacher.load_model() for teacher in teachers]
    copies = file_names(len(teachers))
    with explaining_write(Path(run_dir or RUNS), "choose another with `run_dir`"):
        path = _make_numbered() if run_dir is None else _make_folder(Path(run_dir))
        run = Run(path, gpt_config, train_config, data.corpus, data.tokenizer, uuid.uuid4().hex[:8], origin)
        with locked(path) as folder:
            _check_free(folder, copies)
            folder.sweep(*FILES, *copies)
            run.write_config(folder, None)
            if teachers:
                run = replace(run, teachers=keep_teachers(folder, [str(own.path) for own in teachers], models))
                run.write_config(folder, None)
            folder.write(TOKENIZER, run.tokenizer.to_json())  # last: a run without it may be made again
    return run


def check_teachers(teachers: Sequence[Run], gpt_config: GPTConfig, train_config: TrainConfig, data: Dataset) -> None:
    """Raise `UserError` unless a run of these settings on `data` can learn from `teachers`."""
    if not teachers and train_config.distill != TrainConfig.distill:
        problem = f"distill {train_config.distill:g} is never used without a teacher"
        raise UserError(problem, "leave it out, or name trained runs with `teacher`")
    for teacher in teachers:
        name, block_size = f"the teacher {teacher.path}", teacher.gpt_config.block_size
        if teacher.tokenizer != data.tokenizer:
            raise UserError(f"{name} has other tokens", "name a run on the same characters or byte pairs")
        if block_size < gpt_config.block_size:
            problem = f"{name} sees {block_size} tokens and cannot read {gpt_config.block_size}"
            raise UserError(problem, f"give `block_size` {block_size}, or another teacher")
        if teacher.corpus == data.corpus and teacher.train_config.train_fraction > data.train_fraction:
            problem = f"{name} has learned from a part of the text that is to validate"
            raise UserError(
                problem, f"give `train_fraction` {teacher.train_config.train_fraction:g}, or another teacher"
            )


def _make_numbered() -> Path:
    RUNS.mkdir(exist_ok=True)
    number = 1 + max((int(folder.name) for folder in RUNS.iterdir() if folder.name.isdecimal()), default=0)
    while True:  # another process may take the number first
        try:
            (RUNS / str(number)).mkdir()
            return RUNS / str(number)
        except FileExistsError:
            number += 1


def _make_folder(path: Path) -> Path:
    check_name(path, "choose another `run_dir`")
    path.mkdir(parents=True, exist_ok=True)
    return path


def _check_free(folder: Folder, copies: Sequence[str]) -> None:
    """Raise `UserError` if `folder` holds a run or files of something else. An unfinished run does not count."""
    path, taken = folder.path, [name for name in (*FILES, *copies) if folder.holds(name)]
    if CONFIG in taken and not is_unfinished(path, taken):
        raise UserError(
            f"{path} already holds a run", f"choose another `run_dir`, or continue it with `resume` {quote(path)}"
        )
    if taken and CONFIG not in taken:
        raise UserError(f"{path} holds a {taken[0]} of something else", "choose another `run_dir`")
