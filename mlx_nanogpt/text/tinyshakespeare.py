"""The text tiny Shakespeare: downloaded once, then read from the cache."""

import hashlib
import time
import urllib.parse
from pathlib import Path

from ..errors import UserError
from ..files import cache_dir, explaining_read, explaining_write, locked

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
BYTES = 1_115_394  # each is a character
TIMEOUT = 10.0  # seconds of silence
DEADLINE = 120.0  # seconds for all of it


class CorpusUnavailable(UserError):
    """Tiny Shakespeare is not in the cache and could not be downloaded."""


def cache_file() -> Path:
    """The file of the downloaded text."""
    return cache_dir() / "tinyshakespeare.txt"


def tinyshakespeare() -> str:
    """The text. Raises `CorpusUnavailable` if it must be downloaded and cannot be, `UserError` if the download is another text or
    the cache cannot be used."""
    file, remedy = cache_file(), "set XDG_CACHE_HOME to another folder"
    with explaining_read(file, remedy):
        if file.is_file() and _is_whole(text := file.read_bytes()):
            return text.decode()
    import http.client  # imported here: they take 15 ms, and most starts download nothing
    import ssl

    try:
        text = _download()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        certificates = isinstance(reason, ssl.SSLCertVerificationError)
        remedy = "run the Install Certificates command of this Python" if certificates else "connect to the network"
        raise CorpusUnavailable(
            f"tiny Shakespeare could not be downloaded from {_host()} ({getattr(reason, 'strerror', None) or reason})",
            f"{remedy}, name a copy of it with `data`, or choose `data` pastiche, which is built in",
        ) from error
    if not _is_whole(text):
        more = " and more" if len(text) > BYTES else ""
        problem = f"the answer of {_host()} is not tiny Shakespeare ({len(text):,} bytes{more} with another sha256)"
        raise UserError(problem, "sign in to the network and try again, or name a copy with `data`")
    with explaining_write(file, remedy):
        file.parent.mkdir(parents=True, exist_ok=True)
        with locked(file.parent, wait=True) as folder:
            folder.sweep(file.name)
            with folder.replacing(file.name) as opened:
                opened.write(text)
    return text.decode()


def _host() -> str:
    return urllib.parse.urlsplit(URL).netloc


def _download() -> bytes:
    """The server's answer, at most one byte longer than tiny Shakespeare. Raises `OSError` or `HTTPException`."""
    import http.client
    import urllib.request

    text, deadline = bytearray(), time.monotonic() + DEADLINE
    with urllib.request.urlopen(URL, timeout=TIMEOUT) as response:
        while len(text) <= BYTES and (piece := response.read1(BYTES + 1 - len(text))):
            text += piece
            if time.monotonic() > deadline:  # the timeout of a socket starts again with every byte
                raise TimeoutError(f"it was not complete after {DEADLINE:g} s")
        if response.length and len(text) <= BYTES:
            raise http.client.IncompleteRead(bytes(text), response.length)
    return bytes(text)


def _is_whole(text: bytes) -> bool:
    return hashlib.sha256(text).hexdigest() == SHA256
