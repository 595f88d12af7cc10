"""Folders of tokens: a text of any size, tokenized once and trained on from the disk.

    train.bin, val.bin  nanoGPT's format: the ids of the two splits, uint16, little-endian, nothing else
    meta.json           the tokenizer, which text it was, and a checksum of all three files

`prepare` writes such a folder and `open_token_folder` reads it, or one that nanoGPT wrote: with its `meta.pkl`, a pickle,
whose code is never run, or without any, which means GPT-2's tokens. Neither ever holds more than a piece in memory.
"""

import hashlib
import io
import json
import os
import pickle
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryFile
from typing import NoReturn

import numpy as np

from ..config import TrainConfig
from ..errors import UserError
from ..exchange.gpt2 import gpt2_tokenizer
from ..files import DAMAGE, Folder, locked
from .byte_pairs import cut_between_tokens
from .characters import CharTokenizer
from .corpus import STANDARD_INPUT, TOKEN_FILES, CorpusIdentity, check_readable_again, read_pieces
from .dataset import Dataset
from .tokenizer import Tokenizer, tokenizer_from_json

META, NANOGPT_META = "meta.json", "meta.pkl"
ID = np.dtype("<u2")
MOST_IDS = 2 ** (8 * ID.itemsize)
CHUNK = 2**20  # bytes of tokens read at a time
LARGEST_META = 2**24  # bytes; both kinds stay far below it with the largest vocabulary


@dataclass(frozen=True)
class TokensRead:
    """Characters read so far: without a `total` they are being counted, with it encoded."""

    characters: int
    total: int | None


@dataclass(frozen=True)
class TokensWritten:
    """A folder that was written, its tokens and its vocabulary."""

    path: Path
    train_tokens: int
    valid_tokens: int
    vocab_size: int


# ---- writing


def prepare(
    sources: Sequence[str],
    path: Path,
    train_fraction: float = TrainConfig.train_fraction,
    tokenizer: Tokenizer | None = None,
) -> Iterator[TokensRead | TokensWritten]:
    """Write the text that `load_corpus(*sources)` would load into the folder `path` as tokens, its first `train_fraction`
    (of the characters) for training; yield how far it is and, at the end, what was written.

    Without a `tokenizer` it is that of the text's own characters. Memory does not grow with the text, which is read twice;
    standard input is kept in a temporary file for that. The files are complete or not there. Raises `UserError` if the
    text cannot be used, has more characters than uint16 has ids, or `path` holds such files or cannot be written.
    """
    TrainConfig(train_fraction=train_fraction)  # checks it
    if any(os.path.isdir(source) and os.path.isdir(path) and os.path.samefile(source, path) for source in sources):
        raise UserError(f"{path} holds the text itself, which its tokens would hide; choose another --out")
    check_readable_again(sources)
    with _new_files_in(path) as folder, TemporaryFile(dir=path) as spool:
        if STANDARD_INPUT in sources:
            for piece in read_pieces([STANDARD_INPUT]):
                spool.write(piece.encode())

        def read() -> Iterator[str]:
            spool.seek(0)
            return read_pieces(sources, spool)

        characters, symbols, checksum = 0, set(), hashlib.sha256()
        for piece in read():
            characters += len(piece)
            symbols.update(piece)
            checksum.update(piece.encode())
            yield TokensRead(characters, None)
        boundary = int(train_fraction * characters)
        if not 0 < boundary < characters:
            raise UserError(
                f"a text of {characters:,} characters cannot be split at {train_fraction:g} of it; use a longer text"
            )
        tokenizer = tokenizer or CharTokenizer("".join(sorted(symbols)))
        if tokenizer.vocab_size > MOST_IDS:
            raise UserError(
                f"the text has {tokenizer.vocab_size:,} different characters, and these files have ids for {MOST_IDS:,}; "
                f"leave some out, or train on the text itself with mlx-gpt train --data"
            )
        identity = CorpusIdentity(tuple(sources), checksum.hexdigest(), characters)

        train, valid = map(folder.replacing, TOKEN_FILES)
        # train.bin gets its name last: a folder without it is never taken for a whole one, as one without meta.json is
        with train as train_file, folder.replacing(META) as meta_file, valid as valid_file:
            again, done, counts, digests = hashlib.sha256(), 0, [], []
            parts = groupby(_split(read(), boundary), itemgetter(0))
            for (_, part), file in zip(parts, (train_file, valid_file)):
                count, digest = 0, hashlib.sha256()
                pieces = (piece for _, piece in part)
                # characters may be cut anywhere
                for piece in pieces if isinstance(tokenizer, CharTokenizer) else cut_between_tokens(pieces):
                    ids = tokenizer.encode(piece).astype(ID)
                    file.write(ids.data)
                    digest.update(ids.data)
                    again.update(piece.encode())
                    count += len(ids)
                    done += len(piece)
                    yield TokensRead(done, characters)
                file.flush()  # a full disk shows here, before any file has its name
                counts.append(count)
                digests.append(digest.digest())
            if again.digest() != checksum.digest():
                raise UserError(f"{identity.name} changed while it was read; prepare it again once it is at rest")
            meta = {
                "tokenizer": json.loads(tokenizer.to_json()),
                "corpus": asdict(identity),
                "train_fraction": train_fraction,
            }
            meta["sha256"] = _seal(meta, digests)
            meta_file.write((json.dumps(meta, indent=2) + "\n").encode())
    yield TokensWritten(path, *counts, tokenizer.vocab_size)


