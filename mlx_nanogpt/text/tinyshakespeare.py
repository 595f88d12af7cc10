"""Tiny Shakespeare: downloaded once, then read from the cache."""

import hashlib
import threading
import urllib.parse
from pathlib import Path

from ..errors import UserError
from ..files import cache_dir, locked

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
BYTES = 1_115_394  # each is a character
TIMEOUT = 10.0  # seconds of silence
DEADLINE = 120.0  # seconds for all of it


class CorpusUnavailable(UserError):
    """Tiny Shakespeare is not in the cache and could not be downloaded."""


def cached() -> Path:
    """The file that keeps the text once it was downloaded."""
    return cache_dir() / "tinyshakespeare.txt"


def tinyshakespeare() -> str:
    """The text. Raises `CorpusUnavailable` if it has to be downloaded and cannot be, `UserError` if it is not what it should be
    or the cache cannot be used."""
    file = cached()
    try:
        if file.is_file() and _is_whole(text := file.read_bytes()):
            return text.decode()
    except OSError as error:
        raise UserError(
            f"{file} cannot be read ({error.strerror})", "set XDG_CACHE_HOME to a folder that can"
        ) from error
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
        raise UserError(
            f"what {_host()} sent is not tiny Shakespeare ({len(text):,} bytes{more} with another sha256)",
            "sign in to the network and try again, or name a copy with `data`",
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with locked(file.parent, wait=True) as folder:
            folder.sweep(file.name)
            with folder.replacing(file.name) as opened:
                opened.write(text)
    except OSError as error:
        raise UserError(
            f"{file} cannot be written ({error.strerror})", "set XDG_CACHE_HOME to a folder that can"
        ) from error
    return text.decode()


def _host() -> str:
    return urllib.parse.urlsplit(URL).netloc


def _download() -> bytes:
    """The server's answer, at most one byte longer than tiny Shakespeare. Raises `OSError` or `HTTPException`."""
    import http.client
    import urllib.request

    ends: list[bytes | Exception] = []

    def fetch() -> None:
        try:
            with urllib.request.urlopen(URL, timeout=TIMEOUT) as response:
                text = response.read(BYTES + 1)
                if response.length and len(text) <= BYTES:
                    raise http.client.IncompleteRead(text, response.length)
                ends.append(text)
        except Exception as error:
            ends.append(error)

    # in a thread: the time limit of a socket starts again with every byte
    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    if not ends:
        raise TimeoutError(f"it was not complete after {DEADLINE:g} s")
    end = ends.pop()
    try:
        if isinstance(end, Exception):
            raise end
        return end
    finally:
        del end  # an error that was kept here would keep itself and its connection


def _is_whole(text: bytes) -> bool:
    return hashlib.sha256(text).hexdigest() == SHA256
