"""Folders of tokens: the same tokens as in memory, nanoGPT's folders as they are, memory that does not grow with the text, and
no damage that goes unnoticed."""

import hashlib
import io
import json
import os
import pickle
import random
import re
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import mlx_nanogpt as gpt
import numpy as np
import pytest
from mlx_nanogpt import UserError, open_token_folder, prepare
from conftest import TEXT, byte_pairs, files_in, keep_as_gpt2s, python
from mlx_nanogpt.text import corpus
from mlx_nanogpt.text.batches import training_batch
from mlx_nanogpt.text.identity import CorpusIdentity
from mlx_nanogpt.text.prepare import Preparing, TokensWritten

TEXTS = {
    "crlf": "one\r\ntwo\r\n\r\nthree\rfour\n" * 9,
    "emoji": "a 🦓 and 👩‍👩‍👧 in snow\u2603\ufe0f\n" * 9,
    "a long line": "x" * 50_000 + "y",
    "mixed scripts": "Zürich Москва 東京 القاهرة ไทย\u2028\u00a0\t𝔘𝔫𝔦\ufeff\n" * 9,
    "two characters": "ab",
}
FILES = ("meta.json", "train.bin", "val.bin")


def prepared(
    text: str | bytes, path: str = "tokens", train_fraction: float = 0.8, tokenizer=None, vocab_size=None
) -> TokensWritten:
    Path("text.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    *_, done = prepare(["text.txt"], Path(path), train_fraction, tokenizer, vocab_size)
    return done


def nanogpt_folder(text: str = TEXT, path: str = "nanogpt", **changes) -> Path:
    """What `prepare.py` of nanoGPT's data/shakespeare_char writes, but for `changes` in its meta.pkl."""
    chars = sorted(set(text))
    stoi, itos = {ch: i for i, ch in enumerate(chars)}, dict(enumerate(chars))
    folder = Path(path)
    folder.mkdir()
    boundary = int(len(text) * 0.9)
    for name, part in (("train.bin", text[:boundary]), ("val.bin", text[boundary:])):
        np.array([stoi[ch] for ch in part], dtype=np.uint16).tofile(folder / name)
    with (folder / "meta.pkl").open("wb") as file:
        pickle.dump({"vocab_size": len(chars), "itos": itos, "stoi": stoi} | changes, file)
    return folder


def text_of(data: gpt.Dataset) -> tuple[str, str]:
    return data.tokenizer.decode(data.train_tokens), data.tokenizer.decode(data.valid_tokens)


# ---- the same as in memory


@pytest.mark.parametrize("piece", [1, 7, 2**20])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_prepared_text_comes_back_whole(monkeypatch, text, piece):
    monkeypatch.setattr(corpus, "PIECE", piece if len(text) < 1000 else 1000 * piece)
    done = prepared(text, train_fraction=0.6)
    data, boundary = open_token_folder("tokens"), int(0.6 * len(text))
    assert text_of(data) == (text[:boundary], text[boundary:])
    identity = CorpusIdentity(("tokens",), hashlib.sha256(text.encode()).hexdigest(), len(text))
    assert (data.corpus, data.train_fraction) == (identity, 0.6)
    assert done == TokensWritten(Path("tokens"), boundary, len(text) - boundary, len(set(text)))


def test_the_files_are_nanogpts_and_name_their_text():
    prepared(TEXT)
    assert files_in("tokens") == list(FILES)
    ids = {character: i for i, character in enumerate(sorted(set(TEXT)))}
    expected = np.array([ids[character] for character in TEXT], "<u2").tobytes()
    assert Path("tokens/train.bin").read_bytes() + Path("tokens/val.bin").read_bytes() == expected
    meta = json.loads(Path("tokens/meta.json").read_text())
    assert meta["tokenizer"] == {"symbols": "".join(ids)} and meta["train_fraction"] == 0.8
    checksum = hashlib.sha256(TEXT.encode()).hexdigest()
    assert meta["corpus"] == {"sources": ["text.txt"], "sha256": checksum, "characters": len(TEXT)} | {
        "documents": "none",
        "valid": [],
    }


def test_several_sources_and_standard_input_are_prepared_as_they_are_loaded_without_a_trace(monkeypatch):
    Path("a.txt").write_bytes("\ufeffé\r\n".encode())
    Path("below").mkdir()
    Path("below/b.txt").write_bytes(b"no line end")
    sources, texts = ["below", "a.txt", "-", "below"], []
    for use in (lambda: texts.append(gpt.load_corpus(*sources).text), lambda: list(prepare(sources, "tokens", 0.5))):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbf" + TEXTS["crlf"].encode())))
        use()
    assert "".join(text_of(open_token_folder("tokens"))) == texts[0]
    assert files_in("tokens") == list(FILES)


def test_the_progress_counts_characters(monkeypatch):
    monkeypatch.setattr(corpus, "PIECE", 100)
    Path("text.txt").write_text("abcdefghij" * 25)
    *steps, done = prepare(["text.txt"], Path("tokens"))
    # the split at 200 is not a piece of its own
    stages = {"Counting": None, "Encoding": 250}
    assert steps == [Preparing(stage, n, total) for stage, total in stages.items() for n in (100, 200, 250)]


@pytest.mark.parametrize("piece", [1, 3, 10, 64, 2**20])
@pytest.mark.parametrize(
    "text", [TEXT[:400], "a  b\n\n c's  \r\n\t12 !?\u00a0x\x1cy \u2003z\n", "nospace", " lead and trail  "]
)
def test_byte_pairs_are_never_cut(monkeypatch, text, piece):
    monkeypatch.setattr(corpus, "PIECE", piece)
    boundary = int(0.8 * len(text))
    done = prepared(text, tokenizer=byte_pairs())
    found = [np.fromfile(f"tokens/{name}", "<u2").tolist() for name in ("train.bin", "val.bin")]
    assert found == [byte_pairs().encode(part).tolist() for part in (text[:boundary], text[boundary:])]
    assert (done.train_tokens, done.valid_tokens) == tuple(map(len, found))
    assert open_token_folder("tokens").tokenizer == byte_pairs()


# ---- what cannot be prepared, and leaves nothing behind


@pytest.mark.parametrize(
    "content, more, reason",
    [
        (b"", {}, "text.txt is empty"),
        (b"x", {}, "a text of 1 characters cannot be split"),
        (b"one\ntwo \xff", {}, r"text.txt is not UTF-8: byte 0xff at 8 \(line 2\)"),
        ("".join(map(chr, range(0xE000, 0xE000 + 65_537))), {}, "65,537 different tokens, .* ids for 65,536"),
        (TEXT, {"train_fraction": 1.5}, "train_fraction 1.5 is out of range"),
        (TEXT, {"tokenizer": gpt.CharTokenizer("ab")}, "has never seen"),
        (TEXT, {"vocab_size": 256}, "vocab_size 256 is out of range; give a whole number from 257 to"),
        (TEXT, {"tokenizer": gpt.CharTokenizer("".join(map(chr, range(70_000))))}, "ids for 65,536"),
    ],
)
def test_what_cannot_be_prepared_is_refused_and_leaves_nothing_behind(content, more, reason):
    with pytest.raises(UserError, match=reason):
        prepared(content, **more)
    assert not Path("tokens").exists()


def test_65536_different_characters_fit():
    text = "".join(map(chr, range(0xE000, 0xE000 + 65_536)))
    prepared(text)
    assert "".join(text_of(open_token_folder("tokens"))) == text


@pytest.mark.parametrize("name", FILES)
def test_existing_files_are_not_overwritten(name):
    Path("tokens").mkdir()
    (Path("tokens") / name).write_text("precious")
    with pytest.raises(UserError, match=f"tokens already holds a {name}; choose another `out`"):
        prepared(TEXT)
    assert files_in("tokens") == [name] and (Path("tokens") / name).read_text() == "precious"


def test_a_folder_with_other_files_is_prepared_in_and_keeps_them():
    Path("tokens").mkdir()
    Path("tokens/notes.md").write_text("mine")
    with pytest.raises(UserError):
        prepared(b"\xff")
    assert files_in("tokens") == ["notes.md"]
    prepared(TEXT)
    assert files_in("tokens") == sorted([*FILES, "notes.md"])


@pytest.mark.parametrize("after", range(5))
def test_a_preparation_that_is_given_up_leaves_nothing_behind(monkeypatch, after):
    monkeypatch.setattr(corpus, "PIECE", len(TEXT) // 2)
    Path("text.txt").write_text(TEXT)
    events = prepare(["text.txt"], Path("tokens"))
    for _ in range(after):
        next(events)
    events.close()
    assert not Path("tokens").exists()


def test_a_text_that_changes_between_its_two_readings_is_refused():
    Path("text.txt").write_text(TEXT)
    events = prepare(["text.txt"], Path("tokens"))
    next(events)
    Path("text.txt").write_text(TEXT[::-1])
    with pytest.raises(UserError, match="text.txt changed while it was read"):
        list(events)
    assert not Path("tokens").exists()


def test_a_folder_that_cannot_be_made_is_a_sentence():
    with pytest.raises(UserError, match="text.txt/tokens cannot be written .*`out`"):
        prepared(TEXT, "text.txt/tokens")


FILL_THE_DISK = """
import resource
from pathlib import Path
import mlx_nanogpt as gpt

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))  # Python ignores SIGXFSZ
try:
    list(gpt.prepare(["play.txt"], Path("tokens")))
except gpt.UserError as error:
    print(error, Path("tokens").exists())
"""


def test_a_disk_that_fills_up_is_a_sentence_and_leaves_nothing_behind():
    assert re.match(r"tokens cannot be written \(.*\); make room, .* False", python(FILL_THE_DISK))


@pytest.mark.parametrize("missing", [("train.bin",), ("train.bin", "meta.json")])
def test_a_folder_whose_writing_was_cut_off_is_never_taken_for_a_whole_one(missing):
    """The files get their names in the order val.bin, meta.json, train.bin."""
    prepared(TEXT)
    for name in missing:
        (Path("tokens") / name).unlink()
    with pytest.raises(UserError):
        open_token_folder("tokens")


# ---- memory


def peak(work: Callable) -> tuple[object, int]:
    """The result of `work`, and the most bytes that Python and NumPy held meanwhile."""
    tracemalloc.start()
    try:
        return work(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_opening_and_reading_a_folder_takes_no_memory_to_speak_of():
    folder = nanogpt_folder()
    os.truncate(folder / "train.bin", 50 * 10**6)  # a sparse file: its zeros need no space
    data, opening = peak(lambda: open_token_folder(folder))
    assert opening < 4e6 and len(data.train_tokens) == 25 * 10**6
    assert isinstance(data.train_tokens, np.memmap) and isinstance(data.valid_tokens, np.memmap)
    draw = lambda: training_batch(data.train_tokens, 1, 2, batch_size=64, block_size=99)
    draw()  # NumPy imports its random generators at the first call
    batch, reading = peak(draw)
    assert reading < 10 * 64 * 100 * 8  # a few arrays of 8 bytes per token
    assert not any(isinstance(part, np.memmap) for part in batch) and batch[0].base.shape == (64, 100)


def test_preparing_takes_as_much_memory_for_a_longer_text(monkeypatch):
    monkeypatch.setattr(corpus, "PIECE", 2**14)
    Path("text.txt").write_text("To be or not to be.\n" * 10_000)
    peaks = [peak(lambda: list(prepare(["text.txt"] * n, Path(f"tokens{n}"))))[1] for n in (1, 5, 25)]
    assert peaks[2] < peaks[1] + 200_000 and peaks[2] < 10_000 * 20 * 25 / 4


# ---- nanoGPT's folders


def test_a_folder_of_nanogpts_is_read_as_it_is():
    data = open_token_folder(nanogpt_folder())
    boundary = int(len(TEXT) * 0.9)
    assert text_of(data) == (TEXT[:boundary], TEXT[boundary:])
    assert data.tokenizer == gpt.CharTokenizer.of(TEXT) and data.corpus.characters == len(TEXT)
    assert data.train_fraction == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_meta_of_any_pickle_protocol_is_read(protocol):
    folder = nanogpt_folder("Ünïcode 🦓\r\n" * 9)
    meta = pickle.loads((folder / "meta.pkl").read_bytes())
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta, protocol))
    assert open_token_folder(folder).tokenizer.symbols == "".join(sorted(set("Ünïcode 🦓\r\n")))


CHARACTERS = sorted(set(TEXT))
NUMBERED = {np.int16(i): character for i, character in enumerate(CHARACTERS)}
IN_OTHER_FORMS = {
    "itos as a list": {"itos": CHARACTERS},
    "itos as a tuple": {"itos": tuple(CHARACTERS)},
    "a vocab_size that is rounded up": {"vocab_size": 64},
    "integers of NumPy": {
        "vocab_size": np.int64(len(CHARACTERS)), "itos": NUMBERED, "stoi": {symbol: np.uint8(i) for i, symbol in NUMBERED.items()},
    },
    "more entries": {
        "none": None, "yes": True, "loss": -1.5, "long": [-(2**99), b"\xff\0", [()]], "set": {1, "b"}, "frozen": frozenset({"a"}),
        "pairs": {("a", "b"): 7}, "nested": (1, (2, (3,))), "numpy": [np.float32(0.5), np.bool_(True), np.int8(-1)],
    },
}  # fmt: skip


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("changes", IN_OTHER_FORMS.values(), ids=IN_OTHER_FORMS)
def test_a_meta_may_have_other_forms_and_more_entries(changes, protocol):
    folder = nanogpt_folder()
    meta = pickle.loads((folder / "meta.pkl").read_bytes()) | changes
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta, protocol))
    assert open_token_folder(folder).tokenizer == gpt.CharTokenizer.of(TEXT)


