"""The promises of the corpus: it is downloaded once and completely, and a message says why a file cannot be used."""

import hashlib
import io
import os
import sys
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlx_nanogpt import UserError, load_corpus, prepare
from conftest import TINY, trained_run
from mlx_nanogpt.files import cache_dir
from mlx_nanogpt.text import corpus, folders, tinyshakespeare
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
    monkeypatch.setattr(tinyshakespeare, "TIMEOUT", 0.2)
    monkeypatch.setattr(tinyshakespeare, "DEADLINE", 1.0)


def cached() -> list[Path]:
    return list(cache_dir().iterdir()) if cache_dir().exists() else []


BAD = {
    "truncated": (lambda: server(body=PLAY[:100]), CorpusUnavailable),
    "refused": (nobody, CorpusUnavailable),
    "silent": (lambda: server(silent=True), CorpusUnavailable),
    "slow": (lambda: server(body=b"", slow=True), CorpusUnavailable),
    "endless": (lambda: server(length=None), UserError),
    "not found": (lambda: server(404), CorpusUnavailable),
    "wrong bytes": (lambda: server(body=b"<html>Sign in</html>", length=20), UserError),
    "empty": (lambda: server(body=b"", length=0), UserError),
}
bad_servers = pytest.mark.parametrize("serve, error", BAD.values(), ids=BAD)


# ---- tiny Shakespeare


def test_tiny_shakespeare_is_downloaded_once():
    with server() as requests:
        first = load_corpus("tinyshakespeare")
        second = load_corpus("tinyshakespeare")
    assert first.text.encode() == second.text.encode() == PLAY
    assert first.sources == ("tinyshakespeare",) and first.identity.sha256 == tinyshakespeare.SHA256
    assert len(requests) == 1


@bad_servers
def test_nothing_of_a_bad_download_lands_in_the_cache(serve, error):
    with serve(), pytest.raises(error, match="`data`"):
        load_corpus("tinyshakespeare")
    assert cached() == []


def test_a_download_ends_soon_after_tiny_shakespeares_size():
    with server(length=None), pytest.raises(UserError, match=r"\(1,115,395 bytes and more with another sha256"):
        load_corpus("tinyshakespeare")
    assert sum(sent) < 16 * 2**20  # this includes the buffers of the system


def test_a_download_has_a_deadline_as_a_whole():
    with server(body=b"", slow=True), pytest.raises(CorpusUnavailable, match=r"\(it was not complete after 1 s\)"):
        load_corpus("tinyshakespeare")


@bad_servers
def test_a_good_cache_outlives_a_bad_server(serve, error):
    with server():
        load_corpus("tinyshakespeare")
    with serve():
        assert load_corpus("tinyshakespeare").text.encode() == PLAY
    assert [file.read_bytes() for file in cached()] == [PLAY]


@pytest.mark.parametrize("damage", [b"", PLAY[:-1], PLAY.replace(b"hear", b"here", 1)])
def test_a_damaged_cache_is_downloaded_again(damage):
    with server() as requests:
        load_corpus("tinyshakespeare")
        cached()[0].write_bytes(damage)
        assert load_corpus("tinyshakespeare").text.encode() == PLAY
    assert len(requests) == 2 and cached()[0].read_bytes() == PLAY


def test_a_wrong_checksum_is_no_reason_to_train_on_something_else(mlx_gpt):
    with server(body=PLAY[::-1]):
        result = mlx_gpt("train", *TINY[:-1])
    assert result.status == 1 and "is not tiny Shakespeare" in result.err
    assert not Path("runs").exists()


def test_a_cache_that_cannot_be_written_says_what_to_set(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("play.txt").resolve()))
    with server(), pytest.raises(UserError, match="set XDG_CACHE_HOME"):
        load_corpus("tinyshakespeare")


def test_the_checksum_is_the_published_one():
    assert CHECKSUM == "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


# ---- built-in texts and files


def test_the_built_in_corpus_needs_no_network_and_knows_its_floor():
    play = load_corpus("pastiche")
    assert play.sources == ("pastiche",) and len(play.text) == 1_115_394
    assert 0 < play.floor(0, len(play.text)) < 1


@pytest.mark.parametrize("content", ["plain\n", "naïve Übung 🦓\r\n\tstays as it is"])
def test_a_file_is_read_as_it_is(content):
    Path("note.txt").write_bytes(content.encode())
    note = load_corpus("note.txt")
    assert note.text == content and note.sources == ("note.txt",) and note.floor is None


