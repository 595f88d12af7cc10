"""Documents: the parts of a text that begin and end, such as names, poems or files.

A mark stands before the first document and after each, so that the one that ends a document also starts the next. As a token it is
a character, or the END_OF_TEXT of byte pairs. Splits hold whole documents, shuffled: in a sorted list each document tells how the
next one begins.
"""

import io
import json
import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from itertools import chain, count
from typing import Literal

import numpy as np

from ..errors import UserError
from .characters import MARK

Documents = Literal["lines", "files", "none"]  # in settings
# Gives the pieces of a text, each with a number, the number of their split: 0 trains, 1 validates.
Split = Callable[[Iterable[tuple[int, str]]], Iterable[tuple[int, str]]]
JSON_LINES = (".jsonl", ".ndjson")
PART = 2**20  # tokens read at a time
ORDER_SEED = 0  # the order of documents is the same in every run
PLAIN = "or read it as plain text, with `documents` none"


def mark(pieces: Iterator[str], documents: Documents, name: str) -> Iterator[str]:
    """Yield the text of `pieces` with a mark before and after each document: the whole text, or each line of it. A line of the
    JSON Lines `name` is an object, whose field "text" is the document."""
    if documents == "lines":
        pieces = _read_json(pieces, name) if name.lower().endswith(JSON_LINES) else _mark_lines(pieces)
    return chain([MARK], pieces, [MARK])


def squeeze(pieces: Iterable[str]) -> Iterator[str]:
    """Yield a marked text without empty documents."""
    after_mark = False
    for piece in pieces:
        piece = re.sub(f"{MARK}+", MARK, piece)
        if piece := piece.removeprefix(MARK) if after_mark else piece:
            yield piece
            after_mark = piece[-1] == MARK


def _mark_lines(pieces: Iterable[str]) -> Iterator[str]:
    ends = io.IncrementalNewlineDecoder(None, translate=True)  # a piece may end between \r and \n
    for piece in pieces:
        yield ends.decode(piece).replace("\n", MARK)
    yield ends.decode("", final=True).replace("\n", MARK)


def _read_json(pieces: Iterable[str], name: str) -> Iterator[str]:
    rest, numbers = "", count(1)
    for piece in chain(pieces, ["\n"]):
        *lines, rest = (rest + piece).split("\n")
        found = [_text_of(line, f"line {n:,} of {name}") + MARK for line, n in zip(lines, numbers) if line.strip()]
        yield "".join(found)


