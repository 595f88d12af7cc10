"""Read text: a built-in one, or the user's files, folders and pipes; or the tokens of a prepared folder."""

import codecs
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..config import check_choice
from ..errors import UserError
from ..files import explaining_read
from . import pastiche
from .characters import MARK
from .dataset import Dataset
from .documents import JSON_LINES, Documents, mark, squeeze
from .folders import SplitFolder, count_kinds, find_splits, folder_files
from .identity import STANDARD_INPUT, Corpus, Texts, explaining_size, names_of, source_name
from .tinyshakespeare import tinyshakespeare
from .token_files import TOKEN_FILES, holds_tokens, open_token_folder

TINYSHAKESPEARE, PASTICHE = "tinyshakespeare", "pastiche"


class BuiltIn(NamedTuple):
    """A text with a name: a note for the help, and the function that returns it."""

    note: str
    text: Callable[[], str]


BUILT_IN = {
    TINYSHAKESPEARE: BuiltIn("downloaded once", tinyshakespeare),
    PASTICHE: BuiltIn("built in", lambda: pastiche.write().text),
}
A_TEXT = (
    f"a text is {', '.join(BUILT_IN)}, a UTF-8 text file, a folder of texts, or {STANDARD_INPUT} for standard input"
)
PIPE = "pipe a text into it (a run that learned from standard input needs the same text again)"
PIECE = 2**20  # bytes of text read at a time
NEW_LINE = b"\n"
PREPARE, NOTES = "prepare.py", {"readme.md"}  # what a folder of nanoGPT's data holds at first


def choose_texts(sources: Sequence[str], valid: Sequence[str] = (), documents: Documents | None = None) -> Texts:
    """The texts to train on and to validate, and what a document is. A folder such as train.txt and valid.txt is split by its names
    (`find_splits`), and its test files are left out. `valid` replaces its validation texts.

    Without a choice of `documents`, JSON Lines hold one in each line, and each file of a folder is one; other texts are none.
    """
    train: list[str] = []
    found: list[str] = []
    folders, files = [], []  # the files to train on
    for source in sources:
        taken = folder_files(source).taken if holds_texts(source) else None
        splits = (taken and find_splits(source, taken)) or SplitFolder([source], [], [])
        train, found = [*train, *splits.train], [*found, *splits.valid]
        own = [file for file in taken or [Path(source)] if any(file.is_relative_to(name) for name in splits.train)]
        files += own
        folders.append(taken is not None and len(own) > 1)
    own_valid = [part for name in valid for part in _validation_part(name)]
    _check_apart(own_valid, train)
    if documents is not None:
        check_choice("documents", documents, Documents)
    else:
        are_lines = all(file.suffix.lower() in JSON_LINES for file in files)
        documents = "lines" if are_lines else "files" if any(folders) else "none"
    return Texts(tuple(train), documents, tuple(own_valid or found))


def _validation_part(source: str) -> list[str]:
    """What validates of a folder whose names tell splits; any other source itself."""
    splits = find_splits(source, folder_files(source).taken) if holds_texts(source) else None
    return splits.valid if splits and splits.valid else [source]


def _check_apart(valid: Sequence[str], train: Sequence[str]) -> None:
    """Raise `UserError` if one of the texts `valid` is one of `train`, or lies in a folder of them."""
    for own in valid:
        for other in train:
            if own != STANDARD_INPUT and Path(own).resolve().is_relative_to(Path(other).resolve()):
                problem = f"{source_name(own)} validates, and is a part of {source_name(other)}, which trains"
                raise UserError(problem, "take it out of there, or give another `valid_data`")


def load_corpus(
    *sources: Path | str, valid: Sequence[Path | str] | Path | str = (), documents: Documents | None = None
) -> Corpus:
    """The texts of `sources`, one after the other, without byte order marks, as `choose_texts` understands them. A text that is no
    document begins on a line of its own. `valid`, one or several, are texts to validate on, instead of on a part of the others.

    A source is a name in `BUILT_IN`, "-" for standard input, the path of a UTF-8 text file, or a folder, of which
    `folder_files` chooses the texts. Raises `CorpusUnavailable` if a download fails, `UserError` for any other text that cannot
    be used.
    """
    return read_corpus(choose_texts(names_of(sources), names_of(valid), documents))


@explaining_size()
def read_corpus(texts: Texts) -> Corpus:
    """The text of `texts`. Raises the same errors as `load_corpus`."""
    parts: tuple[list[str], list[str]] = [], []
    for split, piece in read_pieces(texts):
        parts[split].append(piece)
    text, valid_text = map("".join, parts)
    floor = pastiche.write().floor if texts == Texts((PASTICHE,)) else None
    return Corpus(texts.sources, text, floor, texts.documents, texts.valid, valid_text)


def read_data(
    sources: Sequence[str], valid: Sequence[str] = (), documents: Documents | None = None
) -> Corpus | Dataset:
    """The text of `load_corpus`, or the tokens in a folder, if `sources` is one. Raises the same errors, and `UserError` if `valid` or
    `documents` is given for tokens, which are split already."""
    if not is_token_folder(sources):
        return load_corpus(*sources, valid=valid, documents=documents)
    if valid or documents:
        problem = f"{source_name(sources[0])} holds tokens, split already"
        raise UserError(
            problem, f"leave out `{'valid_data' if valid else 'documents'}`, or prepare the text again with it"
        )
    return open_token_folder(sources[0])


def is_token_folder(sources: Sequence[str]) -> bool:
    """Whether `sources` is one folder of tokens. `open_token_folder` then takes a second or two per GB to check it."""
    return len(sources) == 1 and holds_tokens(sources[0])


