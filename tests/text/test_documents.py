"""Documents: what begins and ends is marked, stays whole in a split, and is found again wherever the text is read."""

import random
from pathlib import Path

import numpy as np
import pytest
from mlx_nanogpt import CharTokenizer, UserError, load_corpus, open_token_folder, prepare, tokenize
from conftest import byte_pairs
from mlx_nanogpt.text import corpus, documents
from mlx_nanogpt.text.corpus import choose_texts
from mlx_nanogpt.text.documents import DocumentSizes

NAMES = sorted({"".join(random.Random(i).choices("abdeiklmno", k=3 + i % 5)) for i in range(300)})


@pytest.fixture(params=[7, 2**20])
def piece(request, monkeypatch):
    """Texts that are read in small pieces, and at once."""
    monkeypatch.setattr(corpus, "PIECE", request.param)
    monkeypatch.setattr(documents, "PART", request.param)


def write(files: dict[str, str]) -> None:
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(text.encode())


def documents_of(data, split: str) -> list[str]:
    text = data.tokenizer.decode(getattr(data, f"{split}_tokens"))
    assert text[0] == text[-1] == "\0"
    return text[1:-1].split("\0")


# ---- what a document is


@pytest.mark.parametrize(
    "chosen, text",
    [("lines", "\0a b\0\tc\0 d\0e\0"), ("files", "\0a b\r\n\n\tc\n d\0e\n\0"), ("none", "a b\r\n\n\tc\n d\ne\n")],
)
def test_a_document_is_a_line_or_a_file_between_marks(piece, chosen, text):
    write({"in/1.txt": "a b\r\n\n\tc\n d", "in/2.txt": "e\n"})
    assert load_corpus("in", documents=chosen).text == text


def test_a_line_of_json_lines_is_a_document_with_its_line_ends(piece):
    write({"a.jsonl": '{"text": "to be\\nor not", "id": 1}\n\n{"text": "é"}'})
    found = load_corpus("a.jsonl")
    assert (found.documents, found.text) == ("lines", "\0to be\nor not\0é\0")
    assert load_corpus("a.jsonl", documents="none").text.startswith('{"text": ')  # as older runs read it


@pytest.mark.parametrize(
    "line, reason",
    [
        ('{"prompt": "a", "completion": "b"}', "line 2 of a.jsonl has no text in a field text: its fields are prompt, comple"),
        ('{"text": 3}', "its fields are text"),
        ('["a"]', "it is no object"),
        ('{"text": ', "line 2 of a.jsonl is not JSON"),
        ("[" * 10_000, "line 2 of a.jsonl is not JSON"),
        ('{"text": "\\u0000"}', "that no UTF-8 text may have here"),
        ('{"text": "\\ud800"}', "that no UTF-8 text may have here"),
    ],
)  # fmt: skip
def test_a_line_without_a_text_is_a_sentence_that_names_it(line, reason):
    write({"a.jsonl": f'{{"text": "x"}}\n{line}\n'})
    with pytest.raises(UserError, match=f"{reason}.*`documents` none"):
        load_corpus("a.jsonl")


@pytest.mark.parametrize(
    "files, chosen",
    [
        ({"in/1.md": "a", "in/2.md": "b"}, "files"),
        ({"in/1.md": "a"}, "none"),
        ({"in/1.jsonl": '{"text": "a"}', "in/2.jsonl": '{"text": "b"}'}, "lines"),
        ({"in/1.jsonl": '{"text": "a"}', "in/2.md": "b"}, "files"),
    ],
)
def test_a_folder_of_files_is_a_document_each_and_json_lines_are_lines(files, chosen):
    write(files)
    assert choose_texts(["in"]).documents == load_corpus("in").documents == chosen
    assert choose_texts(["in/" + Path(next(iter(files))).name, "play.txt"]).documents == "none"


# ---- the splits