def test_a_byte_order_mark_is_not_text():
    Path("note.txt").write_bytes("\ufeffsnow".encode())
    assert load_corpus("note.txt").text == "snow"


def make_bad_file(content: bytes | None) -> str:
    path = Path("bad.txt")
    path.mkdir() if content is None else path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize(
    "content, reason",
    [
        (None, r"holds no text \(no file\); name a text file, or a folder of some, with `data`"),
        (b"", "is empty"),
        (b"MZ\0\1", "not text: there is a zero byte at 2"),
        ("one\ntwo\ncafé\n".encode("latin-1"), r"not UTF-8: byte 0xe9 at 11 \(line 3\)"),
    ],
    ids=["directory", "empty", "binary", "latin-1"],
)
def test_a_file_that_is_no_text_says_why_and_where(content, reason):
    with pytest.raises(UserError, match=f"bad.txt .*{reason}"):
        load_corpus(make_bad_file(content))


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/tty"])
def test_a_device_is_no_text(device):
    if not os.path.exists(device):
        pytest.skip("there is none here")
    with pytest.raises(UserError, match=f"{device} is a device; name a file, or pipe a text into `data` -"):
        load_corpus(device)


def test_a_missing_file_names_what_data_takes():
    with pytest.raises(
        UserError, match=f"nowhere.txt cannot be read .*`data` takes {', '.join(corpus.BUILT_IN)}, a UTF-8"
    ):
        load_corpus("nowhere.txt")


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


def test_texts_are_joined_exactly_as_they_are():
    Path("one.txt").write_bytes(b"no line end\r\n ")
    Path("two.txt").write_bytes("\ufeff\n\n🦓".encode())
    both = load_corpus("two.txt", "one.txt", "two.txt")
    assert both.text == "\n\n🦓no line end\r\n \n\n🦓" and both.sources == ("two.txt", "one.txt", "two.txt")
    assert both.identity.name == "two.txt + one.txt + two.txt"


def test_a_folder_is_all_its_texts_in_the_order_of_their_names(folder):
    (folder / "Makefile").write_bytes(b"all:\n")
    (folder / "notes.md").write_bytes("# caf\u00e9\n".encode())
    no_texts = {"photo.png": b"\x89PNG\0", "latin.md": b"caf\xe9", "cut.md": b"caf\xc3", "empty.txt": b""}
    for name, content in no_texts.items():
        (folder / name).write_bytes(content)
    texts, files = load_corpus("texts"), folder_files("texts")
    assert texts.text == "all:\nzeddash 🦓bee\r\n# café\n" and texts.sources == ("texts",)
    assert [str(each) for each in files.taken] == [
        f"texts/{name}" for name in ("Makefile", "a/z.txt", "a-b.txt", "b.txt", "notes.md")
    ]
    assert count_kinds(files.taken) == "3 .txt, 1 without a suffix, 1 .md"
    assert count_kinds(files.left) == "2 .md, 1 empty, 1 .png"


def test_a_file_of_a_folder_is_judged_by_its_first_piece(folder, monkeypatch):
    monkeypatch.setattr(folders, "PIECE", 4)
    (folder / "c.md").write_bytes("caf\u00e9s".encode())  # the first piece ends within a character
    assert load_corpus("texts").text.endswith("cafés")
    (folder / "c.md").write_bytes(b"cafes\xff")
    with pytest.raises(UserError, match="texts/c.md is not UTF-8"):
        load_corpus("texts")


def test_many_kinds_are_counted_and_the_most_frequent_named(folder):
    for i in range(7):
        (folder / f"x.{i}").write_text("text")
    assert count_kinds(folder_files("texts").taken) == "3 .txt, 1 .0, 1 .1, 1 .2, 1 .3, 3 of other kinds"


def test_a_pipe_in_a_folder_is_refused_and_not_waited_for(folder):
    os.mkfifo(folder / "pipe")
    (folder / "c.md").symlink_to("pipe")
    with pytest.raises(UserError, match="texts/c.md is a pipe, a socket or a device; take it out of the"):
        load_corpus("texts")


def test_what_this_program_wrote_into_a_folder_is_not_its_text(folder):
    before = load_corpus("texts").text
    trained_run(folder / "run")
    list(prepare(["play.txt"], folder / "tokens"))
    assert load_corpus("texts").text == before


