"""Byte pairs as tokens: those of the library, of any text, however long; and no tokenizer that would change a text."""

import importlib
import json
import random
import re
import signal
from pathlib import Path

import mlx_nanogpt as gpt
import numpy as np
import pytest
from mlx_nanogpt import BPETokenizer, UserError
from conftest import LONGEST, TEXT, WORDS, byte_pairs, in_a_process
from mlx_nanogpt.text import byte_pairs as byte_pairs_module
from mlx_nanogpt.text.byte_pairs import LONGEST_RUN, cut_between_tokens, cut_long_runs
from mlx_nanogpt.text.tokenizer import tokenizer_from_json
from mlx_nanogpt.text.tokenizer_files import tokenizer_of_folder
from test_tokenizer import random_text

STRANGE = [
    "",
    "\n\n  \t\r\n",
    "naïve 日本 🦓🦓\u200d🦓 e\u0301",
    "<|endoftext|>to be<|endoftext|>",
    "\0\x7f\u2028\ufeff\ufffd",
    TEXT,
]


def library_of(tokenizer: BPETokenizer):
    """The library's own tokenizer."""
    return importlib.import_module("tokenizers").Tokenizer.from_str(tokenizer.to_json())


def pieces(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


@pytest.mark.parametrize("text", STRANGE + [random_text(seed) for seed in range(5)])
def test_byte_pairs_are_those_of_the_library_and_any_text_comes_back_whole(text):
    tokenizer = byte_pairs()
    ids = tokenizer.encode(text)
    assert ids.tolist() == library_of(tokenizer).encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == text and ids.dtype == np.uint16


def test_bytes_that_are_not_text_decode_as_the_library_decodes_them():
    tokenizer, rng = byte_pairs(), random.Random(1)
    library = library_of(tokenizer)
    for _ in range(200):
        ids = rng.choices(range(tokenizer.vocab_size), k=20)
        assert tokenizer.decode(ids) == library.decode(ids, skip_special_tokens=False)


def test_a_stream_yields_whole_characters_as_soon_as_they_are_whole():
    text = "naïve 🦓 日本"
    ids = byte_pairs().encode(text)
    assert len(ids) > len(text)
    found = list(byte_pairs().stream(ids))
    assert "".join(found) == text and "\ufffd" not in text and all(found)
    assert "".join(byte_pairs().stream(ids[:-1])) == text[:-1] + "\ufffd"  # the last character is incomplete
    ids, given = byte_pairs().encode("é日").tolist(), []
    stream = byte_pairs().stream(given.append(token) or token for token in ids)
    assert (next(stream), len(given)) == ("é", 2) and (next(stream), len(given)) == ("日", 5)


@pytest.mark.parametrize("part", [1, 10, 1000])
def test_a_long_text_is_encoded_in_parts_as_it_is_as_a_whole(monkeypatch, part):
    whole = byte_pairs().encode(TEXT + "\n\n" + TEXT)
    monkeypatch.setattr(byte_pairs_module, "PART", part)
    assert (byte_pairs().encode(TEXT + "\n\n" + TEXT) == whole).all()


class Spy:
    """The library's tokenizer of `tokenizer`, and the lengths of the texts that it got."""

    def __init__(self, tokenizer: BPETokenizer) -> None:
        self.library, self.lengths = tokenizer._library, []

    def get_vocab(self) -> dict[str, int]:
        return self.library.get_vocab()

    def encode(self, text: str, **options):
        self.lengths.append(len(text))
        return self.library.encode(text, **options)


@pytest.mark.parametrize("comma", [", ", ","])
def test_a_text_whose_lines_end_in_punctuation_is_encoded_in_bounded_parts(comma, monkeypatch):
    part, rng = 2**14, random.Random(3)
    lines = (json.dumps({"id": i, "text": " ".join(rng.choices(WORDS, k=9))}) + "\n" for i in range(1000))
    text = "".join(lines).replace(", ", comma)
    monkeypatch.setattr(byte_pairs_module, "PART", part)
    whole = library_of(byte_pairs()).encode(text, add_special_tokens=False).ids
    tokenizer = BPETokenizer(byte_pairs().to_json())
    tokenizer.__dict__["_library"] = spy = Spy(tokenizer)
    assert tokenizer.encode(text).tolist() == whole
    assert len(text) > 4 * part and len(spy.lengths) > 4 and max(spy.lengths) < part + 1000


@pytest.mark.parametrize("size", [1, 2, 3, 10, 64])
@pytest.mark.parametrize(
    "text", [*filter(None, STRANGE), "a  b\n\n c's  \r\n\t12 !?\u00a0x\x1cy \u2003z\n", " don't  x\x85 y\u2028 z"]
)
def test_no_byte_pair_reaches_across_a_cut(text, size):
    parts = list(cut_between_tokens(pieces(text, size)))
    library = library_of(byte_pairs())
    ids = [library.encode(part, add_special_tokens=False).ids for part in parts]
    assert "".join(parts) == text and sum(ids, []) == library.encode(text, add_special_tokens=False).ids
    # no part that GPT-2's expression matches is cut, though these byte pairs may be shorter
    words = lambda text: [word for word, _ in library.pre_tokenizer.pre_tokenize_str(text)]
    assert sum(map(words, parts), []) == words(text)


# ---- tokenizers from elsewhere


def test_truncation_padding_and_additions_of_a_tokenizer_have_no_effect():
    library, end = library_of(byte_pairs()), "<|endoftext|>"
    library.enable_truncation(5)
    library.enable_padding(length=10)
    processors = importlib.import_module("tokenizers").processors
    library.post_processor = processors.TemplateProcessing(f"{end} $A", special_tokens=[(end, 300)])
    assert library.encode("to be").ids[0] == 300 and len(library.encode(TEXT).ids) == 10
    for text in (TEXT, "t"):
        assert BPETokenizer(library.to_str()).encode(text).tolist() == byte_pairs().encode(text).tolist()


def older(described: dict) -> dict:
    """In the form of GPT-2's own, older file on the hub: it has fewer fields and another form of merges."""
    model = {
        "dropout": None, "unk_token": "", "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False,
        "vocab": described["model"]["vocab"], "merges": [" ".join(pair) for pair in described["model"]["merges"]],
    }  # fmt: skip
    before = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return described | {
        "model": model,
        "pre_tokenizer": before,
        "post_processor": before | {"trim_offsets": False},
        "decoder": before | {"add_prefix_space": True},
        "added_tokens": [token | {"normalized": True} for token in described["added_tokens"]],
    }


def test_equal_tokenizers_are_equal_in_every_spelling(tmp_path):
    tokenizer = byte_pairs()
    described = json.loads(tokenizer.to_json())
    again = tokenizer_from_json(json.dumps(dict(reversed(older(described).items())), indent=2))
    assert again == tokenizer and again.to_json() == tokenizer.to_json()
    assert (again.encode(TEXT) == tokenizer.encode(TEXT)).all()

    # with the end of text among the model's tokens, as in GPT-2, and in the two files of older folders
    described["model"]["vocab"]["<|endoftext|>"] = 300
    tokenizer = BPETokenizer(json.dumps(described))
    (tmp_path / "vocab.json").write_text(json.dumps(dict(reversed(described["model"]["vocab"].items()))))
    pairs = (" ".join(pair) for pair in described["model"]["merges"])
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs, ""]))
    assert tokenizer_of_folder(tmp_path) == tokenizer != byte_pairs()
    assert (tokenizer.encode(TEXT) == byte_pairs().encode(TEXT)).all()


