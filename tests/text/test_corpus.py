"""Texts: tiny Shakespeare is downloaded once and completely, other texts are read exactly, and a message names the reason and
the place where a file cannot be used."""

import hashlib
import io
import os
import sys
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import Mock

import pytest
from mlx_nanogpt import UserError, load_corpus, prepare, tokenize
from conftest import TINY, files_in, trained_run
from mlx_nanogpt.files import cache_dir
from mlx_nanogpt.text import corpus, dataset, folders, tinyshakespeare
from mlx_nanogpt.text.folders import count_kinds, folder_files
from mlx_nanogpt.text.tinyshakespeare import CorpusUnavailable

CHECKSUM = tinyshakespeare.SHA256  # before the tests put their own in its place
PLAY = b"First Citizen:\nBefore we proceed any further, hear me speak.\n" * 20


sent = []  # bytes of a text without an end that left the server


@contextmanager
def server(
    status: int = 200, body: bytes = PLAY, length: int | None = len(PLAY), silent: bool = False, slow: bool = False
):
    """A loopback server for tiny Shakespeare; yields the list of the requests that it got."""
    requests, closing = [], threading.Event()
    sent.clear()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            if silent and closing.wait(5):
                return
            self.send_response(status)
            if length is not None:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            with suppress(OSError):  # the client may have closed the connection
                self.wfile.write(body)
                while slow and not closing.wait(0.1):
                    self.wfile.write(b".")
                while length is None:  # a text without an end
                    sent.append(self.wfile.write(PLAY))

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tinyshakespeare, "URL", f"http://127.0.0.1:{http.server_port}/input.txt")
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield requests
        finally:
            closing.set()
            http.shutdown()
            thread.join()


@contextmanager
def nobody():
    yield []  # the address that every test has from the start


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setattr(tinyshakespeare, "SHA256", hashlib.sha256(PLAY).hexdigest())
    monkeypatch.setattr(tinyshakespeare, "TIMEOUT", 1.0)
    monkeypatch.setattr(tinyshakespeare, "DEADLINE", 0.5)


def cached() -> list[bytes]:
    return [(cache_dir() / name).read_bytes() for name in files_in(cache_dir())] if cache_dir().exists() else []


# ---- tiny Shakespeare

BAD = {
    "truncated": (lambda: server(body=PLAY[:100]), CorpusUnavailable, ""),
    "refused": (nobody, CorpusUnavailable, ""),
    "silent": (lambda: server(silent=True), CorpusUnavailable, ""),
    "slow": (lambda: server(body=b"", slow=True), CorpusUnavailable, r"\(it was not complete after 0.5 s\)"),
    "endless": (lambda: server(length=None), UserError, r"\(1,115,395 bytes and more with another sha256"),
    "not found": (lambda: server(404), CorpusUnavailable, ""),
    "wrong bytes": (lambda: server(body=b"<html>Sign in</html>", length=20), UserError, r"\(20 bytes with another"),
    "empty": (lambda: server(body=b"", length=0), UserError, r"\(0 bytes with another"),
}


@pytest.mark.parametrize("serve, error, reason", BAD.values(), ids=BAD)
def test_a_bad_download_is_a_sentence_and_never_lands_in_the_cache(serve, error, reason):
    with serve(), pytest.raises(error, match=f"{reason}.*`data`"):
        load_corpus("tinyshakespeare")
    assert cached() == []
    assert sum(sent) < 16 * 2**20  # a text without an end, with the buffers of the system


def test_tiny_shakespeare_is_downloaded_once_and_outlives_its_server():
    with server() as requests:
        texts = [load_corpus("tinyshakespeare") for _ in range(2)]
    texts.append(load_corpus("tinyshakespeare"))
    assert {text.text.encode() for text in texts} == {PLAY} and cached() == [PLAY]
    assert texts[0].sources == ("tinyshakespeare",) and texts[0].identity.sha256 == tinyshakespeare.SHA256
    assert len(requests) == 1


@pytest.mark.parametrize("damage", [b"", PLAY[:-1], PLAY.replace(b"hear", b"here", 1)])
def test_a_damaged_cache_is_downloaded_again(damage):
    with server() as requests:
        load_corpus("tinyshakespeare")
        tinyshakespeare.cache_file().write_bytes(damage)
        assert load_corpus("tinyshakespeare").text.encode() == PLAY
    assert len(requests) == 2 and cached() == [PLAY]


def test_a_wrong_checksum_trains_on_nothing_else(mlx_gpt):
    with server(body=PLAY[::-1]):
        result = mlx_gpt("train", *TINY[:-1])
    assert result.status == 1 and "is not tiny Shakespeare" in result.err
    assert not Path("runs").exists()


def test_a_cache_that_cannot_be_written_is_a_sentence_with_the_variable_to_set(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("play.txt").resolve()))
    with server(), pytest.raises(UserError, match="set XDG_CACHE_HOME"):
        load_corpus("tinyshakespeare")


def test_the_checksum_is_the_published_one():
    assert CHECKSUM == "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


# ---- built-in texts and files


