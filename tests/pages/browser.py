"""A browser for tests and pictures: Chromium without a window, driven through a pipe by its DevTools protocol."""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, BufferedWriter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"]


class Browser:
    """One tab. `complaints` are its messages on the console, its errors, and the requests that it made."""

    def __init__(self, reading: BufferedReader, writing: BufferedWriter):
        self.reading, self.writing, self.left = reading, writing, b""
        self.complaints: list = []
        self.last, self.session, self.is_loaded = 0, None, False
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters) -> dict:
        """The answer to a command of the protocol."""
        self.last += 1
        message = {"id": self.last, "method": method, "params": parameters}
        self.writing.write(json.dumps(message | ({"sessionId": self.session} if self.session else {})).encode() + b"\0")
        self.writing.flush()
        while (answer := self._read()).get("id") != self.last:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def _read(self) -> dict:
        parts = [self.left]
        while b"\0" not in parts[-1]:
            parts.append(self.reading.read1())
            assert parts[-1], "the browser ended"
        text, _, self.left = b"".join(parts).partition(b"\0")
        message = json.loads(text)
        method, details = message.get("method"), message.get("params", {})
        self.is_loaded |= method == "Page.loadEventFired"
        address = details.get("request", {}).get("url", "")
        if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded") or (
            method == "Network.requestWillBeSent" and not address.startswith(("file:", "data:", "blob:"))
        ):
            self.complaints.append(details)
        return message

    def open(self, page: Path, place: str = "") -> None:
        """Open `page`, and wait until it is loaded."""
        self.complaints.clear()
        for address in ("about:blank", page.absolute().as_uri() + place):  # another place alone would load nothing
            self.is_loaded = False
            self.ask("Page.navigate", url=address)
            while not self.is_loaded:
                self._read()

    def run(self, script: str):
        """The value of an expression, also of a promise."""
        found = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, (found, self.complaints)
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression is true."""
        self.run(
            f"new Promise(done => {{ const poll = () => ({condition}) ? done() : setTimeout(poll, 20); poll(); }})"
        )

    def show_as(self, width: int, height: int, dark: bool) -> None:
        """Give the window its size in pixels, and light or dark colours."""
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot")["data"]))


def in_a_browser(test):
    """Mark a test that takes Chromium."""
    return pytest.mark.programs(pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")(test))


@contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium; it ends at the end."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:  # its processes end a little later
        commands, answers = os.pipe(), os.pipe()
        # the protocol is spoken on the descriptors 3 and 4
        shell = f'exec "$@" 3<&{commands[0]} 4>&{answers[1]}'
        command = ["bash", "-c", shell, "sh", CHROMIUM, *OPTIONS, f"--user-data-dir={profile}"]
        with subprocess.Popen(command, pass_fds=(commands[0], answers[1]), stderr=subprocess.DEVNULL) as process:
            os.close(commands[0])
            os.close(answers[1])
            with os.fdopen(answers[0], "rb") as reading, os.fdopen(commands[1], "wb") as writing:
                try:
                    yield Browser(reading, writing)
                finally:
                    process.kill()