@pytest.mark.parametrize("change", [{"vocab": {}}, {"merges": []}, {"ignore_merges": True}])
def test_tokenizers_that_encode_otherwise_are_not_equal(change):
    described = json.loads(byte_pairs().to_json())
    if "vocab" in change:  # two ids are exchanged
        vocab = described["model"]["vocab"]
        change = {"vocab": vocab | {"a": vocab["b"], "b": vocab["a"]}}
    described["model"] |= change
    assert BPETokenizer(json.dumps(described)) != byte_pairs()


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
ADDED = {"id": 301, "content": "<x>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
ADDED |= {"special": True}
OF_QWEN = {"type": "Sequence", "pretokenizers": [{"type": "Split"}, BYTE_LEVEL | {"use_regex": False}]}


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"normalizer": {"type": "Lowercase"}}, "changes the text before"),
        ({"pre_tokenizer": BYTE_LEVEL | {"add_prefix_space": True}}, "changes the text before"),
        ({"pre_tokenizer": BYTE_LEVEL | {"use_regex": False}}, "other rules than GPT-2's"),
        ({"added_tokens": [ADDED | {"lstrip": True}]}, "'<x>' takes whitespace in"),
        ({"added_tokens": [ADDED | {"rstrip": True}]}, "'<x>' takes whitespace in"),
        ({"added_tokens": [ADDED | {"content": "<x y>"}]}, "'<x y>' takes whitespace in"),
        ({"model": {"type": "WordPiece"}}, "its tokens are WordPiece, and GPT-2's are byte pairs"),
        ({"decoder": None}, "other rules than GPT-2's, as those of Qwen and Llama do"),
        ({"decoder": {"type": "Fuse"}}, "other rules than GPT-2's, as those of Qwen and Llama do"),
        ({"pre_tokenizer": None}, "other rules than GPT-2's, as those of Qwen and Llama do"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "other rules than GPT-2's, as those of Qwen and Llama do"),
        ({"pre_tokenizer": OF_QWEN, "normalizer": {"type": "NFC"}}, "other rules than GPT-2's, as those of Qwen"),
        ({"model": {"type": "BPE", "vocab": {"ab": 0}, "merges": [], "dropout": 0.5}}, "has a dropout"),
        (
            {"model": {"type": "BPE", "vocab": {"ab": 0}, "merges": [], "continuing_subword_prefix": "long prefix"}},
            "has a continuing_subword_prefix",
        ),
    ],
)
def test_another_kind_of_tokenizer_is_refused_with_the_reason(tmp_path, change, reason):
    description = json.dumps(json.loads(byte_pairs().to_json()) | change)
    with pytest.raises(ValueError, match=reason):
        tokenizer_from_json(description)
    (tmp_path / "tokenizer.json").write_text(description)
    with pytest.raises(UserError, match=f"holds a tokenizer that cannot be used here: .*{reason}.*; name a model with"):
        tokenizer_of_folder(tmp_path)


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["x y"]}}, "the library tokenizers refuses it"),
        ({"model": {"vocab": {"a": 0, "b": 0}, "merges": []}}, "its tokens 'a' and 'b' have the same id, 0"),
        ({"added_tokens": [ADDED | {"id": 5}]}, "its tokens '&' and '<x>' have the same id, 5"),
        ({"added_tokens": [ADDED, ADDED | {"content": "<y>"}]}, "its tokens '<x>' and '<y>' have the same id, 301"),
    ],
)
def test_a_tokenizer_that_contradicts_itself_is_refused_with_the_reason(tmp_path, change, reason):
    (tmp_path / "tokenizer.json").write_text(json.dumps(json.loads(byte_pairs().to_json()) | change))
    with pytest.raises(UserError, match=f"is damaged, incomplete or of another kind .*{reason}"):
        tokenizer_of_folder(tmp_path)


