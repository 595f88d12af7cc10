"""Folders of tokens: a text of any size, tokenized once and read from the disk in training.

    train.bin, val.bin  nanoGPT's format: the ids of the two splits, uint16, little-endian, nothing else
    meta.json           the tokenizer, the identity of the text, and a checksum of all three files

`prepare.py` writes such a folder, and this file reads it. It also reads folders of nanoGPT. Their `meta.pkl` is a pickle, and
nothing in it is run; without one, or without characters in it, the tokens are GPT-2's.
"""

import hashlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..config import TrainConfig
from ..errors import UserError
from ..files import DAMAGE, explaining_damage, read_text
from .byte_pairs import GPT2_SIZE
from .characters import LISTED, MARK, CharTokenizer, quote_some
from .dataset import Dataset
from .identity import CorpusIdentity
from .plain_pickle import PlainUnpickler
from .tokenizer import Tokenizer, tokenizer_from_json
from .tokenizer_files import gpt2_tokenizer

TOKEN_FILES = ("train.bin", "val.bin")  # under nanoGPT's names
META, NANOGPT_META = "meta.json", "meta.pkl"
ID = np.dtype("<u2")
MOST_IDS = 2 ** (8 * ID.itemsize)
WIDEST = 4  # numbers of 16 bits in the widest integer that others write
CHUNK = 2**20  # bytes of tokens read at a time
DAMAGED = "is damaged, or was written by another program", "prepare it again"  # for `explaining_damage`
GPT2_SIZES = GPT2_SIZE, 50_304  # the second is rounded up to a multiple of 64, as in nanoGPT


def holds_tokens(source: str) -> bool:
    """Whether `source` is a folder of tokens."""
    return os.path.isdir(source) and any(os.path.lexists(os.path.join(source, name)) for name in TOKEN_FILES)


def seal(meta: dict, digests: Sequence[bytes]) -> str:
    """The checksum of a folder: of its meta.json and of the digests of its token files."""
    sealed = {name: value for name, value in meta.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(sealed, sort_keys=True).encode() + b"".join(digests)).hexdigest()


def open_token_folder(path: Path | str) -> Dataset:
    """The tokens in the folder `path`, written by `prepare` or by nanoGPT, as uint16 arrays that stay on the disk.

    Reads both files once, in pieces, for their checksum and their largest id. Raises `UserError` if a file is missing, damaged
    or of another format.
    """
    path, meta = Path(path), None
    with explaining_damage(path, *DAMAGED):
        if os.path.lexists(path / META):
            meta, tokenizer = _read_meta(path / META)
        elif os.path.lexists(path / NANOGPT_META):
            tokenizer = _read_nanogpt_meta(path / NANOGPT_META)
        else:
            tokenizer = _load_gpt2_tokenizer(path)
        counts, digests = zip(*(_inspect(path / name, tokenizer.vocab_size, meta is None) for name in TOKEN_FILES))
    if meta and meta["sha256"] != seal(meta, digests):
        raise _damage(path, f"{META}, {' and '.join(TOKEN_FILES)} are not as they were written")
    kind = CorpusIdentity.documents
    if meta:
        # the checksum of the text: a run on the text can resume with the folder
        own = CorpusIdentity.from_json(meta["corpus"])
        checksum, characters, kind, train_fraction = own.sha256, own.characters, own.documents, meta["train_fraction"]
    else:
        checksum = hashlib.sha256(b"".join(digests)).hexdigest()
        characters = sum(counts) if isinstance(tokenizer, CharTokenizer) else None
        train_fraction = counts[0] / sum(counts)
    identity = CorpusIdentity((str(path),), checksum, characters, kind)
    train, valid = (np.memmap(path / name, dtype=ID, mode="r") for name in TOKEN_FILES)
    return Dataset(identity, tokenizer, train, valid, train_fraction)


def _load_gpt2_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of nanoGPT's folders without a table of symbols."""
    try:
        return gpt2_tokenizer()
    except UserError as error:
        problem = f"{path} has no table of symbols, so its tokens are GPT-2's, and {error.problem}"
        raise UserError(problem, error.remedy) from error


