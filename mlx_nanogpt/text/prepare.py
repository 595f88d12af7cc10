"""Write a text of any size as a folder of tokens. Reads the text twice, in pieces, and once more to learn byte pairs."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

from ..config import TrainConfig
from ..errors import UserError
from ..files import LOCK, Folder, explaining_write, locked
from .byte_pairs import BPETokenizer, cut_between_tokens
from .characters import CharTokenizer
from .corpus import check_readable_again, read_pieces
from .dataset import check_one_kind
from .identity import STANDARD_INPUT, CorpusIdentity
from .token_files import ID, META, MOST_IDS, TOKEN_FILES, seal
from .tokenizer import Tokenizer


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
) -> Iterator[Preparing | TokensWritten]:
    """Write the text of `sources`, one or several as in `load_corpus`, into the folder `out` as tokens, its first
    `train_fraction` (of the characters) for training; yield the progress and, at the end, `TokensWritten`.

    `tokenizer` and `vocab_size` are those of `tokenize`. Memory does not grow with the text; standard input is kept in a
    temporary file, to be read twice. The files are complete or not there. Raises `UserError` if the text cannot be used, has
    more different tokens than uint16 has ids, or `out` holds such files or cannot be written.
    """
    given = [sources] if isinstance(sources, str | Path) else sources
    out, names = Path(out), list(map(str, given))
    TrainConfig(train_fraction=train_fraction)  # checks it
    check_one_kind(tokenizer, vocab_size)
    if vocab_size is not None and vocab_size > MOST_IDS:
        problem = f"vocab_size {vocab_size:,} is more than the {MOST_IDS:,} ids of these files"
        raise UserError(problem, f"give at most {MOST_IDS}, or train on the text itself, with `data`")
    if any(os.path.isdir(source) and os.path.isdir(out) and os.path.samefile(source, out) for source in names):
        raise UserError(f"{out} holds the text itself, which its tokens would hide", "choose another `out`")
    check_readable_again(names)
    with _new_files_in(out) as folder, TemporaryFile(dir=out) as spool:
        if STANDARD_INPUT in names:
            for piece in read_pieces([STANDARD_INPUT]):
                spool.write(piece.encode())

        def read() -> Iterator[str]:
            spool.seek(0)
            return read_pieces(names, spool)

        identity, symbols = yield from _count(names, read)
        characters = identity.characters or 0
        boundary = int(train_fraction * characters)
        if not 0 < boundary < characters:
            problem = f"a text of {characters:,} characters cannot be split at {train_fraction:g} of it"
            raise UserError(problem, "use a longer text")
        if vocab_size is not None:
            yield Preparing("Learning", characters)
            training_pieces = (piece for part, piece in _split(read(), boundary) if part == 0)
            tokenizer = BPETokenizer.learn(training_pieces, vocab_size)
        tokenizer = tokenizer or CharTokenizer("".join(sorted(symbols)))
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
        counts = yield from _encode(folder, _split(read(), boundary), identity, tokenizer, meta)
    yield TokensWritten(out, *counts, tokenizer.vocab_size)


def _count(
    sources: Sequence[str], read: Callable[[], Iterator[str]]
) -> Generator[Preparing, None, tuple[CorpusIdentity, set[str]]]:
    """Return the identity of the text, and its different characters."""
    characters, checksum = 0, hashlib.sha256()
    symbols: set[str] = set()
    for piece in read():
        characters += len(piece)
        symbols.update(piece)
        checksum.update(piece.encode())
        yield Preparing("Counting", characters)
    return CorpusIdentity(tuple(sources), checksum.hexdigest(), characters), symbols


def _encode(
    folder: Folder, pieces: Iterator[tuple[int, str]], identity: CorpusIdentity, tokenizer: Tokenizer, meta: dict
) -> Generator[Preparing, None, tuple[int, int]]:
    """Write the files of both splits and `meta`; return the number of tokens of each split. `pieces` come from `_split`."""
    again, done, counts, digests = hashlib.sha256(), 0, [], []
    train, valid = map(folder.replacing, TOKEN_FILES)
    # train.bin gets its name last: a folder without it is refused. One without meta.json would be read as nanoGPT's
    with train as train_file, folder.replacing(META) as meta_file, valid as valid_file:
        for (_, part), file in zip(groupby(pieces, itemgetter(0)), (train_file, valid_file)):
            texts: Iterable[str] = (piece for _, piece in part)
            if not isinstance(tokenizer, CharTokenizer):
                texts = cut_between_tokens(texts)  # a token may reach from one piece into the next
            count, digest = 0, hashlib.sha256()
            for text in texts:
                ids = tokenizer.encode(text).astype(ID)
                file.write(ids.data)
                digest.update(ids.data)
                again.update(text.encode())
                count += len(ids)
                done += len(text)
                yield Preparing("Encoding", done, identity.characters)
            file.flush()  # on a full disk this fails before any file has its name
            counts.append(count)
            digests.append(digest.digest())
        if again.hexdigest() != identity.sha256:
            raise UserError(f"{identity.name} changed while it was read", "try again, and do not edit it meanwhile")
        meta_file.write((json.dumps(meta | {"sha256": seal(meta, digests)}, indent=2) + "\n").encode())
    return counts[0], counts[1]


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


def _split(pieces: Iterable[str], boundary: int) -> Iterator[tuple[int, str]]:
    """Yield pairs of a number and a piece: 0 for the first `boundary` characters, 1 for the rest."""
    for piece in pieces:
        for part, text in enumerate((piece[:boundary], piece[boundary:])):
            if text:
                yield part, text
        boundary = max(boundary - len(piece), 0)
