"""Write a text of any size as a folder of tokens. The text is read twice, in pieces; or three times, to learn byte pairs."""

import hashlib
import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

from ..config import TrainConfig
from ..errors import UserError
from ..files import Folder, locked
from .byte_pairs import BPETokenizer, cut_between_tokens
from .characters import CharTokenizer
from .corpus import check_readable_again, read_pieces
from .dataset import check_one_kind
from .identity import STANDARD_INPUT, CorpusIdentity
from .token_files import ID, META, MOST_IDS, TOKEN_FILES, seal
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class TokensRead:
    """Characters read so far. `total` is None while they are counted, and known while they are encoded."""

    characters: int
    total: int | None


@dataclass(frozen=True)
class Learning:
    """Byte pairs are being learned from the text."""


@dataclass(frozen=True)
class TokensWritten:
    """A folder was written: its path, its numbers of tokens, and the size of its vocabulary."""

    path: Path
    train_tokens: int
    valid_tokens: int
    vocab_size: int


def prepare(
    sources: Sequence[str],
    out: Path,
    train_fraction: float = TrainConfig.train_fraction,
    tokenizer: Tokenizer | None = None,
    vocab_size: int | None = None,
) -> Iterator[TokensRead | Learning | TokensWritten]:
    """Write the text that `load_corpus(*sources)` would load into the folder `out` as tokens, its first `train_fraction`
    (of the characters) for training; yield how far it is and, at the end, what was written.

    `tokenizer` and `vocab_size` are those of `tokenize`. Memory does not grow with the text; standard input is kept
    in a temporary file, to be read twice. The files are complete or not there. Raises `UserError` if the text cannot be
    used, has more different tokens than uint16 has ids, or `out` holds such files or cannot be written.
    """
    TrainConfig(train_fraction=train_fraction)  # checks it
    check_one_kind(tokenizer, vocab_size)
    if vocab_size is not None and vocab_size > MOST_IDS:
        raise UserError(
            f"vocab_size {vocab_size:,} is more than these files have ids for",
            f"give at most {MOST_IDS}, or train on the text itself, with `data`",
        )
    if any(os.path.isdir(source) and os.path.isdir(out) and os.path.samefile(source, out) for source in sources):
        raise UserError(f"{out} holds the text itself, which its tokens would hide", "choose another `out`")
    check_readable_again(sources)
    with _new_files_in(out) as folder, TemporaryFile(dir=out) as spool:
        if STANDARD_INPUT in sources:
            for piece in read_pieces([STANDARD_INPUT]):
                spool.write(piece.encode())

        def read() -> Iterator[str]:
            spool.seek(0)
            return read_pieces(sources, spool)

        identity, characters, symbols = yield from _count(sources, read)
        boundary = int(train_fraction * characters)
        if not 0 < boundary < characters:
            raise UserError(
                f"a text of {characters:,} characters cannot be split at {train_fraction:g} of it",
                "use a longer text",
            )
        if vocab_size is not None:
            yield Learning()
            tokenizer = BPETokenizer.learned(
                (piece for part, piece in _split(read(), boundary) if part == 0), vocab_size
            )
        tokenizer = tokenizer or CharTokenizer("".join(sorted(symbols)))
        if tokenizer.vocab_size > MOST_IDS:
            raise UserError(
                f"the text has {tokenizer.vocab_size:,} different tokens, and these files have ids for {MOST_IDS:,}",
                "train on the text itself, with `data`",
            )
        train_count, valid_count = yield from _encode(folder, read, identity, boundary, tokenizer, train_fraction)
    yield TokensWritten(out, train_count, valid_count, tokenizer.vocab_size)


def _count(
    sources: Sequence[str], read: Callable[[], Iterator[str]]
) -> Generator[TokensRead, None, tuple[CorpusIdentity, int, set[str]]]:
    """Which text it is, how many characters it has, and the different ones."""
    characters, checksum = 0, hashlib.sha256()
    symbols: set[str] = set()
    for piece in read():
        characters += len(piece)
        symbols.update(piece)
        checksum.update(piece.encode())
        yield TokensRead(characters, None)
    return CorpusIdentity(tuple(sources), checksum.hexdigest(), characters), characters, symbols


def _encode(
    folder: Folder,
    read: Callable[[], Iterator[str]],
    identity: CorpusIdentity,
    boundary: int,
    tokenizer: Tokenizer,
    train_fraction: float,
) -> Generator[TokensRead, None, list[int]]:
    """Write the files of both splits and their description; how many tokens each has."""
    again, done, counts, digests = hashlib.sha256(), 0, [], []
    train, valid = map(folder.replacing, TOKEN_FILES)
    # train.bin gets its name last: a folder without it is refused. One without meta.json would be read as nanoGPT's
    with train as train_file, folder.replacing(META) as meta_file, valid as valid_file:
        parts = groupby(_split(read(), boundary), itemgetter(0))
        for (_, part), file in zip(parts, (train_file, valid_file)):
            count, digest = 0, hashlib.sha256()
            for piece in _cut((piece for _, piece in part), tokenizer):
                ids = tokenizer.encode(piece).astype(ID)
                file.write(ids.data)
                digest.update(ids.data)
                again.update(piece.encode())
                count += len(ids)
                done += len(piece)
                yield TokensRead(done, identity.characters)
            file.flush()  # on a full disk this fails before any file has its name
            counts.append(count)
            digests.append(digest.digest())
        if again.hexdigest() != identity.sha256:
            raise UserError(f"{identity.name} changed while it was read", "prepare it again once it is at rest")
        _describe(meta_file, identity, tokenizer, train_fraction, digests)
    return counts


def _cut(pieces: Iterable[str], tokenizer: Tokenizer) -> Iterable[str]:
    """`pieces`, cut so that no token is divided."""
    return pieces if isinstance(tokenizer, CharTokenizer) else cut_between_tokens(pieces)


def _describe(
    file: BinaryIO, identity: CorpusIdentity, tokenizer: Tokenizer, train_fraction: float, digests: Sequence[bytes]
) -> None:
    meta = {
        "tokenizer": json.loads(tokenizer.to_json()),
        "corpus": asdict(identity),
        "train_fraction": train_fraction,
    }
    meta["sha256"] = seal(meta, digests)
    file.write((json.dumps(meta, indent=2) + "\n").encode())


@contextmanager
def _new_files_in(path: Path) -> Iterator[Folder]:
    """Make the folder `path` if there is none, lock it, and remove half-written files. If the body raises, a folder that was
    made here is removed."""
    made = not os.path.lexists(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with locked(path) as folder:
            if taken := [name for name in (*TOKEN_FILES, META) if folder.holds(name)]:
                raise UserError(f"{path} already holds a {taken[0]}", "choose another `out`, or delete the folder")
            folder.sweep(*TOKEN_FILES, META)
            yield folder
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})", "make room, or choose another `out`") from error
    finally:
        if made and os.path.isdir(path) and not os.listdir(path):
            path.rmdir()


def _split(pieces: Iterable[str], boundary: int) -> Iterator[tuple[int, str]]:
    """Pairs of a number and a piece: 0 for the first `boundary` characters, 1 for the rest."""
    for piece in pieces:
        for part, text in enumerate((piece[:boundary], piece[boundary:])):
            if text:
                yield part, text
        boundary = max(boundary - len(piece), 0)