def test_characters_keep_the_ids_that_a_meta_gives_them():
    order = CHARACTERS[::-1]
    folder = nanogpt_folder(itos=order, stoi={symbol: i for i, symbol in enumerate(order)})
    for name in ("train.bin", "val.bin"):
        (len(order) - 1 - np.fromfile(folder / name, np.uint16)).astype(np.uint16).tofile(folder / name)
    data = open_token_folder(folder)
    assert "".join(text_of(data)) == TEXT and data.tokenizer.symbols == "".join(order)


@pytest.mark.parametrize("size", [None, 50257, np.int64(50257), 50304])
def test_a_folder_without_symbols_is_of_gpt2s_tokens(size):
    folder = nanogpt_folder()
    (folder / "meta.pkl").unlink()
    if size:
        (folder / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": size}))
    with pytest.raises(UserError, match="nanogpt has no table of symbols.* put .*tokenizer.json at |pip install"):
        open_token_folder(folder)
    keep_as_gpt2s(byte_pairs())
    assert open_token_folder(folder).tokenizer == byte_pairs()


class Hostile:
    def __init__(self, call: Callable, *arguments) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("kind, bits", [(np.uint32, 32), (np.int32, 32), (np.int64, 64), (np.uint64, 64)])
def test_integers_of_another_width_are_named_and_not_read_as_others(kind, bits):
    folder = nanogpt_folder()
    for name in ("train.bin", "val.bin"):
        np.fromfile(folder / name, np.uint16).astype(kind).tofile(folder / name)
    problem = rf"train.bin holds integers of {bits} bits, and a file of tokens holds uint16; .*astype.numpy.uint16"
    with pytest.raises(UserError, match=problem):
        open_token_folder(folder)


def deep_tuple_as_a_key() -> bytes:
    """To build this dict, Python hashes the tuple, whose depth would end the process."""
    return b"\x80\x02}K\x01" + b"\x85" * 2 * 10**5 + b"K\x01s."


CALLS = {
    "a call": (lambda: pickle.dumps({"vocab_size": 1, "itos": ["a"], "x": Hostile(os.mkdir, "harm")}), "posix.mkdir"),
    "a call in place of all": (lambda: pickle.dumps(Hostile(os.mkdir, "harm"), 0), "posix.mkdir"),
    "a call by its place": (lambda: pickle.dumps(Hostile(eval, "open('harm', 'w')"), 4), "builtins.eval"),
    "a new object": (lambda: b"\x80\x02cos\nsystem\n)\x81.", "os.system"),
    "a counter": (lambda: pickle.dumps({"counts": Counter("abc")}), "collections.Counter"),
    "an array": (lambda: pickle.dumps({"counts": np.zeros(1)}), "numpy.*_reconstruct"),
    "an attribute": (lambda: b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93.", "numpy.dtype.__init__"),
}


@pytest.mark.parametrize("content, name", CALLS.values(), ids=CALLS)
def test_nothing_that_a_pickle_names_is_run(content, name):
    folder = nanogpt_folder()
    (folder / "meta.pkl").write_bytes(content())
    with pytest.raises(
        UserError, match=f"meta.pkl cannot be used: it names {name}, and nothing of a pickle is run here"
    ):
        open_token_folder(folder)
    assert not Path("harm").exists()


HOSTILE = {
    "an old class": lambda: b"(S'mkdir harm'\nios\nsystem\n.",
    "a call of a number": lambda: b"\x80\x02K\x01)R.",
    "a state of a function": lambda: b"\x80\x02cnumpy\ndtype\n}X\x08\0\0\0__code__K\x01sb.",
    "a number of nothing": lambda: b"\x80\x02cnumpy.core.multiarray\nscalar\n)R.",
    "a place far away": lambda: b"\x80\x04}r\xff\xff\xff\xff.",
    "a long string": lambda: b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f" + b"abc.",
    "long bytes": lambda: b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f" + b"abc.",
    "a long number": lambda: b"\x80\x02\x8b\xff\xff\xff\x7fabc.",
    "a long byte array": lambda: b"\x80\x05\x96" + b"\xff" * 5 + b"\0\0\0" + b"abc.",
    "a deep tuple": deep_tuple_as_a_key,
    "a deep list": lambda: b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".",
    "a deep dict": lambda: b"\x80\x02" + b"}K\x01" * 10**5 + b"}" + b"s" * 10**5 + b".",
    "a size": lambda: b"\0" * (2**24 + 1),
    "nothing": lambda: b"",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_pickle_is_a_sentence(content):
    folder = nanogpt_folder()
    (folder / "meta.pkl").write_bytes(content())
    with pytest.raises(UserError, match="meta.pkl (is damaged, or was written by another program|cannot be used: it )"):
        open_token_folder(folder)
    assert not Path("harm").exists()


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"vocab_size": 3}, "vocab_size is no whole number from 23 on"),
        ({"vocab_size": "many"}, "vocab_size is no whole number from"),
        ({"vocab_size": None}, "vocab_size is no whole number from"),
        ({"itos": None, "vocab_size": 100277}, "has no table of symbols .itos., and its vocab_size is not GPT-2's"),
        ({"itos": {}, "stoi": {}, "vocab_size": 0}, "has no table of symbols"),
        ({"itos": 5}, "has no table of symbols"),
        ({"itos": {0: "a", 2: "b"}, "stoi": {"a": 0, "b": 2}, "vocab_size": 2}, "lacks some id"),
        ({"itos": {0: 7}, "stoi": {7: 0}, "vocab_size": 1}, "something else than characters"),
        ({"itos": ["to", "be"], "stoi": {"to": 0}, "vocab_size": 2}, "symbols of several characters .'to' 'be'."),
        ({"itos": {0: "a", 1: "b"}, "stoi": {"a": 1, "b": 0}, "vocab_size": 2}, "stoi is not the reverse"),
        ({"itos": {0: "a", 1: "a"}, "stoi": {"a": 1}, "vocab_size": 2}, "each once"),
        ({"itos": {0: "\ud800"}, "stoi": {"\ud800": 0}, "vocab_size": 1}, "surrogates not allowed"),
    ],
)
def test_a_meta_of_other_content_is_called_by_its_name(changes, reason):
    with pytest.raises(UserError, match=f"meta.pkl cannot be used: .*{reason}.*; prepare the text itself"):
        open_token_folder(nanogpt_folder(**changes))


