"""Folders of tokens: a text of any size, tokenized once and trained on from the disk.

    train.bin, val.bin  nanoGPT's format: the ids of the two splits, uint16, little-endian, nothing else
    meta.json           the tokenizer, which text it was, and a checksum of all three files

`prepare.py` writes such a folder, and this file reads it. It also reads folders of nanoGPT. Their `meta.pkl` is a pickle, of
which nothing is run; without one, the tokens are GPT-2's.
"""

import hashlib
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..config import TrainConfig
from ..errors import UserError
from ..exchange.tokenizer_files import gpt2_tokenizer
from ..files import DAMAGE
from .characters import CharTokenizer
from .dataset import Dataset
from .identity import CorpusIdentity
from .plain_pickle import PlainUnpickler
from .tokenizer import Tokenizer, tokenizer_from_json

TOKEN_FILES = ("train.bin", "val.bin")  # under nanoGPT's names
META, NANOGPT_META = "meta.json", "meta.pkl"
ID = np.dtype("<u2")
MOST_IDS = 2 ** (8 * ID.itemsize)
CHUNK = 2**20  # bytes of tokens read at a time
LARGEST_META = 2**24  # bytes; with the largest vocabulary both kinds are far smaller


def holds_tokens(source: str) -> bool:
    """Whether `source` is a folder of tokens, for `open_token_folder`."""
    return os.path.isdir(source) and any(os.path.lexists(os.path.join(source, name)) for name in TOKEN_FILES)


def seal(meta: dict, digests: Sequence[bytes]) -> str:
    """The checksum of a folder: of its description and of the digests of its token files."""
    said = {name: value for name, value in meta.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode() + b"".join(digests)).hexdigest()


@dataclass(frozen=True)
class _Tokens:
    """The result of one pass over a file of tokens."""

    count: int
    largest: int
    digest: bytes


def open_token_folder(path: Path) -> Dataset:
    """The tokens in the folder `path`, written by `prepare` or by nanoGPT, as uint16 arrays that stay on the disk.

    Both files are read once, in pieces, for their checksum and their largest id. Raises `UserError` if a file is missing,
    damaged or of another format.
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
    if meta and meta["sha256"] != seal(meta, digests):
        raise _damaged(path, f"{META}, {' and '.join(TOKEN_FILES)} are not as they were written")
    for name, part in zip(TOKEN_FILES, parts):
        if part.largest >= tokenizer.vocab_size:
            raise _damaged(
                path / name,
                f"it holds the id {part.largest:,}, and its vocabulary ends at {tokenizer.vocab_size - 1:,}",
            )
    count = sum(part.count for part in parts)
    if meta:
        # the checksum of the text: a run on the text can go on with the folder
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
        problem = f"{path} has no {META} and no {NANOGPT_META}, so its tokens are GPT-2's, and {error.problem}"
        raise UserError(problem, error.remedy) from error


def _inspect(file: Path) -> _Tokens:
    # read, not mapped: mapped pages would count as memory of this process
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
    """The content of `meta.json`, and the tokenizer in it. Only `seal` can tell whether it is undamaged."""
    content = _read_bounded(file)
    try:
        meta = json.loads(content)
        tokenizer = tokenizer_from_json(json.dumps(meta["tokenizer"]))
        TrainConfig(train_fraction=meta["train_fraction"])
        if CorpusIdentity.from_json(meta["corpus"]).characters is None or not isinstance(meta["sha256"], str):
            raise TypeError("the number of characters or the checksum is none")
        return meta, tokenizer
    except (*DAMAGE, UserError) as error:
        raise _damaged(file, f"{type(error).__name__}: {error}") from error


def _read_nanogpt_meta(file: Path) -> Tokenizer:
    """The tokenizer in a `meta.pkl` of nanoGPT: a dict of `vocab_size`, `itos` and `stoi`."""
    content = _read_bounded(file)
    try:
        meta = PlainUnpickler(io.BytesIO(content)).load()
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
        "".join(symbols).encode()  # raises for a surrogate, which is half a character
        return tokenizer_from_json(CharTokenizer("".join(symbols)).to_json())
    except Exception as error:  # a damaged pickle can raise anything
        raise _damaged(file, f"{type(error).__name__}: {error}") from error


def _read_bounded(file: Path) -> bytes:
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
        f"{file} cannot be read ({error.strerror})",
        f"a folder of tokens has {' and '.join(TOKEN_FILES)}: prepare it again",
    )


def _damaged(file: Path, reason: str) -> UserError:
    return UserError(
        f"{file} is damaged, or was written by another program ({reason})", "prepare it again, or restore it"
    )
