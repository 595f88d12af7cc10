"""Where text comes from: tiny Shakespeare (downloaded once), the built-in pastiche, or the user's files, folders and pipes.

`read_pieces` reads any of it piece by piece; `load_corpus` joins the pieces, and `prepared.py` never holds them together.
"""

import codecs
import hashlib
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from . import pastiche
from .errors import UserError, printable
from .files import cache_dir, replacing

TINYSHAKESPEARE = "tinyshakespeare"
TINYSHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
TINYSHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
TINYSHAKESPEARE_BYTES = 1_115_394
PASTICHE = "pastiche"
DOWNLOAD_TIMEOUT = 10.0  # seconds of silence
DOWNLOAD_DEADLINE = 120.0  # seconds for all of it
STANDARD_INPUT = "-"
PIPE = "pipe a text into it (a run that learned from standard input needs the same text again)"
TOKEN_FILES = ("train.bin", "val.bin")  # of a folder of tokens, under nanoGPT's names
PIECE = 2**20  # bytes of text read at a time


class CorpusUnavailable(UserError):
    """Tiny Shakespeare is not in the cache and could not be downloaded."""


@dataclass(frozen=True)
class CorpusIdentity:
    """Which text it is, without the text: where it came from, the checksum of its UTF-8, and its length where that is known.

    The tokens that `prepare` wrote are known by the checksum of their text, those of nanoGPT by that of their files.
    """

    sources: tuple[str, ...]
    sha256: str
    characters: int | None

    @property
    def name(self) -> str:
        return " + ".join(_name(source) for source in self.sources)


@dataclass(frozen=True)
class Corpus:
    """A text and where it came from. `floor(start, stop)`, where known, is the loss in nats per character of
    `text[start:stop]` that no model can beat except by luck."""

    sources: tuple[str, ...]
    text: str
    floor: Callable[[int, int], float] | None = None

    @cached_property
    def identity(self) -> CorpusIdentity:
        return CorpusIdentity(self.sources, hashlib.sha256(self.text.encode()).hexdigest(), len(self.text))


def load_corpus(*sources: str) -> Corpus:
    """The texts of `sources`, one after the other, exactly as they are.

    A source is "tinyshakespeare", "pastiche", "-" for standard input, the path of a UTF-8 text file, or a folder: all
    `*.txt` files below it in the order of their names, but the hidden ones. Raises `CorpusUnavailable` where a download is
    needed and fails, `UserError` for any other text that cannot be used.
    """
    floor = pastiche.write().floor if sources == (PASTICHE,) else None
    return Corpus(sources, "".join(read_pieces(sources)), floor)


def read_pieces(sources: Sequence[str], standard_input: BinaryIO | None = None) -> Iterator[str]:
    """What `load_corpus` joins, in pieces of at most `PIECE` bytes (the built-in texts: in one), so that the whole need not
    fit in memory. `standard_input` is read in the place of the process's own. Raises what `load_corpus` raises.
    """
    if sources.count(STANDARD_INPUT) > 1:
        raise UserError(f"standard input can be read only once; give --data {STANDARD_INPUT} once")
    for source in sources:
        empty = True
        for piece in _pieces(source, standard_input):
            empty = False
            yield piece
        if empty:
            remedy = PIPE if source == STANDARD_INPUT else "--data needs a text to learn from"
            raise UserError(f"{_name(source)} is empty; {remedy}")


def holds_tokens(source: str) -> bool:
    """Whether `source` is a folder of tokens, which `open_prepared` reads, rather than a text."""
    return os.path.isdir(source) and any(os.path.lexists(os.path.join(source, name)) for name in TOKEN_FILES)


def check_readable_again(sources: Sequence[str]) -> None:
    """Raise `UserError` if one of `sources` is a pipe with a name: it gives its text once."""
    for source in sources:
        if stat.S_ISFIFO(_mode(source)):
            raise UserError(
                f"{_name(source)} is a pipe and gives its text only once; pipe the text into --data {STANDARD_INPUT}, "
                f"or name a file"
            )


def _mode(path: str) -> int:
    """What kind of file lies there; 0 if none does."""
    try:
        return os.stat(path).st_mode
    except (OSError, ValueError):
        return 0


def _name(source: str) -> str:
    return "standard input" if source == STANDARD_INPUT else printable(source)


def _pieces(source: str, standard_input: BinaryIO | None) -> Iterator[str]:
    """The text of one source; no piece is empty."""
    if source == TINYSHAKESPEARE:
        yield _tinyshakespeare().decode()
    elif source == PASTICHE:
        yield pastiche.write().text
    elif source == STANDARD_INPUT:
        yield from _decoded(standard_input or _own_standard_input(), _name(source))
    else:
        for path in _files(source):
            try:
                file = path.open("rb")
            except OSError as error:
                raise _unreadable(path, error) from error
            with file:
                yield from _decoded(file, str(path))