def test_unknown_bytes_and_half_characters_are_named_and_not_left_out():
    described = json.loads(byte_pairs().to_json())
    described["model"] |= {"merges": [], "vocab": {"a": 0, "b": 1}}
    tokenizer = BPETokenizer(json.dumps(described | {"added_tokens": []}))
    assert tokenizer.encode("abba").tolist() == [0, 1, 1, 0] and tokenizer.start_token == 0
    with pytest.raises(UserError, match="never seen 'c' '🦓'"):
        tokenizer.encode("ac🦓")
    with pytest.raises(UserError, match=r"never seen '\\udcff'"):
        byte_pairs().encode("a\udcff")


# ---- learned byte pairs


def test_byte_pairs_are_learned_from_the_text_alone():
    learned = BPETokenizer.learn([TEXT], 300)
    assert (learned.vocab_size, learned.kind) == (300, "bpe")
    words = {learned.decode([token]) for token in learned.encode(TEXT)}
    assert {" the", " arrows"} & words and len(learned.encode(TEXT)) < len(TEXT) / 2
    for text in STRANGE:  # bytes that were not in the text have tokens, too
        assert learned.decode(learned.encode(text)) == text
    assert learned == BPETokenizer.learn([TEXT], 300) == BPETokenizer.learn(pieces(TEXT, 7), 300)
    assert learned != BPETokenizer.learn([TEXT[::-1]], 300)
    assert BPETokenizer.learn(["to be to be"], 1000).vocab_size < 270  # a text with few pairs gives fewer


