"""Where a model and a text come from: the run that a path names, the model of a run or of an export, the text that names give,
and the text that a run learned from."""

from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from ..exchange.pretrained import load_exported
from ..model import GPT
from .run import CHECKPOINT, FILES, RUNS, Run, last_written, open_run
from ..text.corpus import check_readable_again, load_corpus
from ..text.dataset import Dataset, tokenize
from ..text.identity import STANDARD_INPUT, Corpus, CorpusIdentity
from ..text.token_files import holds_tokens, open_token_folder
from ..text.tokenizer import Tokenizer


def newest_run() -> Run:
    """The run in `runs/` whose checkpoint was written last. Raises `UserError` if there is none."""
    checkpoints = last_written(CHECKPOINT)
    if not checkpoints:
        raise UserError(f"there is no trained run in {RUNS.resolve()}", "train one first, or name one with `run`")
    return open_run(next(iter(checkpoints)).parent)


def run_folders() -> dict[Path, float]:
    """The folders of `runs/` that hold a run, also a damaged one, and when each was written last (seconds since 1970), the newest
    first."""
    found: dict[Path, float] = {}
    for file, written in last_written(*FILES).items():
        found.setdefault(file.parent, written)
    return found


def chosen_run(path: Path | None) -> Run:
    """The run at `path`, or the newest in `runs/`. Raises `UserError` if there is none."""
    return open_run(path) if path else newest_run()


def chosen_model(run: Path | None, best: bool, init_from: str | None) -> tuple[GPT, Tokenizer, Run | None]:
    """The exported model that `init_from` names, or else the model of `run` as in `chosen_run`; its tokenizer; its run, if any.

    `best` takes the weights of the lowest validation loss. Raises `UserError` if both are named, or for no such model.
    """
    if not init_from:
        source = chosen_run(run)
        return source.load_model(best), source.tokenizer, source
    if run or best:
        raise UserError(f"`{'run' if run else 'best'}` and `init_from` exclude each other", "leave out one of them")
    return *load_exported(init_from), None


def is_token_folder(sources: Sequence[str]) -> bool:
    """Whether `sources` is one folder of tokens and not a text. To check its tokens takes a second or two per GB."""
    return len(sources) == 1 and holds_tokens(sources[0])


def read_data(sources: Sequence[str]) -> Corpus | Dataset:
    """The text of all `sources`, or the tokens of the only one. Raises `UserError` if they cannot be read."""
    return open_token_folder(Path(sources[0])) if is_token_folder(sources) else load_corpus(*sources)


def is_own(run: Run, data: Corpus | Dataset) -> bool:
    """Whether `data` is the text that `run` learned from, or tokens of that text."""
    return _identity(data).sha256 == run.corpus.sha256


def own_dataset(run: Run, data: Corpus | Dataset | None = None) -> Dataset:
    """The text that `run` learned from, with the run's tokens and splits. It is `data`, or is read from where it was.

    Raises `UserError` if it cannot be read, is another text, or has other tokens or splits.
    """
    if data is None:
        data = _read_again(run)
    identity, fraction = _identity(data), run.train_config.train_fraction
    if not is_own(run, data):
        piped = STANDARD_INPUT in identity.sources
        remedy = "pipe the same text into it" if piped else "give the text that it learned from with `data`"
        raise UserError(
            f"the run {run.path} learned from another text than {identity.name} holds now",
            f"{remedy}, or train a new run",
        )
    if not isinstance(data, Dataset):
        return tokenize(data, run.tokenizer, fraction)
    if data.tokenizer != run.tokenizer:
        raise UserError(
            f"{identity.name} holds the text that the run {run.path} learned from in the tokens of another tokenizer",
            "give the text itself with `data`",
        )
    if data.train_fraction != fraction:
        raise UserError(
            f"{identity.name} holds the text of the run {run.path}, but {data.train_fraction:g} of it for "
            f"training, where the run had {fraction:g}",
            f"give the text itself with `data`, or prepare it with `train_fraction` {fraction:g}",
        )
    return data


def _read_again(run: Run) -> Corpus | Dataset:
    check_readable_again(run.corpus.sources)
    try:
        return read_data(run.corpus.sources)
    except UserError as error:
        piped = STANDARD_INPUT in run.corpus.sources
        remedy = (
            "pipe the same text in, or name its file with `data`" if piped else "name it with `data` where it is now"
        )
        raise UserError(f"the text of the run {run.path} is not where it was: {error.problem}", remedy) from error


def _identity(data: Corpus | Dataset) -> CorpusIdentity:
    return data.corpus if isinstance(data, Dataset) else data.identity
