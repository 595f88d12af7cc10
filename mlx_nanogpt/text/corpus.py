"""Read text: a built-in one, or the user's files, folders and pipes; or the tokens of a prepared folder."""

import codecs
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..errors import UserError
from . import pastiche
from .dataset import Dataset
from .folders import count_kinds, folder_files
from .identity import STANDARD_INPUT, Corpus, explaining_size, source_name
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
PIPE = "pipe a text into it (a run that learned from standard input needs the same text again)"
PIECE = 2**20  # bytes of text read at a time
NEW_LINE = b"\n"
PREPARE, NOTES = "prepare.py", {"readme.md"}  # what a folder of nanoGPT's data holds at first


@explaining_size()
def load_corpus(*sources: str, separate: bool = True) -> Corpus:
    """The texts of `sources`, one after the other, without byte order marks. A text begins on a line of its own, unless `separate` is
    false, as for older runs.

    A source is a name in `BUILT_IN`, "-" for standard input, the path of a UTF-8 text file, or a folder, of which
    `folder_files` chooses the texts. Raises `CorpusUnavailable` if a download fails, `UserError` for any other text that cannot
    be used.
    """
    floor = pastiche.write().floor if sources == (PASTICHE,) else None
    return Corpus(sources, "".join(read_pieces(sources, separate=separate)), floor)


def read_data(sources: Sequence[str], separate: bool = True) -> Corpus | Dataset:
    """The text of all `sources`, or the tokens of the only one. Raises the same errors as `load_corpus`, whose `separate` it has."""
    return open_token_folder(sources[0]) if is_token_folder(sources) else load_corpus(*sources, separate=separate)


def is_token_folder(sources: Sequence[str]) -> bool:
    """Whether `sources` is one folder of tokens. `read_data` then takes a second or two per GB to check it."""
    return len(sources) == 1 and holds_tokens(sources[0])


def read_pieces(sources: Sequence[str], standard_input: BinaryIO | None = None, separate: bool = True) -> Iterator[str]:
    """Yield the texts of `sources` in pieces of at most `PIECE` bytes, so that they need not fit in memory; a built-in text is
    one piece. `standard_input` replaces that of the process. Raises the same errors as `load_corpus`, whose `separate` it has.
    """
    if sources.count(STANDARD_INPUT) > 1:
        raise UserError("standard input can be read only once", f"give `data` {STANDARD_INPUT} once")
    last = "\n"  # character so far
    for source in sources:
        empty = True
        with _explaining(source):
            for text in _texts(source, standard_input):
                for i, piece in enumerate(text):
                    if i == 0 and separate and last != "\n":
                        yield "\n"
                    yield piece
                    empty, last = False, piece[-1]
        if empty:
            remedy = PIPE if source == STANDARD_INPUT else "`data` needs a text to learn from"
            raise UserError(f"{source_name(source)} is empty", remedy)


@contextmanager
def _explaining(source: str) -> Iterator[None]:
    """Turn an error of reading `source` in the body into a `UserError`."""
    try:
        yield
    except OSError as error:
        takes = f"{', '.join(BUILT_IN)}, a UTF-8 text file, a folder of texts, or {STANDARD_INPUT} for standard input"
        problem = f"{error.filename or source_name(source)} cannot be read ({error.strerror})"
        raise UserError(problem, f"`data` takes {takes}") from error


def holds_texts(source: str) -> bool:
    """Whether `source` is a folder of texts."""
    return source not in (*BUILT_IN, STANDARD_INPUT) and os.path.isdir(source) and not holds_tokens(source)


def check_readable_again(sources: Sequence[str]) -> None:
    """Raise `UserError` if one of `sources` is a named pipe, which can be read only once."""
    for source in sources:
        if stat.S_ISFIFO(_mode(source)):
            problem = f"{source_name(source)} is a pipe and gives its text only once"
            raise UserError(problem, f"pipe the text into `data` {STANDARD_INPUT}, or name a file")


def _mode(path: str) -> int:
    """The mode of the file at `path`; 0 if there is none."""
    try:
        return os.stat(path).st_mode
    except (OSError, ValueError):
        return 0


def _texts(source: str, standard_input: BinaryIO | None) -> Iterator[Iterator[str]]:
    """Yield the texts of one source, each in pieces, of which none is empty."""
    if source in BUILT_IN:
        yield iter([BUILT_IN[source].text()])
    elif source == STANDARD_INPUT:
        yield _decode(standard_input or _open_standard_input(), source_name(source))
    else:
        for path in _files(source):
            with path.open("rb") as file:
                yield _decode(file, str(path))


def _files(path: str) -> Sequence[Path]:
    """The text files at `path`, a file or a folder."""
    if stat.S_ISCHR(_mode(path)) or stat.S_ISBLK(_mode(path)):  # it may be endless, or a keyboard
        raise UserError(f"{path} is a device", f"name a file, or pipe a text into `data` {STANDARD_INPUT}")
    if re.match(r"\w+://", path):
        raise UserError(f"{path} is an address, not a file", f"download it, as with curl -LO {path}, and name the file")
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