def test_whole_documents_validate_the_same_ones_of_a_sorted_and_of_a_shuffled_list():
    splits = []
    for names in (NAMES, random.Random(1).sample(NAMES, len(NAMES))):
        write({"names.txt": "\n".join(names)})
        data = tokenize(load_corpus("names.txt", documents="lines"), train_fraction=0.8)
        found = {split: documents_of(data, split) for split in ("train", "valid")}
        assert sorted(found["train"] + found["valid"]) == NAMES
        assert data.count_documents() == (len(found["train"]), len(found["valid"]))
        assert found["train"] != sorted(found["train"]) and found["valid"] != sorted(found["valid"])
        splits.append({split: set(texts) for split, texts in found.items()})
    assert splits[0] == splits[1]
    assert 0.17 < sum(map(len, splits[0]["valid"])) / sum(map(len, NAMES)) <= 0.2


def test_equal_documents_stay_together():
    write({"names.txt": "\n".join(NAMES * 3)})
    data = tokenize(load_corpus("names.txt", documents="lines"))
    assert not set(documents_of(data, "train")) & set(documents_of(data, "valid"))


@pytest.mark.parametrize(
    "lengths, validate", [([90, 6, 4], [False, True, True]), ([50, 50], None), ([99, 1], [False, True])]
)
def test_documents_that_are_too_long_for_the_validation_split_train(lengths, validate):
    sizes = DocumentSizes()
    sizes.read("\0" + "".join(f"{chr(97 + i) * length}\0" for i, length in enumerate(lengths)))
    chosen = sizes.choose_validation(0.8).tolist()
    assert chosen == validate if validate else sum(chosen) == 1


def test_a_single_document_cannot_be_split():
    write({"a.txt": "a name\na name\n"})
    with pytest.raises(UserError, match="only one document .*`documents` none.*`valid_data`"):
        tokenize(load_corpus("a.txt", documents="lines"))


# ---- a validation text of its own


@pytest.mark.parametrize(
    "files, train, valid",
    [
        ("train.txt valid.txt test.txt", "train.txt", "valid.txt"),
        ("ptb.train.txt ptb.valid.txt ptb.test.txt README", "ptb.train.txt", "ptb.valid.txt"),
        ("wiki.train.tokens wiki.valid.tokens wiki.test.tokens", "wiki.train.tokens", "wiki.valid.tokens"),
        ("TinyStories-train.txt TinyStories-valid.txt README.md", "TinyStories-train.txt", "TinyStories-valid.txt"),
        ("train/a.txt train/b.txt dev/a.txt test/c.txt LICENSE", "train", "dev"),
        ("a_train.txt b_train.txt b_val.txt a_val.txt", "a_train.txt b_train.txt", "a_val.txt b_val.txt"),
        ("train.txt test.txt", "train.txt", ""),  # the rest of what trains validates
        ("Train.TXT test.txt", "Train.TXT", ""),
        ("train1.txt train2.txt test1.txt", "train1.txt train2.txt", ""),
        (
            "train-00000-of-00002.txt train-00001-of-00002.txt test-00000-of-00001.txt",
            "train-00000-of-00002.txt train-00001-of-00002.txt",
            "",
        ),
        ("training.txt eval.txt testing.txt", "training.txt", "eval.txt"),
        ("e\u0301.train.txt \u00e9.test.txt", "e\u0301.train.txt", ""),
    ],
)
def test_a_folder_of_splits_trains_on_one_validates_on_another_and_never_reads_the_test(files, train, valid):
    write({f"in/{name}": f"{name}\n" for name in files.split()})
    texts = choose_texts(["in"])
    assert texts.sources == tuple(f"in/{name}" for name in train.split())
    assert texts.valid == tuple(f"in/{name}" for name in valid.split())
    read = load_corpus("in")
    assert "test" not in read.text + read.valid_text and ("valid" not in read.text) and "README" not in read.text
    if valid:
        assert load_corpus("play.txt", valid="in").valid == texts.valid