# ---- damage

DAMAGE = {
    "no val.bin": (lambda folder: (folder / "val.bin").unlink(), "val.bin cannot be read"),
    "no train.bin": (lambda folder: (folder / "train.bin").unlink(), "train.bin cannot be read"),
    "a folder": (
        lambda folder: ((folder / "val.bin").unlink(), (folder / "val.bin").mkdir()),
        "val.bin cannot be read",
    ),
    "empty": (lambda folder: os.truncate(folder / "train.bin", 0), "train.bin .*it is empty"),
    "odd": (lambda folder: os.truncate(folder / "val.bin", 7), "val.bin .*it has 7 bytes, an odd number"),
}


@pytest.mark.parametrize("write", [nanogpt_folder, lambda: prepared(TEXT).path], ids=["nanogpt", "ours"])
@pytest.mark.parametrize("damage, reason", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_of_tokens_is_refused_with_the_reason(write, damage, reason):
    folder = write()
    damage(folder)
    with pytest.raises(UserError, match=reason):
        open_token_folder(folder)


@pytest.mark.parametrize("name", ["train.bin", "val.bin"])
def test_an_id_beyond_the_vocabulary_is_refused(name):
    folder = nanogpt_folder()
    most = len(set(TEXT)) - 1
    tokens = np.fromfile(folder / name, "<u2")
    tokens[len(tokens) // 2] = most
    tokens.tofile(folder / name)
    open_token_folder(folder)
    tokens[len(tokens) // 2] = most + 1
    tokens.tofile(folder / name)
    with pytest.raises(UserError, match=f"{name} .*the id {most + 1}, and its vocabulary ends at {most}"):
        open_token_folder(folder)


def test_files_of_two_folders_do_not_mix():
    for path, text in {"one": TEXT, "two": TEXT[::-1]}.items():
        prepared(text, path)
    for name in FILES:
        kept = (Path("one") / name).read_bytes()
        (Path("one") / name).write_bytes((Path("two") / name).read_bytes())
        with pytest.raises(UserError, match="one is damaged, .*are not as they were written"):
            open_token_folder(Path("one"))
        (Path("one") / name).write_bytes(kept)
    open_token_folder(Path("one"))


def test_a_meta_may_be_laid_out_differently():
    prepared(TEXT)
    meta = json.loads(Path("tokens/meta.json").read_text())
    Path("tokens/meta.json").write_text(json.dumps(dict(reversed(meta.items())), ensure_ascii=False))
    assert "".join(text_of(open_token_folder("tokens"))) == TEXT


@pytest.mark.parametrize("changes", [
    {"tokenizer": {"symbols": "ab"}}, {"tokenizer": None}, {"train_fraction": 0.9}, {"train_fraction": "most"}, {"corpus": {}},
    {"corpus": {"sources": [], "sha256": "", "characters": "many"}}, {"sha256": None}, {"colour": "red"},
    {"corpus": {"sources": [], "sha256": None, "characters": 1}},
], ids=str)  # fmt: skip
def test_a_meta_that_was_changed_is_refused(changes):
    prepared(TEXT)
    file = Path("tokens/meta.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(UserError, match="is damaged, or was written by another program"):
        open_token_folder("tokens")


def damaged(content: bytes, rng: random.Random) -> bytes:
    kind = rng.randrange(4)
    if kind == 0:
        return rng.randbytes(rng.choice([0, 1, 2, 3, 10, len(content)]))
    if kind == 1:
        return content[: rng.randrange(len(content))]
    if kind == 2:
        return content + rng.randbytes(rng.randint(1, 4))
    flipped = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 3])):
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    return bytes(flipped)


@pytest.mark.parametrize("name", FILES)
def test_damage_to_a_folder_never_goes_unnoticed(name):
    rng, file = random.Random(name), Path("tokens") / name
    prepared("Fuzz 🦓 naïve\r\n" * 20)
    intact, whole = file.read_bytes(), open_token_folder("tokens")
    refused = 0
    for _ in range(100):
        file.write_bytes(damaged(intact, rng))
        try:
            data = open_token_folder("tokens")
        except UserError:
            refused += 1
        else:  # harmless: another layout of the same JSON
            assert text_of(data) == text_of(whole) and data.tokenizer == whole.tokenizer
            assert (data.corpus, data.train_fraction) == (whole.corpus, whole.train_fraction)
    assert refused > 75


@pytest.mark.parametrize("name", ["meta.pkl", "train.bin", "val.bin"])
def test_a_damaged_folder_of_nanogpts_is_refused_or_read_as_it_says(name):
    """It has no checksum, so another id or character within bounds cannot be told from the right one."""
    rng, folder = random.Random(name), nanogpt_folder("Fuzz 🦓 naïve\r\n" * 20)
    intact, refused = (folder / name).read_bytes(), 0
    for _ in range(100):
        (folder / name).write_bytes(damaged(intact, rng))
        try:
            data = open_token_folder(folder)
        except UserError:
            refused += 1
        else:
            assert data.train_tokens.tobytes() == (folder / "train.bin").read_bytes()
            assert data.valid_tokens.tobytes() == (folder / "val.bin").read_bytes()
            assert max(data.train_tokens.max(), data.valid_tokens.max()) < data.tokenizer.vocab_size
            meta = pickle._loads((folder / "meta.pkl").read_bytes())  # C's refuses a wrong length of a frame
            assert dict(enumerate(data.tokenizer.symbols)) == meta["itos"]
    assert refused > 50