def _files(path: str) -> list[Path]:
    """The text files that the path of a file or of a folder stands for."""
    if stat.S_ISCHR(_mode(path)) or stat.S_ISBLK(_mode(path)):  # endless, or a keyboard
        raise UserError(f"{path} is a device, not a text; name a file, or pipe a text into --data {STANDARD_INPUT}")
    if not os.path.isdir(path):
        return [Path(path)]
    if holds_tokens(path):
        raise UserError(
            f"{path} holds tokens ({' and '.join(TOKEN_FILES)}), not text; give it alone to mlx-gpt train --data, or name "
            f"text files"
        )

    def refuse(error: OSError) -> None:
        raise _unreadable(Path(error.filename), error)

    found = []
    for folder, below, names in os.walk(path, onerror=refuse):
        # what is hidden are an editor's copies and, on a Mac's external disks, binary "._" companions
        below[:] = [each for each in below if not each.startswith(".")]
        found += [Path(folder, each) for each in names if each.endswith(".txt") and not each.startswith(".")]
    if not found:
        raise UserError(f"{path} holds no *.txt file; name the text file itself with --data")
    return sorted(found)


def _own_standard_input() -> BinaryIO:
    if sys.stdin is None or sys.stdin.isatty():
        raise UserError(f"standard input is not a file and not a pipe; {PIPE}")
    return sys.stdin.buffer


def _decoded(file: BinaryIO, name: str) -> Iterator[str]:
    """The text of a UTF-8 file that is called `name` where it has to be refused."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = lines = 0  # bytes and line ends before `chunk`
    beginning = True
    while True:
        try:
            chunk = file.read(PIECE)
        except OSError as error:
            raise _unreadable(name, error) from error
        if b"\0" in chunk:
            raise UserError(
                f"{name} is not text: there is a zero byte at {position + chunk.index(0):,}; save it as UTF-8"
            )
        waiting = len(decoder.getstate()[0])  # bytes of a character that the chunk before ended in
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            raw, at = error.object, error.start
            line = lines + raw.count(b"\n", 0, at) + 1
            raise UserError(
                f"{name} is not UTF-8: byte {raw[at]:#04x} at {position - waiting + at:,} (line {line:,}); save it as UTF-8"
            ) from error
        position, lines = position + len(chunk), lines + chunk.count(b"\n")
        if beginning and text:
            beginning, text = False, text.removeprefix("\ufeff")
        if text:
            yield text
        if not chunk:
            return


def _unreadable(path: Path | str, error: OSError) -> UserError:
    return UserError(
        f"{path} cannot be read ({error.strerror}); --data takes {TINYSHAKESPEARE}, {PASTICHE} or a UTF-8 text file, a folder of "
        f"*.txt files, or {STANDARD_INPUT} for standard input"
    )


def _tinyshakespeare() -> bytes:
    cached = cache_dir() / "tinyshakespeare.txt"
    try:
        if cached.is_file() and _is_tinyshakespeare(text := cached.read_bytes()):
            return text
    except OSError as error:
        raise UserError(
            f"{cached} cannot be read ({error.strerror}); set XDG_CACHE_HOME to a folder that can"
        ) from error
    import http.client  # only here and below: these take 15 ms, which every start would pay
    import ssl

    try:
        text = _download()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        certificates = isinstance(reason, ssl.SSLCertVerificationError)
        remedy = "run the Install Certificates command of this Python" if certificates else "connect to the network"
        raise CorpusUnavailable(
            f"tiny Shakespeare could not be downloaded from {TINYSHAKESPEARE_URL} ({reason}); {remedy}, put the file "
            f"at {cached}, or train on the built-in corpus with --data {PASTICHE}"
        ) from error
    if not _is_tinyshakespeare(text):
        more = " and more" if len(text) > TINYSHAKESPEARE_BYTES else ""
        raise UserError(
            f"what {TINYSHAKESPEARE_URL} sent is not tiny Shakespeare ({len(text):,} bytes{more} with another sha256, "
            f"perhaps a sign-in page of the network); it was thrown away: try again, or give another text with --data"
        )
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with replacing(cached) as aside:
            aside.write_bytes(text)
    except OSError as error:
        raise UserError(
            f"{cached} cannot be written ({error.strerror}); set XDG_CACHE_HOME to a folder that can"
        ) from error
    return text


def _download() -> bytes:
    """What the server sends, up to a byte more than tiny Shakespeare has. Raises `OSError` or `HTTPException`."""
    import http.client
    import urllib.request

    ends: list[bytes | Exception] = []

    def fetch() -> None:
        try:
            with urllib.request.urlopen(TINYSHAKESPEARE_URL, timeout=DOWNLOAD_TIMEOUT) as response:
                text = response.read(TINYSHAKESPEARE_BYTES + 1)
                if response.length and len(text) <= TINYSHAKESPEARE_BYTES:
                    raise http.client.IncompleteRead(text, response.length)
                ends.append(text)
        except Exception as error:
            ends.append(error)

    # a thread, for a socket's own time limit begins anew with every byte
    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    thread.join(DOWNLOAD_DEADLINE)
    if not ends:
        raise TimeoutError(f"it was not complete after {DOWNLOAD_DEADLINE:g} s")
    if isinstance(ends[0], Exception):
        raise ends.pop()  # kept, it would keep itself and its connection
    return ends[0]


def _is_tinyshakespeare(text: bytes) -> bool:
    return hashlib.sha256(text).hexdigest() == TINYSHAKESPEARE_SHA256
