"""Read the text that an option names, and choose its tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import mlx_nanogpt as gpt
from mlx_nanogpt import Corpus, Dataset, UserError
from mlx_nanogpt.text import corpus, tinyshakespeare
from mlx_nanogpt.text.byte_pairs import check_vocab_size
from mlx_nanogpt.text.characters import MARK, quote_some
from mlx_nanogpt.text.documents import Documents
from mlx_nanogpt.text.tokenizer import Tokenizer
from mlx_nanogpt.text.tokenizer_files import gpt2_tokenizer

from ..screen.consoles import console, make_spinner
from .shared import VOCAB_SIZE


def load_corpus(
    names: Sequence[str], explicit: bool, valid: Sequence[str] = (), documents: Documents | None = None
) -> Corpus:
    """The texts `names`. If tiny Shakespeare cannot be downloaded and the user did not name it, pastiche, with a notice."""
    try:
        return gpt.load_corpus(*names, valid=valid, documents=documents)
    except tinyshakespeare.CorpusUnavailable as error:
        if explicit:
            raise
        console.print(
            f"{error.problem[0].upper()}{error.problem[1:]}. So this uses {corpus.PASTICHE}, a play that is built in: its losses are not "
            f"Shakespeare's. Your own text: --data FILE, or put tiny Shakespeare at {tinyshakespeare.cache_file()}.\n",
            style="yellow",
        )
        return gpt.load_corpus(corpus.PASTICHE, valid=valid, documents=documents)


def read_data(
    names: Sequence[str], explicit: bool = True, valid: Sequence[str] = (), documents: Documents | None = None
) -> Corpus | Dataset:
    """The texts `names`, as in `load_corpus`, or the tokens of the only one."""
    if corpus.is_token_folder(names):
        return corpus.read_data(names, valid, documents)
    return load_corpus(names, explicit, valid, documents)


def default_documents(names: Sequence[str], init_from: str, tokenizer: Tokenizer) -> Documents | None:
    """The documents of the texts `names` for the model of `init_from`: those of the run that it is, or none if its tokens have no
    mark. Tokens leave no choice."""
    if corpus.is_token_folder(names):
        return None
    try:
        return gpt.open_run(init_from).corpus.documents
    except UserError:  # a model of another program
        return None if tokenizer.end_token is not None else "none"


def choose_tokens(name: str, vocab_size: int | None) -> dict[str, Any]:
    """The arguments of `tokenize` and `prepare` for --tokenizer and --vocab-size."""
    size = choose_size(name, vocab_size)
    if size is not None:
        return {"vocab_size": size}
    return {"tokenizer": gpt2_tokenizer() if name == "gpt2" else None}


def choose_size(name: str, vocab_size: int | None) -> int | None:
    """The number of byte pairs to learn; None for another tokenizer. Raises `UserError` if --vocab-size does not fit it."""
    if name == "bpe":
        size = VOCAB_SIZE if vocab_size is None else vocab_size
        check_vocab_size(size)
        return size
    if vocab_size is not None:
        raise UserError(f"`vocab_size` {vocab_size} needs byte pairs", "give `tokenizer` bpe, too")
    return None


def load_dataset(
    data: Corpus | Dataset, train_fraction: float, kind: str, chosen: Mapping, tokenizer: Tokenizer | None = None
) -> Dataset:
    """Tokenize `data` with `tokenizer`, by default one of `kind`. A folder holds tokens already, which must be those of `chosen`."""
    if isinstance(data, Dataset):
        _check_tokens(data, chosen)
        return data
    text = data.text + data.valid_text if tokenizer else ""
    if tokenizer and (unknown := [character for character in tokenizer.unknown(text) if character != MARK]):
        raise UserError(
            f"the model has never seen {quote_some(unknown)}, {sum(map(text.count, unknown)):,} of the {len(text):,} characters of "
            f"{data.identity.name}",
            "leave them out of the text, or train a new model with `tokenizer` bpe, which knows all characters",
        )
    wanted = {"tokenizer": tokenizer} if tokenizer else choose_tokens(kind, chosen.get("vocab_size"))
    with make_spinner() as bar:
        if size := wanted.get("vocab_size"):
            bar.add_task(f"Learning {size:,} tokens from {data.identity.name}")
        return gpt.tokenize(data, train_fraction=train_fraction, **wanted)


def _check_tokens(data: Dataset, chosen: Mapping) -> None:
    """Raise `UserError` if the options `chosen` ask for other tokens than the folder `data` holds."""
    own = {"tokenizer": data.tokenizer.kind, "vocab_size": data.tokenizer.vocab_size}
    for name, value in own.items():
        if chosen.get(name, value) != value:
            problem = f"{data.corpus.name} holds tokens with the {name} {value}, and {chosen[name]} was chosen"
            raise UserError(problem, f"leave out `{name}`, or prepare the text again")
