"""A text as tokens, in two splits: one to train on, one to validate."""

from dataclasses import dataclass

import numpy as np

from ..config import TrainConfig
from ..errors import UserError
from .byte_pairs import BPETokenizer, pieces_of
from .characters import CharTokenizer
from .documents import DocumentSizes, count_documents, shuffle, split_documents
from .identity import Corpus, CorpusIdentity, explaining_size
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class Dataset:
    """The tokens of the two splits, (N,) each, their tokenizer, and the identity of the text. `floor` is the lowest loss that a
    model can reach on the validation split, in nats per character, if that is known; for byte pairs it is not. `documents` are the
    numbers of documents in the splits, if the text is made of some."""

    corpus: CorpusIdentity
    tokenizer: Tokenizer
    train_tokens: np.ndarray
    valid_tokens: np.ndarray
    train_fraction: float
    floor: float | None = None
    documents: tuple[int, int] | None = None

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
    marked = corpus.documents != "none"
    texts = split_text(corpus, train_fraction)
    if vocab_size is not None:
        tokenizer = BPETokenizer.learn(pieces_of(texts[0]), vocab_size)
    tokenizer = tokenizer or CharTokenizer.of("".join(texts))
    tokenizer = tokenizer.with_marks() if marked else tokenizer
    train, valid = map(tokenizer.encode, texts)
    counts = None
    if marked:
        mark = tokenizer.start_token
        train, valid = (np.concatenate([*shuffle(tokens, mark)]) for tokens in (train, valid))
        counts = count_documents(train, mark), count_documents(valid, mark)
    by_character = isinstance(tokenizer, CharTokenizer)
    floor = corpus.floor(len(texts[0]), len(corpus.text)) if corpus.floor and by_character else None
    return Dataset(corpus.identity, tokenizer, train, valid, train_fraction, floor, counts)


def split_text(corpus: Corpus, train_fraction: float) -> tuple[str, str]:
    """The texts to train on and to validate: the validation text is one of its own, if there is one; or whole documents; or the end of
    the text, after its first `train_fraction`."""
    text = corpus.text
    if corpus.valid:
        return text, corpus.valid_text
    if corpus.documents == "none":
        boundary = int(train_fraction * len(text))
        return text[:boundary], text[boundary:]
    sizes = DocumentSizes()
    sizes.read(text)
    parts: tuple[list[str], list[str]] = [], []
    for split, piece in split_documents([text], sizes.choose_validation(train_fraction)):
        parts[split].append(piece)
    return "".join(parts[0]), "".join(parts[1])


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