@contextmanager
def _new_files_in(path: Path) -> Iterator[Folder]:
    """Make the folder `path` if there is none, hold it so that no other process prepares into it, and remove what a killed
    one left there. If the body raises, a folder that was made here goes away again."""
    made = not os.path.lexists(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with locked(path) as folder:
            if taken := [name for name in (*TOKEN_FILES, META) if folder.holds(name)]:
                raise UserError(f"{path} already holds a {taken[0]}; choose another --out, or take that file away")
            folder.sweep(*TOKEN_FILES, META)
            yield folder
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); make room, or choose another --out") from error
    finally:
        if made and os.path.isdir(path) and not os.listdir(path):
            path.rmdir()


def _split(pieces: Iterable[str], boundary: int) -> Iterator[tuple[int, str]]:
    """The pieces of the first `boundary` characters, each with a 0, and those of the rest, each with a 1."""
    for piece in pieces:
        for part, text in enumerate((piece[:boundary], piece[boundary:])):
            if text:
                yield part, text
        boundary = max(boundary - len(piece), 0)


def _seal(meta: dict, digests: Sequence[bytes]) -> str:
    """The checksum of a folder: of what its description says and of the digests of its token files."""
    said = {name: value for name, value in meta.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode() + b"".join(digests)).hexdigest()


# ---- reading


@dataclass(frozen=True)
class _Tokens:
    """What one pass over a file of tokens tells."""

    count: int
    largest: int
    digest: bytes


def open_token_folder(path: Path) -> Dataset:
    """The tokens in the folder `path`, written by `prepare` or by nanoGPT, as uint16 arrays that stay on the disk.

    Both files are read once, in pieces, for their checksum, which tells whether they are still as they were written, and for
    their largest id. Raises `UserError` if a file is missing, damaged or not of this format.
    """
    meta = None
    if os.path.lexists(path / META):
        meta, tokenizer = _read_meta(path / META)
    elif os.path.lexists(path / NANOGPT_META):
        tokenizer = _read_nanogpt_meta(path / NANOGPT_META)
    else:
        tokenizer = _gpt2s(path)
    parts = [_inspect(path / name) for name in TOKEN_FILES]
    digests = [part.digest for part in parts]
    if meta and meta["sha256"] != _seal(meta, digests):
        raise _damaged(path, f"{META}, {' and '.join(TOKEN_FILES)} are not as they were written")
    for name, part in zip(TOKEN_FILES, parts):
        if part.largest >= tokenizer.vocab_size:
            raise _damaged(
                path / name,
                f"it holds the id {part.largest:,}, and its vocabulary ends at {tokenizer.vocab_size - 1:,}",
            )
    count = sum(part.count for part in parts)
    if meta:
        # the text's own checksum: a run on the text and one on the folder know each other by it
        checksum, characters = meta["corpus"]["sha256"], meta["corpus"]["characters"]
        train_fraction = meta["train_fraction"]
    else:
        checksum = hashlib.sha256(b"".join(digests)).hexdigest()
        characters = count if isinstance(tokenizer, CharTokenizer) else None
        train_fraction = parts[0].count / count
    identity = CorpusIdentity((str(path),), checksum, characters)
    train, valid = (np.memmap(path / name, dtype=ID, mode="r") for name in TOKEN_FILES)
    return Dataset(identity, tokenizer, train, valid, train_fraction)