def test_the_built_in_corpus_needs_no_network_and_alone_has_a_floor():
    play = load_corpus("pastiche")
    assert play.sources == ("pastiche",) and len(play.text) == 1_115_394
    assert 0 < play.floor(0, len(play.text)) < 1
    assert load_corpus("pastiche", "play.txt").floor is load_corpus("pastiche", "pastiche").floor is None


@pytest.mark.parametrize("content", ["plain\n", "naïve Übung 🦓\r\n\tstays as it is", "\ufeffsnow"])
def test_a_file_is_read_as_it_is_without_a_byte_order_mark(content):
    Path("note.txt").write_bytes(content.encode())
    note = load_corpus("note.txt")
    assert note.text == content.removeprefix("\ufeff") and note.sources == ("note.txt",) and note.floor is None


@pytest.mark.parametrize("place", ["bad.txt", "texts/a/bad.txt", "standard input"])
@pytest.mark.parametrize(
    "content, reason",
    [
        (b"MZ\0\1", "is not text: there is a zero byte at 2"),
        ("one\ntwo\ncafé\n".encode("latin-1"), r"is not UTF-8: byte 0xe9 at 11 \(line 3\)"),
    ],
)
def test_a_source_that_is_not_text_names_the_reason_and_the_place(folder, monkeypatch, place, content, reason):
    pipe(monkeypatch, content)
    if place != "standard input":
        Path(place).write_bytes(content)
    source = {"bad.txt": place, "texts/a/bad.txt": "texts", "standard input": "-"}[place]
    with pytest.raises(UserError, match=f"{place} {reason}"):
        load_corpus(source)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/tty"])
def test_a_device_is_refused(device):
    if not os.path.exists(device):
        pytest.skip("there is none here")
    with pytest.raises(UserError, match=f"{device} is a device; name a file, or pipe a text into `data` -"):
        load_corpus(device)


@pytest.mark.parametrize("name", ["nowhere.txt", ""])
def test_a_missing_file_is_a_sentence_with_what_a_text_is(name):
    takes = f"a text is {', '.join(corpus.BUILT_IN)}, a UTF-8"
    with pytest.raises(UserError, match=f"{name} cannot be read .*{takes}"):
        load_corpus(name)


@pytest.mark.parametrize("source, remedy", [("-", "pipe a text into it .* the same text again"), ("empty.txt", "")])
def test_an_empty_source_is_refused(monkeypatch, source, remedy):
    pipe(monkeypatch, b"")
    Path("empty.txt").touch()
    with pytest.raises(UserError, match=f"(standard input|empty.txt) is empty; .*{remedy}"):
        load_corpus(source)


# ---- several texts, folders, standard input


def pipe(monkeypatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.fixture
def folder():
    """b.txt, a/z.txt and a-b.txt, which only an order by folders puts in this order: a/z.txt, a-b.txt, b.txt."""
    Path("texts/a").mkdir(parents=True)
    for name, content in {"b.txt": b"bee\r\n", "a/z.txt": b"zed", "a-b.txt": "\ufeffdash 🦓".encode()}.items():
        (Path("texts") / name).write_bytes(content)
    return Path("texts")


def test_a_text_begins_on_a_line_of_its_own_and_nothing_else_is_added(monkeypatch):
    Path("one.txt").write_bytes(b"no line end\r\n ")
    Path("two.txt").write_bytes("\ufeff\n\n🦓".encode())
    pipe(monkeypatch, "\ufeffnaïve 🦓\r\n".encode())
    joined = load_corpus("two.txt", "-", "one.txt", "two.txt")
    assert joined.text == "\n\n🦓\nnaïve 🦓\r\nno line end\r\n \n\n\n🦓"
    assert joined.sources == ("two.txt", "-", "one.txt", "two.txt")
    assert joined.identity.name == "two.txt + standard input + one.txt + two.txt"


def test_a_folder_is_all_its_texts_in_the_order_of_their_names(folder):
    (folder / "Makefile").write_bytes(b"all:\n")
    (folder / "notes.md").write_bytes("# caf\u00e9\n".encode())
    others = {"photo.png": b"\x89PNG\0", "latin.md": b"caf\xe9", "cut.md": b"caf\xc3", "empty.txt": b""}
    hidden = {"._b.txt": b"\0\5\x16\7"}  # a Mac writes such files to disks of other systems
    for name, content in (others | hidden).items():
        (folder / name).write_bytes(content)
    (folder / ".checkpoints").mkdir()
    (folder / ".checkpoints" / "b.txt").write_text("a copy")
    texts, files = load_corpus("texts", documents="none"), folder_files("texts")
    assert texts.text == "all:\nzed\ndash 🦓\nbee\r\n# café\n" and texts.sources == ("texts",)
    taken = ["Makefile", "a/z.txt", "a-b.txt", "b.txt", "notes.md"]
    assert [str(file) for file in files.taken] == [f"texts/{name}" for name in taken]
    assert count_kinds(files.taken) == "3 .txt, 1 without a suffix, 1 .md"
    assert count_kinds(files.left) == "2 .md, 1 empty, 1 .png"


def test_a_file_of_a_folder_is_judged_by_its_first_piece(folder, monkeypatch):
    monkeypatch.setattr(folders, "PIECE", 4)
    (folder / "c.md").write_bytes("caf\u00e9s".encode())  # the first piece ends within a character
    assert load_corpus("texts").text.endswith("cafés\0")
    (folder / "c.md").write_bytes(b"cafes\xff")
    with pytest.raises(UserError, match="texts/c.md is not UTF-8"):
        load_corpus("texts")


def test_many_kinds_are_counted_and_the_most_frequent_named(folder):
    for i in range(7):
        (folder / f"x.{i}").write_text("text")
    assert count_kinds(folder_files("texts").taken) == "3 .txt, 1 .0, 1 .1, 1 .2, 1 .3, 3 of other kinds"


def test_the_runs_and_tokens_in_a_folder_are_not_its_text(folder):
    before = load_corpus("texts").text
    trained_run(folder / "run")
    list(prepare(["play.txt"], folder / "tokens"))
    assert load_corpus("texts").text == before


def test_a_folder_without_text_is_refused_with_its_content(folder):
    (Path("empty") / "below").mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"empty holds no text \(no file\); name a text file, or a folder of some, with"
    ):
        load_corpus("texts", "empty")
    for name, content in {"a.png": b"\0", "b.PNG": b"\0", "nothing.txt": b""}.items():
        (Path("empty") / name).write_bytes(content)
    with pytest.raises(UserError, match=r"empty holds no text \(nothing but 2 .png, 1 empty\); name a text file"):
        load_corpus("empty")