def test_an_empty_prompt_starts_with_the_end_of_text_or_with_a_new_line():
    for tokenizer, start in ((byte_pairs(), "<|endoftext|>"), (BPETokenizer.learn([TEXT], 300), "\n")):
        assert tokenizer.decode([tokenizer.start_token]) == start


@pytest.mark.parametrize("size", [-1, 0, 256, 2**24 + 1])
def test_a_vocabulary_that_cannot_be_learned_is_refused(size):
    with pytest.raises(UserError, match=f"vocab_size {size} is out of range; give a whole number from 257 to"):
        BPETokenizer.learn([TEXT], size)


def test_a_tokenizer_and_a_number_of_tokens_exclude_each_other():
    with pytest.raises(UserError, match="`tokenizer` and `vocab_size` exclude each other"):
        gpt.tokenize(gpt.Corpus(("play.txt",), TEXT), byte_pairs(), vocab_size=300)


def test_byte_pairs_are_learned_from_the_training_split_alone():
    """The validation split must stay unseen."""
    corpus = gpt.Corpus(("play.txt",), TEXT[:1500] + "zyzzyva " * 100)
    data = gpt.tokenize(corpus, train_fraction=1500 / len(corpus.text), vocab_size=300)
    assert data.tokenizer == BPETokenizer.learn([TEXT[:1500]], 300)
    assert "zyz" not in "".join(data.tokenizer.decode([i]) + " " for i in range(300))


# ---- texts without gaps

GAPLESS = {
    "DNA": "".join(random.Random(1).choices("ACGT", k=5000)),
    "one letter": "A" * 5000,
    "spaces": " " * 5000,
    "Chinese": "".join(chr(0x4E00 + random.Random(i).randrange(300)) for i in range(5000)),
    "in a text": f"{TEXT} {'0123456789' * 500} {TEXT}",
}


@pytest.mark.parametrize("text", GAPLESS.values(), ids=GAPLESS)
def test_pairs_are_learned_from_runs_of_bounded_length(text):
    """The library takes time with the square of a run: 800,000 letters of DNA took more than an hour."""
    parts = list(cut_long_runs(text))
    longest = max(len(run) for part in parts for run in re.findall(r"\S+|\s+", part))
    assert "".join(parts) == text and longest == LONGEST_RUN
    tokenizer = BPETokenizer.learn([text], 270)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_text_with_gaps_is_not_cut():
    assert list(cut_long_runs(TEXT)) == [TEXT]


LEARNING = """
from mlx_nanogpt import BPETokenizer
import random

def pieces():
    print("learning", flush=True)
    while True:
        yield "".join(random.choices("abcdefghij ", k=10_000))

BPETokenizer.learn(pieces(), 5000)
"""


def test_ctrl_c_ends_the_learning_of_pairs_at_once():
    with in_a_process("-c", LEARNING) as process:
        assert process.stdout.readline() == "learning\n"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LONGEST)
    assert process.returncode == -signal.SIGINT


def test_an_error_in_the_text_ends_the_learning_of_pairs():
    def pieces():
        yield TEXT
        raise UserError("the text changed", "try again")

    with pytest.raises(Exception, match="the text changed"):
        BPETokenizer.learn(pieces(), 300)


def test_no_file_of_the_users_is_imported_where_pairs_are_learned():
    for name in ("json.py", "signal.py", "tokenizers.py"):
        Path(name).write_text("raise SystemExit('imported')")
    assert BPETokenizer.learn([TEXT], 300).vocab_size == 300


def test_a_process_that_ends_while_it_learns_is_an_error(monkeypatch):
    monkeypatch.setattr(byte_pairs_module, "LEARN", "raise SystemExit(9)")
    with pytest.raises(MemoryError, match="ended with status 9"):
        BPETokenizer.learn([TEXT] * 1000, 300)
