"""Write a text of any size as a folder of tokens. Reads the text three times, in pieces, and once more to learn byte pairs."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, Literal

import numpy as np

from ..config import TrainConfig
from ..errors import UserError
from ..files import LOCK, Folder, explaining_write, locked
from .byte_pairs import cut_between_tokens
from .characters import CharTokenizer
from .corpus import check_readable_again, choose_texts, read_pieces
from .dataset import check_one_kind, choose_tokenizer
from .documents import Documents, DocumentSizes, Split, choose_split, shuffle
from .identity import STANDARD_INPUT, CorpusIdentity, TextChecksum, Texts, names_of
from .token_files import ID, META, MOST_IDS, TOKEN_FILES, seal
from .tokenizer import Tokenizer

Read = Callable[[], Iterator[tuple[int, str]]]  # pieces of the text, as `read_pieces` yields them


@dataclass(frozen=True)
class Preparing:
    """A stage, and the characters that it has read. `total` is None until they are counted."""

    stage: Literal["Counting", "Learning", "Encoding"]
    characters: int
    total: int | None = None


@dataclass(frozen=True)
class TokensWritten:
    """The folder that was written."""

    path: Path
    train_tokens: int
    valid_tokens: int
    vocab_size: int


def prepare(
    sources: Sequence[Path | str] | Path | str,
    out: Path | str,
    train_fraction: float = TrainConfig.train_fraction,
    tokenizer: Tokenizer | None = None,
    vocab_size: int | None = None,
    valid: Sequence[Path | str] | Path | str = (),
    documents: Documents | None = None,
) -> Iterator[Preparing | TokensWritten]:
    """Write the text of `sources`, one or several, with `valid` and `documents` as in `load_corpus`, into the folder `out` as tokens,
    in the splits of `tokenize`; yield the progress and, at the end, `TokensWritten`.

    `tokenizer` and `vocab_size` are those of `tokenize`. Memory does not grow with the text, but by some 70 bytes a document;
    standard input is kept in a temporary file, to be read again. The files are complete or not there. Raises `UserError` if the text
    cannot be used, has more different tokens than uint16 has ids, or `out` holds such files or cannot be written.
    """
    out, names = Path(out), names_of(sources)
    TrainConfig(train_fraction=train_fraction)  # checks it
    check_one_kind(tokenizer, vocab_size)
    if vocab_size is not None and vocab_size > MOST_IDS:
        problem = f"vocab_size {vocab_size:,} is more than the {MOST_IDS:,} ids of these files"
        raise UserError(problem, f"give at most {MOST_IDS}, or train on the text itself, with `data`")
    if any(os.path.isdir(source) and os.path.isdir(out) and os.path.samefile(source, out) for source in names):
        raise UserError(f"{out} holds the text itself, which its tokens would hide", "choose another `out`")
    texts = choose_texts(names, names_of(valid), documents)
    named = [*texts.sources, *texts.valid]
    check_readable_again(named)
    with _new_files_in(out) as folder, TemporaryFile(dir=out) as spool:
        if STANDARD_INPUT in named:
            for _, piece in read_pieces(Texts((STANDARD_INPUT,))):
                spool.write(piece.encode())

        def read() -> Iterator[tuple[int, str]]:
            spool.seek(0)
            return read_pieces(texts, spool)

        identity, symbols, split = yield from _count(texts, read, train_fraction)
        if vocab_size is not None:
            yield Preparing("Learning", identity.characters or 0)
        training = (piece for number, piece in split(read()) if number == 0)
        tokenizer = choose_tokenizer(tokenizer, vocab_size, texts.documents, training, symbols)
        if tokenizer.vocab_size > MOST_IDS:
            problem = (
                f"the text has {tokenizer.vocab_size:,} different tokens, and these files have ids for {MOST_IDS:,}"
            )
            raise UserError(problem, "train on the text itself, with `data`")
        meta = {
            "tokenizer": json.loads(tokenizer.to_json()),
            "corpus": asdict(identity),
            "train_fraction": train_fraction,
        }
        counts = yield from _encode(folder, read, split, identity, tokenizer, meta)
    yield TokensWritten(out, *counts, tokenizer.vocab_size)


def _count(
    texts: Texts, read: Read, train_fraction: float
) -> Generator[Preparing, None, tuple[CorpusIdentity, set[str], Split]]:
    """Return the identity of the text, its different characters, and what splits it."""
    count, checksum, sizes = 0, TextChecksum(), DocumentSizes()
    symbols: set[str] = set()
    for _, piece in checksum.of(read()):
        count += len(piece)
        symbols.update(piece)
        if texts.documents != "none":
            sizes.read(piece)
        yield Preparing("Counting", count)
    split = choose_split(texts.documents, bool(texts.valid), train_fraction, count, sizes)
    if texts.documents == "none" and not texts.valid and not 0 < int(train_fraction * count) < count:
        problem = f"a text of {count:,} characters cannot be split at {train_fraction:g} of it"
        raise UserError(problem, "use a longer text")
    return CorpusIdentity(texts.sources, checksum.hexdigest(), count, texts.documents, texts.valid), symbols, split


def _encode(
    folder: Folder, read: Read, split: Split, identity: CorpusIdentity, tokenizer: Tokenizer, meta: dict
) -> Generator[Preparing, None, tuple[int, int]]:
    """Write the files of both splits and `meta`; return the number of tokens of each split."""
    done, splits = 0, []
    marked = identity.documents != "none"
    train, valid = map(folder.replacing, TOKEN_FILES)
    # train.bin gets its name last: a folder without it is refused. One without meta.json would be read as nanoGPT's
    with train as train_file, folder.replacing(META) as meta_file, valid as valid_file:
        for number, file in enumerate((train_file, valid_file)):
            checksum = TextChecksum()
            splits.append(kept := _Split(file))
            texts: Iterable[str] = (piece for part, piece in split(checksum.of(read())) if part == number)
            if not isinstance(tokenizer, CharTokenizer):
                texts = cut_between_tokens(texts)  # a token may reach from one piece into the next
            with TemporaryFile(dir=folder.path) as unshuffled:
                for text in texts:
                    (unshuffled if marked else kept).write(tokenizer.encode(text).astype(ID).data)
                    done += len(text)
                    yield Preparing("Encoding", done, identity.characters)
                if marked:
                    unshuffled.flush()
                    for ids in shuffle(np.memmap(unshuffled, ID, "r"), tokenizer.start_token):
                        kept.write(ids.data)
            file.flush()  # on a full disk this fails before any file has its name
            if checksum.hexdigest() != identity.sha256:
                raise UserError(f"{identity.name} changed while it was read", "try again, and do not edit it meanwhile")
        sealed = meta | {"sha256": seal(meta, [kept.digest.digest() for kept in splits])}
        meta_file.write((json.dumps(sealed, indent=2) + "\n").encode())
    return splits[0].tokens, splits[1].tokens


class _Split:
    """The file of a split, with the digest and the number of its tokens so far."""

    def __init__(self, file: BinaryIO):
        self.file, self.digest, self.tokens = file, hashlib.sha256(), 0

    def write(self, ids: memoryview) -> None:
        self.file.write(ids)
        self.digest.update(ids)
        self.tokens += len(ids)


@contextmanager
def _new_files_in(path: Path) -> Iterator[Folder]:
    """Yield the folder `path`, locked, without half-written files; create it if there is none. If the body raises, a folder that
    was created is removed."""
    created = not os.path.lexists(path)
    try:
        with explaining_write(path, "make room, or choose another `out`"):
            path.mkdir(parents=True, exist_ok=True)
            with locked(path) as folder:
                if taken := [name for name in (*TOKEN_FILES, META) if folder.holds(name)]:
                    raise UserError(f"{path} already holds a {taken[0]}", "choose another `out`, or delete the folder")
                folder.sweep(*TOKEN_FILES, META)
                try:
                    yield folder
                except BaseException:  # a full disk may have taken some of the files
                    folder.remove(*TOKEN_FILES, META)
                    raise
    finally:
        if created:
            with suppress(UserError, OSError), locked(path):  # nobody else writes there
                if os.listdir(path) == [LOCK]:
                    shutil.rmtree(path)
