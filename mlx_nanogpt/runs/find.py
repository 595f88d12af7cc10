"""Find the run that the user named, and the text that a run learned from."""

import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from ..files import newest_files
from ..text.corpus import BUILT_IN, check_readable_again, choose_texts, is_token_folder, read_corpus, read_data
from ..text.dataset import Dataset, tokenize
from ..text.identity import STANDARD_INPUT, Corpus, CorpusIdentity, Texts
from ..text.token_files import open_token_folder
from .run import CHECKPOINT, CONFIG, FILES, RUNS, Run, open_run


def newest_run() -> Run:
    """The run in `runs/` whose checkpoint was written last. Raises `UserError` if there is none."""
    checkpoints = newest_files(RUNS, CHECKPOINT)
    if not checkpoints:
        raise UserError(f"there is no trained run in {RUNS.resolve()}", "train one first, or name one by its path")
    return open_run(next(iter(checkpoints)).parent)


def run_folders(folder: Path = RUNS) -> dict[Path, float]:
    """The folders of `folder` that hold a run, also a damaged one, and when each was written last (seconds since 1970), the newest
    first."""
    found: dict[Path, float] = {}
    for file, written in newest_files(folder, *FILES).items():
        found.setdefault(file.parent, written)
    return found


def named_run(name: str) -> str:
    """The path of the run `name`. A number is that of a run in `runs/`, unless a folder of that name is a run."""
    return str(RUNS / name) if name.isdecimal() and not os.path.isfile(os.path.join(name, CONFIG)) else name


def find_run(path: Path | None) -> Run:
    """The run at `path`, or the newest in `runs/`. Raises `UserError` if there is none."""
    return open_run(path) if path else newest_run()


def is_own(run: Run, data: Corpus | Dataset) -> bool:
    """Whether `data` is the text that `run` learned from, or tokens of that text."""
    return _identity(data).sha256 == run.corpus.sha256


def own_dataset(run: Run, data: Corpus | Dataset | None = None) -> Dataset:
    """The text that `run` learned from, with the run's tokens and splits: `data`, or the text at the run's sources.

    Raises `UserError` if it cannot be read, is another text, or has other tokens or splits.
    """
    if data is None:
        data = read_for(run)
    name, fraction = _identity(data).name, run.train_config.train_fraction
    if not is_own(run, data):
        remedy = (
            "pipe the same text into it"
            if _identity(data).is_piped
            else "give the text that it learned from with `data`"
        )
        problem = f"the run {run.path} learned from another text than {name} holds now"
        raise UserError(problem, f"{remedy}, or train a new run")
    if not isinstance(data, Dataset):
        return tokenize(data, run.tokenizer, fraction)
    if data.tokenizer != run.tokenizer:
        problem = f"{name} holds the text that the run {run.path} learned from in the tokens of another tokenizer"
        raise UserError(problem, "give the text itself with `data`")
    if data.train_fraction != fraction and not run.corpus.valid:  # a validation text of its own is split at no fraction
        problem = f"{name} holds the text of the run {run.path}, but {data.train_fraction:g} of it for training"
        remedy = f"give the text itself with `data`, or prepare it with `train_fraction` {fraction:g}"
        raise UserError(f"{problem}, where the run had {fraction:g}", remedy)
    return data


def read_for(run: Run, sources: Sequence[str] | None = None, valid: Sequence[str] = ()) -> Corpus | Dataset:
    """Read the text that `run` learned from, with its documents, or what is at `sources` and `valid` instead. Raises `UserError` if
    it cannot be read."""
    if sources is None and not valid:
        return _read_again(run)
    sources = sources or _find_sources(run, run.corpus.sources)
    if is_token_folder(sources):
        return read_data(sources, valid)
    texts, before = choose_texts(sources, valid, run.corpus.documents), _find_sources(run, run.corpus.valid)
    if before and not valid and all(map(os.path.exists, before)):
        texts = texts._replace(valid=before)
    return read_corpus(texts)


def _read_again(run: Run) -> Corpus | Dataset:
    own = run.corpus
    check_readable_again([*own.sources, *own.valid])
    try:
        sources = _find_sources(run, own.sources)
        if is_token_folder(sources):
            return open_token_folder(sources[0])
        return read_corpus(Texts(sources, own.documents, _find_sources(run, own.valid)))
    except UserError as error:
        remedy = f"name it with `data`{' and `valid_data`' if own.valid else ''} where it is now"
        if own.is_piped:
            remedy = "pipe the same text in, or name its file with `data`"
        problem = f"the text of the run {run.path} is not where it was: {error.problem}"
        raise UserError(problem, remedy) from error


def _find_sources(run: Run, sources: Sequence[str]) -> tuple[str, ...]:
    """`sources`, or their paths from the folder in which the run was started, if that is the one above `runs/`."""

    def find(source: str) -> str:
        from_there = run.path.resolve().parent.parent / source
        is_path = source not in (*BUILT_IN, STANDARD_INPUT)
        return str(from_there) if is_path and not os.path.exists(source) and from_there.exists() else source

    return tuple(map(find, sources))


def _identity(data: Corpus | Dataset) -> CorpusIdentity:
    return data.corpus if isinstance(data, Dataset) else data.identity