@pytest.mark.parametrize(
    "files", ["model.py test_model.py", "train.py model.py test.py", "train.txt notes.txt", "test.txt a"]
)
def test_another_folder_is_read_whole(files):
    write({f"in/{name}": "x" for name in files.split()})
    assert choose_texts(["in"])[::2] == (("in",), ())


@pytest.mark.parametrize("chosen", ["none", "lines"])
def test_a_validation_text_of_its_own_is_the_split_and_belongs_to_the_identity(chosen):
    write(
        {
            "a.txt": "to be\nor not\n",
            "b.txt": "that is\nthe question\n",
            "joined.txt": "to be\nor not\nthat is\nthe question\n",
        }
    )
    data = tokenize(load_corpus("a.txt", valid=["b.txt"], documents=chosen), train_fraction=0.1)
    valid = data.tokenizer.decode(data.valid_tokens)
    if chosen == "none":
        assert (data.tokenizer.decode(data.train_tokens), valid) == ("to be\nor not\n", "that is\nthe question\n")
    else:
        assert sorted(documents_of(data, "valid")) == ["that is", "the question"] and data.count_documents() == (2, 2)
    assert data.corpus.valid == ("b.txt",)
    assert data.corpus.sha256 != load_corpus("joined.txt", documents=chosen).identity.sha256


# ---- tokens


@pytest.mark.parametrize("tokens", [{}, {"vocab_size": 270}, {"tokenizer": byte_pairs()}], ids=["char", "bpe", "given"])
@pytest.mark.parametrize("chosen, valid", [("lines", ()), ("lines", ("more/0",)), ("files", ("more/0",))])
def test_prepared_documents_are_those_of_the_text(piece, tokens, chosen, valid):
    write({f"in/{i}": "\n".join(NAMES[i::9]) for i in range(9)} | {"more/0": "aa\nbb\nab\n"})
    data = tokenize(load_corpus("in", valid=valid, documents=chosen), train_fraction=0.7, **tokens)
    list(prepare(["in"], "tokens", 0.7, valid=valid, documents=chosen, **tokens))
    folder = open_token_folder("tokens")
    assert np.array_equal(folder.train_tokens, data.train_tokens)
    assert np.array_equal(folder.valid_tokens, data.valid_tokens)
    assert folder.tokenizer == data.tokenizer and folder.tokenizer.marks
    assert folder.corpus.sha256 == data.corpus.sha256 and folder.count_documents() == data.count_documents()
    text = data.tokenizer.decode(data.train_tokens)
    assert np.array_equal(data.tokenizer.encode(text), data.train_tokens)


@pytest.mark.parametrize("tokenizer", [CharTokenizer("\0abc"), byte_pairs().with_marks()], ids=["char", "bpe"])
def test_an_empty_prompt_starts_a_document_and_the_same_mark_ends_it(tokenizer):
    assert tokenizer.decode([tokenizer.start_token]) == "\0" and tokenizer.end_token == tokenizer.start_token
    assert tokenizer.decode(tokenizer.encode("\0ab\0c\0")) == "\0ab\0c\0"


def test_a_model_that_knows_no_mark_names_the_way():
    write({"names.txt": "ab\nba\na\n"})
    with pytest.raises(UserError, match="learned from a text without documents.*`documents` none"):
        tokenize(load_corpus("names.txt", documents="lines"), CharTokenizer("\nab"))


@pytest.mark.parametrize("valid", ["in/b.txt", "in", "play.txt"])
def test_a_text_that_trains_does_not_validate(valid):
    write({"in/a.txt": "to be\n", "in/b.txt": "or not\n"})
    with pytest.raises(UserError, match=f"{valid} validates, and is a part of .*, which trains"):
        load_corpus("in", "play.txt", valid=valid)


def test_an_unknown_kind_of_documents_is_refused():
    for call in (lambda: load_corpus("play.txt", documents="line"), lambda: [*prepare("play.txt", "out", documents=3)]):
        with pytest.raises(UserError, match="documents .* is not known; choose one of: lines, files, none"):
            call()