def read_pieces(texts: Texts, standard_input: BinaryIO | None = None) -> Iterator[tuple[int, str]]:
    """Yield the text of `texts` in pieces of at most `PIECE` bytes, so that it need not fit in memory; a built-in text is one piece.
    Each has the number 0, or 1 in a validation text of its own. `standard_input` replaces that of the process. Raises the same
    errors as `load_corpus`.
    """
    if [*texts.sources, *texts.valid].count(STANDARD_INPUT) > 1:
        raise UserError("standard input can be read only once", f"give {STANDARD_INPUT} once")
    for split, sources in enumerate((texts.sources, texts.valid)):
        pieces = _read(sources, texts.documents, standard_input)
        for piece in pieces if texts.documents == "none" else squeeze(pieces):
            yield split, piece


def _read(sources: Sequence[str], documents: Documents, standard_input: BinaryIO | None) -> Iterator[str]:
    last = "\n"  # character so far
    for source in sources:
        empty = True
        with explaining_read(source_name(source), A_TEXT):
            for name, text in _texts(source, standard_input):
                if documents != "none":
                    text = mark(text, documents, name)
                elif last != "\n":
                    yield "\n"
                for piece in filter(None, text):
                    yield piece
                    empty, last = empty and not piece.strip(MARK), piece[-1]
        if empty:
            remedy = PIPE if source == STANDARD_INPUT else "name another text"
            raise UserError(f"{source_name(source)} is empty", remedy)


def read_source(source: str) -> str:
    """The text of the UTF-8 file `source`, or of standard input for "-". Raises `UserError` if it cannot be read."""
    with explaining_read(source_name(source), f"name a UTF-8 text file, or {STANDARD_INPUT} for standard input"):
        if source == STANDARD_INPUT:
            return "".join(_decode(sys.stdin.buffer, source_name(source)))
        with open(source, "rb") as file:
            return "".join(_decode(file, source))


def holds_texts(source: str) -> bool:
    """Whether `source` is a folder of texts."""
    return source not in (*BUILT_IN, STANDARD_INPUT) and os.path.isdir(source) and not holds_tokens(source)


def check_readable_again(sources: Sequence[str]) -> None:
    """Raise `UserError` if one of `sources` is a named pipe, which can be read only once."""
    for source in sources:
        with suppress(OSError):  # who reads it explains that
            if Path(source).is_fifo():
                problem = f"{source_name(source)} is a pipe and gives its text only once"
                raise UserError(problem, f"pipe the text into `data` {STANDARD_INPUT}, or name a file")


def _texts(source: str, standard_input: BinaryIO | None) -> Iterator[tuple[str, Iterator[str]]]:
    """Yield the names and the texts of one source, each text in pieces, of which none is empty."""
    if source in BUILT_IN:
        yield source, iter([BUILT_IN[source].text()])
    elif source == STANDARD_INPUT:
        name = source_name(source)
        yield name, _decode(standard_input or _open_standard_input(), name)
    else:
        for path in _files(source):
            with path.open("rb") as file:
                yield str(path), _decode(file, str(path))


def _files(path: str) -> Sequence[Path]:
    """The text files at `path`, a file or a folder."""
    if re.match(r"\w+://", path):
        raise UserError(f"{path} is an address, not a file", f"download it, as with curl -LO {path}, and name the file")
    if Path(path).is_char_device() or Path(path).is_block_device():  # it may be endless, or a keyboard
        raise UserError(f"{path} is a device", f"name a file, or pipe a text into `data` {STANDARD_INPUT}")
    if not os.path.isdir(path):
        return [Path(path)]
    if holds_tokens(path):
        problem = f"{path} holds tokens ({' and '.join(TOKEN_FILES)}), not text"
        raise UserError(problem, "give it alone as `data` to train on, or name text files")
    files = folder_files(path)
    if not files.taken:
        held = f"nothing but {count_kinds(files.left)}" if files.left else "no file"
        raise UserError(f"{path} holds no text ({held})", "name a text file, or a folder of some, with `data`")
    if {file.relative_to(path).as_posix().lower() for file in files.taken} - NOTES == {PREPARE}:
        problem = f"{path} is a folder of nanoGPT that is not prepared yet"
        raise UserError(problem, f"run its {PREPARE}, which writes {' and '.join(TOKEN_FILES)}, or name a text")
    return files.taken


def _open_standard_input() -> BinaryIO:
    if sys.stdin is None or sys.stdin.isatty():
        raise UserError("standard input is not a file or a pipe", PIPE)
    return sys.stdin.buffer


def _decode(file: BinaryIO, name: str) -> Iterator[str]:
    """Yield the text of a UTF-8 file; errors call it `name`."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = lines = 0  # bytes and line ends before `chunk`
    beginning = True
    while True:
        chunk = file.read(PIECE)
        if b"\0" in chunk:
            place = f"{position + chunk.index(0):,}"
            raise UserError(f"{name} is not text: there is a zero byte at {place}", "save it as UTF-8")
        waiting = len(decoder.getstate()[0])  # bytes of a character that began in the chunk before
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            raw, at = error.object, error.start
            place = f"{position - waiting + at:,} (line {lines + raw.count(NEW_LINE, 0, at) + 1:,})"
            remedy = "save it as UTF-8, or take it out of the folder" if "/" in name else "save it as UTF-8"
            raise UserError(f"{name} is not UTF-8: byte {raw[at]:#04x} at {place}", remedy) from error
        position, lines = position + len(chunk), lines + chunk.count(NEW_LINE)
        if beginning and text:
            beginning, text = False, text.removeprefix("\ufeff")
        if text:
            yield text
        if not chunk:
            return