def test_hidden_files_of_a_folder_are_not_its_texts(folder):
    (folder / "._b.txt").write_bytes(b"\0\5\x16\7")  # a Mac writes such files to disks of other systems
    (folder / ".checkpoints").mkdir()
    (folder / ".checkpoints" / "b.txt").write_text("a copy")
    assert load_corpus("texts").text == "zeddash 🦓bee\r\n"


def test_a_folder_without_text_says_so_and_what_it_holds(folder):
    (Path("empty") / "below").mkdir(parents=True)
    with pytest.raises(UserError, match=r"empty holds no text \(no file\); name a text file"):
        load_corpus("texts", "empty")
    for name, content in {"a.png": b"\0", "b.PNG": b"\0", "nothing.txt": b""}.items():
        (Path("empty") / name).write_bytes(content)
    with pytest.raises(UserError, match=r"empty holds no text \(nothing but 2 .png, 1 empty\); name a text file"):
        load_corpus("empty")


def test_no_name_is_not_the_folder_here():
    with pytest.raises(UserError, match="cannot be read"):
        load_corpus("")


def test_every_file_of_a_folder_says_why_it_is_no_text_and_where(folder):
    (folder / "a" / "y.txt").write_bytes("one\ncafé\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"texts/a/y.txt is not UTF-8: byte 0xe9 at 7 \(line 2\)"):
        load_corpus("texts")


def test_a_link_to_nowhere_in_a_folder_is_not_passed_over(folder):
    (folder / "c.txt").symlink_to("nowhere")
    with pytest.raises(UserError, match="texts/c.txt cannot be read"):
        load_corpus("texts")


def test_a_folder_of_tokens_is_no_text(folder):
    (folder / "train.bin").write_bytes(b"\0\0")
    with pytest.raises(UserError, match="texts holds tokens .*give it alone as `data`"):
        load_corpus("play.txt", "texts")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 1000])
def test_characters_and_places_survive_pieces_of_any_size(monkeypatch, size):
    monkeypatch.setattr(corpus, "PIECE", size)
    text = "\ufeffé\r\n\ufeff🦓 naïve\n日本\n"
    Path("note.txt").write_bytes(text.encode())
    assert load_corpus("note.txt").text == text[1:]
    for damage in (b"\xff", b"\xc3", "🦓".encode()[:3]):
        raw = text.encode() + damage + b" more\n"
        Path("note.txt").write_bytes(raw)
        with pytest.raises(UserError, match=rf"byte {damage[0]:#04x} at {len(text.encode())} \(line 4\)"):
            load_corpus("note.txt")
    Path("note.txt").write_bytes(text.encode() + "🦓".encode()[:3])  # it ends within a character
    with pytest.raises(UserError, match=rf"byte 0xf0 at {len(text.encode())} \(line 4\)"):
        load_corpus("note.txt")
    Path("note.txt").write_bytes(text.encode() + b"\0")
    with pytest.raises(UserError, match=f"zero byte at {len(text.encode())}"):
        load_corpus("note.txt")


def test_standard_input_is_a_source_among_others(monkeypatch):
    Path("one.txt").write_text("one")
    pipe(monkeypatch, "\ufeffnaïve 🦓\r\n".encode())
    both = load_corpus("-", "one.txt")
    assert both.text == "naïve 🦓\r\none" and both.sources == ("-", "one.txt")
    assert both.identity.name == "standard input + one.txt"


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "is empty; pipe a text into it .* the same text again"),
        (b"MZ\0", "is not text: there is a zero byte at 2"),
        (b"a\nb\xff", r"is not UTF-8: byte 0xff at 3 \(line 2\)"),
    ],
)
def test_standard_input_that_is_no_text_says_why_and_where(monkeypatch, content, reason):
    pipe(monkeypatch, content)
    with pytest.raises(UserError, match=f"standard input {reason}"):
        load_corpus("-")


def test_standard_input_is_not_waited_for_at_a_keyboard(monkeypatch):
    pipe(monkeypatch, b"typed")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    with pytest.raises(UserError, match="standard input is not a file or a pipe; pipe a text into it"):
        load_corpus("-")


def test_standard_input_is_read_once(monkeypatch):
    pipe(monkeypatch, b"once")
    with pytest.raises(UserError, match="only once"):
        load_corpus("-", "play.txt", "-")


def test_only_the_built_in_corpus_alone_has_a_floor():
    assert load_corpus("pastiche").floor and load_corpus("pastiche", "play.txt").floor is None
    assert load_corpus("pastiche", "pastiche").floor is None
