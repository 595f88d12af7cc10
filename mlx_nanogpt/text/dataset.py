"""A text as tokens, in two splits: one to train on, one to validate."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..config import TrainConfig
from ..errors import UserError
from .baselines import count_characters
from .byte_pairs import BPETokenizer, pieces_of
from .characters import CharTokenizer
from .documents import Documents, DocumentSizes, choose_split, find_marks, shuffle
from .identity import Corpus, CorpusIdentity, explaining_size
from .loss import SplitLoss
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class Dataset:
    """The tokens of the two splits, (N,) each, their tokenizer, and the identity of the text. `floor` is the lowest loss that a
    model can reach on the validation split, in nats per character, if that is known; for byte pairs it is not."""

    corpus: CorpusIdentity
    tokenizer: Tokenizer
    train_tokens: np.ndarray
    valid_tokens: np.ndarray
    train_fraction: float
    floor: float | None = None

    @cached_property
    def beginnings(self) -> np.ndarray | None:
        """The places of the marks in `train_tokens`, with which documents begin; None if the text is made of none."""
        return None if self.corpus.documents == "none" else find_marks(self.train_tokens, self.tokenizer.start_token)

    def bits_per_character(self, loss: float) -> float:
        """A loss on the validation split, in nats per token, as bits per character."""
        return SplitLoss(len(self.valid_tokens), loss * len(self.valid_tokens)).bits_per_character(
            self._valid_characters
        )

    @cached_property
    def _valid_characters(self) -> int:
        return count_characters(self.tokenizer, self.valid_tokens)

    def count_documents(self) -> tuple[int, int] | None:
        """The numbers of documents in the splits, if the text is made of some."""
        if self.beginnings is None:
            return None
        return len(self.beginnings) - 1, len(find_marks(self.valid_tokens, self.tokenizer.start_token)) - 1

    def __repr__(self) -> str:
        tokens = f"{len(self.train_tokens):,} tokens to train on, {len(self.valid_tokens):,} to validate"
        return f"<Dataset {self.corpus.name}: {tokens}, vocabulary {self.tokenizer.vocab_size:,}>"


@explaining_size()
def tokenize(
    corpus: Corpus,
    tokenizer: Tokenizer | None = None,
    train_fraction: float = TrainConfig.train_fraction,
    vocab_size: int | None = None,
) -> Dataset:
    """Split `corpus` as `split_text` does, then encode both parts; documents are shuffled.

    The default `tokenizer` has one token for each character of the corpus; or, with a `vocab_size`, that many byte pairs
    learned from the part for training. Raises `UserError` if both are given, if a given tokenizer lacks a character or the mark
    of documents, or if there are too few documents.
    """
    check_one_kind(tokenizer, vocab_size)
    TrainConfig(train_fraction=train_fraction)  # checks it
    texts = split_text(corpus, train_fraction)
    symbols = set[str]().union(*texts)
    tokenizer = choose_tokenizer(tokenizer, vocab_size, corpus.documents, pieces_of(texts[0]), symbols)
    train, valid = map(tokenizer.encode, texts)
    if corpus.documents != "none":
        train, valid = (np.concatenate([*shuffle(tokens, tokenizer.start_token)]) for tokens in (train, valid))
    by_character = isinstance(tokenizer, CharTokenizer)
    floor = corpus.floor(len(texts[0]), len(corpus.text)) if corpus.floor and by_character else None
    return Dataset(corpus.identity, tokenizer, train, valid, train_fraction, floor)


def split_text(corpus: Corpus, train_fraction: float) -> tuple[str, str]:
    """The texts to train on and to validate; see `choose_split`."""
    sizes = DocumentSizes()
    if corpus.documents != "none":
        sizes.read(corpus.text)
    split = choose_split(corpus.documents, bool(corpus.valid), train_fraction, len(corpus.text), sizes)
    parts: tuple[list[str], list[str]] = [], []
    for number, piece in split([(0, corpus.text), (1, corpus.valid_text)]):
        parts[number].append(piece)
    return "".join(parts[0]), "".join(parts[1])


def choose_tokenizer(
    tokenizer: Tokenizer | None,
    vocab_size: int | None,
    documents: Documents,
    training: Iterable[str],
    symbols: Iterable[str],
) -> Tokenizer:
    """`tokenizer`, or a new one: of `vocab_size` byte pairs, learned from the text `training`, or of the characters `symbols`. It has a
    mark if the text is made of `documents`."""
    if vocab_size is not None:
        tokenizer = BPETokenizer.learn(training, vocab_size)
    tokenizer = tokenizer or CharTokenizer("".join(sorted(symbols)))
    return tokenizer if documents == "none" else tokenizer.with_marks()


def check_one_kind(tokenizer: Tokenizer | None, vocab_size: int | None) -> None:
    """Raise `UserError` if both are given."""
    if tokenizer is not None and vocab_size is not None:
        raise UserError("`tokenizer` and `vocab_size` exclude each other", "leave out one of them")


def check_splits(data: Dataset, block_size: int) -> None:
    """Raise `UserError` unless both splits hold at least one window of `block_size` tokens and its targets."""
    shorter = min(len(data.train_tokens), len(data.valid_tokens))
    if shorter <= block_size:
        remedy = f"use a block_size of {shorter - 1} or less, or a longer text" if shorter > 1 else "use a longer text"
        tokens = f"{len(data.train_tokens) + len(data.valid_tokens):,} tokens the smaller split has {shorter:,}"
        raise UserError(f"block_size {block_size} does not fit the text: of its {tokens}", remedy)