def _text_of(line: str, where: str) -> str:
    """The field "text" of the object `line`."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({error})", f"correct it, {PLAIN}") from error
    if not isinstance(content, dict) or not isinstance(text := content.get("text"), str):
        fields = f"its fields are {', '.join(content) or 'none'}" if isinstance(content, dict) else "it is no object"
        raise UserError(f"{where} has no text in a field text: {fields}", f'write {{"text": "..."}}, {PLAIN}')
    if any(character == MARK or "\ud800" <= character <= "\udfff" for character in text):
        raise UserError(
            f"the text in {where} has a character that no UTF-8 text may have here", f"take it out, {PLAIN}"
        )
    return text


class DocumentSizes:
    """The lengths and hashes of the documents of a marked text, which is read piece by piece."""

    def __init__(self) -> None:
        self.lengths, self.hashes = array("Q"), array("Q")
        self._length, self._hash = 0, blake2b(digest_size=8)

    def read(self, piece: str) -> None:
        """Read the next piece of the text."""
        for part, is_end in _parts(piece):
            self._length += len(part)
            self._hash.update(part.encode())
            if is_end and self._length:
                self.lengths.append(self._length)
                self.hashes.append(int.from_bytes(self._hash.digest(), "little"))
                self._length, self._hash = 0, blake2b(digest_size=8)

    def choose_validation(self, train_fraction: float) -> np.ndarray:
        """Whether a document, (N,), belongs to the validation split, which has at most 1 - `train_fraction` of the characters (but one
        document at least). Raises `UserError` if there is only one.

        The order of hashes decides: the same documents are chosen from a sorted list and from a shuffled one, and equal
        documents stay together.
        """
        _, which = np.unique(np.asarray(self.hashes), return_inverse=True)  # (N,), in the order of hashes
        sizes = np.bincount(which, np.asarray(self.lengths))  # characters of equal documents
        if len(sizes) < 2:
            problem = "the text has only one document (equal ones count once), so none is left to validate"
            raise UserError(problem, "give `documents` none, or a validation text with `valid_data`")
        room, chosen = (1 - train_fraction) * sizes.sum(), np.zeros(len(sizes), bool)
        for i, size in enumerate(sizes):
            if size <= room:
                chosen[i], room = True, room - size
        chosen[sizes.argmin()] |= not chosen.any()
        return chosen[which]


def choose_split(
    documents: Documents, has_valid: bool, train_fraction: float, characters: int, sizes: DocumentSizes
) -> Split:
    """What splits a text of so many `characters`, or of documents of these `sizes`: its validation text, if it has one of its own; else
    whole documents; or the first `train_fraction` trains and the rest validates."""
    if has_valid:
        return lambda pieces: pieces
    if documents == "none":
        boundary = int(train_fraction * characters)
        return lambda pieces: _cut(pieces, boundary)
    is_valid = sizes.choose_validation(train_fraction)
    return lambda pieces: _deal_out(pieces, is_valid)


def _cut(pieces: Iterable[tuple[int, str]], boundary: int) -> Iterator[tuple[int, str]]:
    """Give the first `boundary` characters the number 0, and the rest 1."""
    for _, piece in pieces:
        for number, part in enumerate((piece[:boundary], piece[boundary:])):
            if part:
                yield number, part
        boundary = max(boundary - len(piece), 0)


def _deal_out(pieces: Iterable[tuple[int, str]], is_valid: np.ndarray) -> Iterator[tuple[int, str]]:
    """Give the documents that validate, (N,), the number 1, and the others 0. Both are marked texts."""
    yield from ((0, MARK), (1, MARK))
    document, length = 0, 0
    for _, piece in pieces:
        found: tuple[list[str], list[str]] = [], []
        for part, is_end in _parts(piece):
            length += len(part)
            if length:
                found[int(is_valid[document])].append(part + MARK * is_end)
            if is_end and length:
                document, length = document + 1, 0
        for number, parts in enumerate(found):
            if parts:
                yield number, "".join(parts)


def _parts(piece: str) -> Iterator[tuple[str, bool]]:
    """Yield the parts of a piece between marks, and whether a document ends after each."""
    *ended, rest = piece.split(MARK)
    for part in ended:
        yield part, True
    if rest:
        yield rest, False


def find_marks(tokens: np.ndarray, mark: int) -> np.ndarray:
    """The places of the marks in the tokens (N,) of a marked text, which may be an `np.memmap`; one more than it has documents."""
    starts = range(0, len(tokens), PART)
    return np.concatenate([start + np.flatnonzero(tokens[start : start + PART] == mark) for start in starts])


def shuffle(tokens: np.ndarray, mark: int) -> Iterator[np.ndarray]:
    """Yield the tokens (N,) of a marked text, whose mark is the token `mark`, with the documents in random order, the same in every
    call. Reads a part at a time, so `tokens` may be an `np.memmap`."""
    tokens = np.asarray(tokens)  # a slice of an array costs less than one of a memmap
    ends = find_marks(tokens, mark)
    order = np.random.default_rng(ORDER_SEED).permutation(len(ends) - 1)
    yield tokens[:1]
    for some in np.array_split(order, -(-len(tokens) // PART)):
        yield np.concatenate([tokens[:0], *(tokens[ends[i] + 1 : ends[i + 1] + 1] for i in some)])