def _inspect(file: Path, vocab_size: int, is_foreign: bool) -> tuple[int, bytes]:
    """The number of tokens in `file`, and its digest. Raises `UserError` for an id beyond the vocabulary, and for wider integers in
    a file of another program."""
    # read, not mapped: mapped pages would count as memory of this process
    count, largest, digest = 0, 0, hashlib.sha256()
    is_zero = np.ones(WIDEST, bool)  # the numbers at each place of a wider integer, in all of the file
    with file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        if size == 0 or size % ID.itemsize:
            raise _damage(file, "it is empty" if size == 0 else f"it has {size:,} bytes, an odd number")
        while chunk := opened.read(CHUNK):
            count += len(chunk)
            digest.update(chunk)
            ids = np.frombuffer(chunk, ID, len(chunk) // ID.itemsize)
            largest = max(largest, int(ids.max(initial=0)))
            for place in np.flatnonzero(is_zero):  # none after the first chunk of most files
                is_zero[place] = not ids[place::WIDEST].any()
    if count != size:
        raise _damage(file, "it changed while it was read")
    if is_foreign and is_zero[1] and is_zero[3] and not is_zero[0] and size >= WIDEST * ID.itemsize:
        bits = 64 if is_zero[2] else 32
        problem = f"{file} holds integers of {bits} bits, and a file of tokens holds uint16"
        raise UserError(problem, "write it again, after array.astype(numpy.uint16)")
    if largest >= vocab_size:
        raise _damage(file, f"it holds the id {largest:,}, and its vocabulary ends at {vocab_size - 1:,}")
    return count // ID.itemsize, digest.digest()


def _read_meta(file: Path) -> tuple[dict, Tokenizer]:
    """The content of `meta.json`, and the tokenizer in it. Only `seal` finds all damage."""
    try:
        meta = json.loads(read_text(file))
        tokenizer = tokenizer_from_json(json.dumps(meta["tokenizer"]))
        TrainConfig(train_fraction=meta["train_fraction"])
        if CorpusIdentity.from_json(meta["corpus"]).characters is None or not isinstance(meta["sha256"], str):
            raise TypeError("the number of characters or the checksum is missing")
        return meta, tokenizer
    except (*DAMAGE, UserError) as error:
        raise _damage(file, f"{type(error).__name__}: {error}") from error


def _read_nanogpt_meta(file: Path) -> Tokenizer:
    """The tokenizer in a `meta.pkl` of nanoGPT."""
    content = file.read_bytes()
    try:
        return _tokenizer_of(PlainUnpickler(io.BytesIO(content)).load(), file.parent)
    except (MemoryError, UserError):
        raise
    except ValueError as error:
        raise UserError(f"{file} cannot be used: {error}", "prepare the text itself") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise _damage(file, f"{type(error).__name__}: {error}") from error


def _tokenizer_of(meta: object, folder: Path) -> Tokenizer:
    """The tokenizer of a dict with `itos`, the characters by their ids, `stoi`, the reverse, and `vocab_size`, which may be rounded
    up; GPT-2's if there are no `itos`. Other entries are ignored. Raises `ValueError` for anything else."""
    given: dict[str, Any] = meta if isinstance(meta, dict) else {}
    vocab_size, itos = given.get("vocab_size"), given.get("itos")
    if itos is None and vocab_size in GPT2_SIZES:
        return _load_gpt2_tokenizer(folder)
    if not isinstance(itos, dict | list | tuple) or not itos:
        raise ValueError(f"it has no table of symbols (itos), and its vocab_size is not GPT-2's ({GPT2_SIZE:,})")
    symbols: list[Any] = [itos.get(i) for i in range(len(itos))] if isinstance(itos, dict) else list(itos)
    if not all(isinstance(symbol, str) for symbol in symbols):
        raise ValueError("its itos lacks some id, or holds something else than characters")
    if longer := [symbol[:LISTED] for symbol in symbols if len(symbol) != 1]:
        raise ValueError(f"it holds symbols of several characters ({quote_some(longer)}), not of one each")
    if type(vocab_size) is not int or vocab_size < len(symbols):
        raise ValueError(f"its vocab_size is no whole number from {len(symbols):,} on, the number of its symbols")
    if given.get("stoi", stoi := {symbol: i for i, symbol in enumerate(symbols)}) != stoi:
        raise ValueError("its stoi is not the reverse of its itos")
    if MARK in stoi:
        raise ValueError("it has a token for a zero character, which stands between documents here")
    return tokenizer_from_json(CharTokenizer("".join(symbols)).to_json())


def _damage(file: Path, reason: str) -> UserError:
    problem, remedy = DAMAGED
    return UserError(f"{file} {problem} ({reason})", remedy)