@pytest.mark.parametrize(
    "name, make, reason",
    [
        ("c.txt", os.mkfifo, "texts/c.txt is a pipe, a socket or a device; take it out of the"),
        ("c.txt", lambda path: path.symlink_to("nowhere"), "texts/c.txt cannot be read"),
        ("train.bin", lambda path: path.write_bytes(b"\0\0"), "texts holds tokens .*give it alone as `data`"),
    ],
    ids=["pipe", "link", "tokens"],
)
def test_a_folder_with_something_else_than_files_is_refused(folder, name, make, reason):
    make(folder / name)
    with pytest.raises(UserError, match=reason):
        load_corpus("play.txt", "texts")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 1000])
def test_characters_and_places_survive_pieces_of_any_size(monkeypatch, size):
    monkeypatch.setattr(corpus, "PIECE", size)
    text = "\ufeffé\r\n\ufeff🦓 naïve\n日本\n"
    Path("note.txt").write_bytes(text.encode())
    assert load_corpus("note.txt").text == text[1:]
    place, half = len(text.encode()), "🦓".encode()[:3]
    for damage, reason in {
        b"\xff more\n": rf"byte 0xff at {place} \(line 4\)",
        b"\xc3 more\n": rf"byte 0xc3 at {place} \(line 4\)",
        half + b" more\n": rf"byte 0xf0 at {place} \(line 4\)",
        half: rf"byte 0xf0 at {place} \(line 4\)",  # it ends within a character
        b"\0": f"zero byte at {place}",
    }.items():
        Path("note.txt").write_bytes(text.encode() + damage)
        with pytest.raises(UserError, match=reason):
            load_corpus("note.txt")


def test_standard_input_is_not_waited_for_at_a_keyboard_and_is_read_once(monkeypatch):
    pipe(monkeypatch, b"typed")
    with pytest.raises(UserError, match="only once"):
        load_corpus("-", "play.txt", "-")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    with pytest.raises(UserError, match="standard input is not a file or a pipe; pipe a text into it"):
        load_corpus("-")


def test_an_address_is_no_file():
    with pytest.raises(UserError, match="https://example.org/a.txt is an address, not a file; download it"):
        load_corpus("https://example.org/a.txt")


def test_a_folder_of_nanogpt_that_is_not_prepared_is_no_text():
    Path("shakespeare").mkdir()
    for name in ("prepare.py", "readme.md"):
        (Path("shakespeare") / name).write_text("import numpy\n")
    with pytest.raises(
        UserError, match="shakespeare is a folder of nanoGPT that is not prepared yet; run its prepare.py"
    ):
        load_corpus("shakespeare")
    Path("shakespeare/more.txt").write_text("to be")
    assert "to be" in load_corpus("shakespeare").text


def test_a_linked_folder_is_counted_as_left_out(folder):
    Path("elsewhere").mkdir()
    Path("elsewhere/secret.txt").write_text("secret")
    (folder / "link").symlink_to(Path("elsewhere").resolve())
    files = folder_files("texts")
    assert "secret" not in load_corpus("texts").text and count_kinds(files.left) == "1 linked folder"


def test_a_text_that_outgrows_memory_names_the_command_that_takes_little(monkeypatch):
    text = load_corpus("play.txt")
    for module, name, use in (
        (corpus, "read_pieces", lambda: load_corpus("play.txt")), (dataset, "CharTokenizer", lambda: tokenize(text))
    ):  # fmt: skip
        monkeypatch.setattr(module, name, Mock(side_effect=MemoryError, of=Mock(side_effect=MemoryError)))
        with pytest.raises(UserError, match="does not fit into memory; tokenize it once with mlx-gpt prepare"):
            use()