def _gpt2s(path: Path) -> Tokenizer:
    """nanoGPT's folders without a meta.pkl are of GPT-2's tokens."""
    try:
        return gpt2_tokenizer()
    except UserError as error:
        raise UserError(
            f"{path} has no {META} and no {NANOGPT_META}, so its tokens are GPT-2's, and {error}"
        ) from error


def _inspect(file: Path) -> _Tokens:
    # read, not mapped: what is read here does not count as this process's memory
    count, largest, digest = 0, 0, hashlib.sha256()
    try:
        with file.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            if size == 0 or size % ID.itemsize:
                raise _damaged(file, "it is empty" if size == 0 else f"it has {size:,} bytes, an odd number")
            while chunk := opened.read(CHUNK):
                count += len(chunk)
                digest.update(chunk)
                largest = max(largest, int(np.frombuffer(chunk, ID, len(chunk) // ID.itemsize).max(initial=0)))
    except OSError as error:
        raise _unreadable(file, error) from error
    if count != size:
        raise _damaged(file, "it changed while it was read")
    return _Tokens(count // ID.itemsize, largest, digest.digest())


def _read_meta(file: Path) -> tuple[dict, Tokenizer]:
    """What `prepare` wrote into `meta.json`, and the tokenizer in it; whether it is still that only `_seal` can tell."""
    content = _read(file)
    try:
        meta = json.loads(content)
        tokenizer = tokenizer_from_json(json.dumps(meta["tokenizer"]))
        TrainConfig(train_fraction=meta["train_fraction"])
        if CorpusIdentity.from_json(meta["corpus"]).characters is None or not isinstance(meta["sha256"], str):
            raise TypeError("the number of characters or the checksum is none")
        return meta, tokenizer
    except (*DAMAGE, UserError) as error:
        raise _damaged(file, f"{type(error).__name__}: {error}") from error


def _read_nanogpt_meta(file: Path) -> CharTokenizer:
    """The tokenizer in a `meta.pkl` of nanoGPT: a dict of `vocab_size`, `itos` and `stoi`."""
    content = _read(file)
    try:
        meta = _PlainUnpickler(io.BytesIO(content)).load()
        vocab_size, itos, stoi = meta["vocab_size"], meta["itos"], meta["stoi"]
        symbols = [itos[i] for i in range(len(itos))]
        if type(vocab_size) is not int or not vocab_size == len(symbols) <= MOST_IDS:
            raise ValueError(f"vocab_size is {vocab_size!r} and itos has {len(symbols)} ids")
        if not all(isinstance(each, str) and len(each) == 1 for each in symbols):
            raise ValueError("itos holds something else than single characters")
        if stoi != {symbol: i for i, symbol in enumerate(symbols)}:
            raise ValueError("stoi is not the reverse of itos")
        if symbols != sorted(symbols):
            raise ValueError("its characters are not in the order of their code points, as nanoGPT writes them")
        "".join(symbols).encode()  # half a character (a surrogate) is none
        return tokenizer_from_json(CharTokenizer("".join(symbols)).to_json())
    except Exception as error:  # a damaged pickle can raise whatever it likes
        raise _damaged(file, f"{type(error).__name__}: {error}") from error


PLAIN = """PROTO FRAME STOP MARK EMPTY_DICT DICT SETITEM SETITEMS MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET
    INT BININT BININT1 BININT2 LONG LONG1 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
    GLOBAL STACK_GLOBAL"""  # the last two for the reason that find_class gives


class _PlainUnpickler(pickle._Unpickler):
    """Reads dicts, strings and whole numbers, and refuses whatever else a pickle may carry, above all calls.

    It is the one written in Python: in C, a few bytes can make it take any amount of memory. Tuples are refused because
    hashing deep ones ends the process.
    """

    dispatch = {
        code[0]: pickle._Unpickler.dispatch[code[0]] for code in (getattr(pickle, name) for name in PLAIN.split())
    }

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module}.{name}, and nothing of a pickle is run here")


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            if size > LARGEST_META:
                raise _damaged(file, f"it has {size:,} bytes, and none has more than {LARGEST_META:,}")
            return opened.read(size)
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: OSError) -> UserError:
    return UserError(
        f"{file} cannot be read ({error.strerror}); a folder of tokens has {' and '.join(TOKEN_FILES)}: prepare it again "
        f"with mlx-gpt prepare"
    )


def _damaged(file: Path, reason: str) -> UserError:
    return UserError(
        f"{file} is damaged, or was written by another program ({reason}); prepare it again, or restore it"
    )
