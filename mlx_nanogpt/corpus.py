"""Where text comes from: tiny Shakespeare (downloaded once), the built-in pastiche, or a file of the user's."""

import hashlib
import http.client
import ssl
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from . import pastiche
from .errors import UserError
from .files import cache_dir, replacing

TINYSHAKESPEARE = "tinyshakespeare"
TINYSHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
TINYSHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
PASTICHE = "pastiche"
DOWNLOAD_TIMEOUT = 10.0  # seconds of silence


class CorpusUnavailable(UserError):
    """Tiny Shakespeare is not in the cache and could not be downloaded."""


@dataclass(frozen=True)
class CorpusIdentity:
    """Which text it is, without the text: where it came from, its checksum, and its length where that is known."""

    sources: tuple[str, ...]
    sha256: str
    characters: int | None

    @property
    def name(self) -> str:
        return " + ".join(self.sources)


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


def load_corpus(source: str) -> Corpus:
    """The corpus called `source`: "tinyshakespeare", "pastiche", or else the path of a UTF-8 text file.

    Raises `CorpusUnavailable` where a download is needed and fails, `UserError` for any other text that cannot be used.
    """
    if source == TINYSHAKESPEARE:
        return Corpus((source,), _tinyshakespeare().decode())
    if source == PASTICHE:
        play = pastiche.write()
        return Corpus((source,), play.text, play.floor)
    return Corpus((source,), _read_text(Path(source)))


def _tinyshakespeare() -> bytes:
    cached = cache_dir() / "tinyshakespeare.txt"
    try:
        if cached.is_file() and _is_tinyshakespeare(text := cached.read_bytes()):
            return text
    except OSError as error:
        raise UserError(
            f"{cached} cannot be read ({error.strerror}); set XDG_CACHE_HOME to a folder that can"
        ) from error
    try:
        with urllib.request.urlopen(TINYSHAKESPEARE_URL, timeout=DOWNLOAD_TIMEOUT) as response:
            text = response.read()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        certificates = isinstance(reason, ssl.SSLCertVerificationError)
        remedy = "run the Install Certificates command of this Python" if certificates else "connect to the network"
        raise CorpusUnavailable(
            f"tiny Shakespeare could not be downloaded from {TINYSHAKESPEARE_URL} ({reason}); {remedy}, put the file at {cached}, or train on the built-in corpus with --data {PASTICHE}"
        ) from error
    if not _is_tinyshakespeare(text):
        raise UserError(
            f"what {TINYSHAKESPEARE_URL} sent is not tiny Shakespeare ({len(text):,} bytes with another sha256, perhaps "
            f"a sign-in page of the network); it was thrown away: try again, or give another text with --data"
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


def _is_tinyshakespeare(text: bytes) -> bool:
    return hashlib.sha256(text).hexdigest() == TINYSHAKESPEARE_SHA256


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); --data takes {TINYSHAKESPEARE}, {PASTICHE} or a UTF-8 text file"
        ) from error
    if b"\0" in raw:
        raise UserError(f"{path} is not text: there is a zero byte at {raw.index(0):,}; save it as UTF-8")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} is not UTF-8: byte {raw[error.start]:#04x} at {error.start:,} (line {line:,}); save it as UTF-8"
        ) from error
    if not text:
        raise UserError(f"{path} is empty; --data needs a text to learn from")
    return text
