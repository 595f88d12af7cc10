"""Documents on the command line: a list of names, a folder of files, a validation text of one's own, from training to export."""

import json
import random
import re
from pathlib import Path

import mlx_nanogpt as gpt
import pytest
from mlx_nanogpt import load_pretrained, open_run
from conftest import TINY, byte_pairs
from helpers import NO_CORPUS, is_a_sentence, pipe
from mlx_nanogpt_cli.commands import generate

NAMES = sorted({"".join(random.Random(i).choices("abdeiklmno", k=3 + i % 5)) for i in range(200)})
LINES = ["train", *NO_CORPUS, "--data=names.txt", "--documents=lines"]


@pytest.fixture(autouse=True)
def names():
    Path("names.txt").write_text("\n".join(NAMES) + "\n")


def test_the_header_counts_the_documents_of_each_split_and_the_run_keeps_the_choice(mlx_gpt):
    out = mlx_gpt(*LINES).out
    train, valid = map(
        int, re.search(r"Documents (\d+) to train on, (\d+) to validate \(a line is one\)", out).groups()
    )
    assert train + valid == len(NAMES) and 30 < valid < 50
    assert open_run("runs/1").corpus.documents == "lines"


def test_a_generated_document_ends_where_the_model_ends_it(mlx_gpt, monkeypatch):
    mlx_gpt(*LINES)
    tokenizer = open_run("runs/1").tokenizer
    texts = [[tokenizer.symbols.index(c) for c in name] for name in ("abel", "oni")]
    monkeypatch.setattr(generate, "make_writer", lambda *_: lambda *arguments: map(iter, texts))
    result = mlx_gpt("generate", "--num-samples=2", "--seed=7")
    assert result.out == "abel\noni\n" and "2 samples, seeds 7 to 8" in result.err


def test_generate_gives_the_model_the_mark_before_a_prompt_and_the_token_to_stop_at(mlx_gpt, monkeypatch):
    mlx_gpt(*LINES)
    given = []
    monkeypatch.setattr(generate, "make_writer", lambda *_: lambda *arguments: given.append(arguments) or [iter([])])
    assert mlx_gpt("generate", "--prompt=ab").out == "ab\n"
    tokenizer = open_run("runs/1").tokenizer
    (ids, tokens, seeds, end) = given[0]
    assert tokenizer.decode(ids) == "\0ab" and tokenizer.decode([end]) == "\0"


@pytest.mark.parametrize(
    "stop, text", [(["is"], "that "), (["question", "e q"], "that is th"), (["\n"], "that is the question")]
)
def test_generate_stops_before_a_text(mlx_gpt, monkeypatch, stop, text):
    mlx_gpt("train", *TINY)
    ids = open_run("runs/1").tokenizer.encode("that is the question\nto be").tolist()
    monkeypatch.setattr(generate, "make_writer", lambda *_: lambda *arguments: [iter(ids)])
    assert mlx_gpt("generate", *(f"--stop={word}" for word in stop)).out == text + "\n"


def test_the_samples_of_training_are_documents_in_lines(mlx_gpt):
    out = mlx_gpt(*LINES, "--num-iter=2").out
    assert "\0" not in out and "\\u0000" not in out
    assert all(
        "\0" not in json.loads(line).get("text", "") for line in Path("runs/1/log.jsonl").read_text().splitlines()
    )


def test_the_marks_are_no_characters_of_the_users(mlx_gpt):
    mlx_gpt(*LINES)
    result = mlx_gpt("generate", "--prompt=x")
    assert "it knows 'a' 'b' 'd'" in result.err


def test_a_run_on_documents_is_resumed_from_its_text_another_copy_of_it_and_its_tokens(mlx_gpt):
    mlx_gpt(*LINES)
    assert mlx_gpt("prepare", "--data=names.txt", "--documents=lines", "--out=tokens").status == 0
    Path("names.txt").rename("moved.txt")
    for i, data in enumerate(["--data=moved.txt", "--data=tokens"]):
        result = mlx_gpt("train", "--resume=1", f"--num-iter={6 + i}", data)
        assert result.status == 0, result.err
    Path("moved.txt").rename("names.txt")
    assert mlx_gpt("train", "--resume=1", "--num-iter=8").status == 0
    assert mlx_gpt("eval", "1").status == mlx_gpt("inspect", "1").status == 0


def test_the_settings_of_a_run_on_documents_repeat_it(mlx_gpt):
    Path("more.txt").write_text("aki\nono\nbel\nlok\nnim\n")
    mlx_gpt(*LINES, "--valid-data=more.txt")
    Path("mine.toml").write_text(mlx_gpt("config", "1").out)
    assert mlx_gpt("train", "--config=mine.toml").status == 0
    first, second = open_run("runs/1"), open_run("runs/2")
    assert first.corpus == second.corpus and first.corpus.valid == ("more.txt",)


@pytest.mark.parametrize("more", [[], ["--documents=lines"]])
def test_a_new_run_from_a_run_on_documents_takes_a_text_of_the_same_documents(mlx_gpt, more):
    mlx_gpt(*LINES)
    Path("others.txt").write_text("\n".join(NAMES[::2]))
    assert mlx_gpt("train", "--init-from=1", "--data=others.txt", "--num-iter=2", *more).status == 0
    assert open_run("runs/2").corpus.documents == "lines"


def test_a_run_without_documents_goes_on_without_and_names_the_way(mlx_gpt):
    mlx_gpt("train", *TINY)
    Path("in").mkdir()
    for i in (1, 2):
        Path(f"in/{i}.md").write_text("to be or not to be\n" * 20 * i)
    assert mlx_gpt("train", "--init-from=1", "--data=in", "--num-iter=2").status == 0
    result = mlx_gpt("train", "--init-from=1", "--data=in", "--documents=files", "--num-iter=2")
    assert (
        is_a_sentence(result)
        and "learned from a text without documents" in result.err
        and "--documents none" in result.err
    )


def test_names_from_standard_input_are_documents_too(mlx_gpt, monkeypatch):
    pipe(monkeypatch, Path("names.txt").read_text())
    assert mlx_gpt("train", *NO_CORPUS, "--data=-", "--documents=lines").status == 0
    mlx_gpt(*LINES)
    assert open_run("runs/1").corpus.sha256 == open_run("runs/2").corpus.sha256


def test_a_folder_of_splits_says_what_validates_and_what_is_left_out(mlx_gpt):
    Path("in").mkdir()
    for name in ("train", "valid", "test"):
        Path(f"in/{name}.txt").write_text("to be or not to be\n" * 9)
    out = mlx_gpt("train", *NO_CORPUS, "--data=in").out
    assert "  Validates in/valid.txt" in out and "  Left out  in/test.txt" in out
    assert "Left out: in/test.txt" in mlx_gpt("prepare", "--data=in", "--out=tokens").out


def test_tokens_leave_no_choice_of_documents(mlx_gpt):
    mlx_gpt("prepare", "--data=play.txt", "--out=tokens")
    for option in ("--documents=lines", "--valid-data=play.txt"):
        result = mlx_gpt("train", *NO_CORPUS, "--data=tokens", option)
        assert is_a_sentence(result) and "holds tokens, split already; leave out --" in result.err


@pytest.mark.parametrize("tokens", [[], ["--tokenizer=bpe", "--vocab-size=270"]], ids=["char", "bpe"])
def test_an_export_begins_and_ends_texts_as_the_run_does(mlx_gpt, tokens):
    Path("names.txt").write_text("\n".join(NAMES) + "\nbé\n" * 3)  # a character of two bytes
    modern = ["--preset=modern", "--n-embd=32", "--head-size=16", "--n-layer=1", "--num-iter=2", "--eval-interval=2"]
    mlx_gpt("train", *modern, "--eval-iters=1", "--block-size=8", *LINES[-2:], *tokens)
    assert mlx_gpt("export", "1", "--out=out").status == 0
    run, (_, tokenizer) = open_run("runs/1"), load_pretrained("out")
    assert tokenizer == run.tokenizer and tokenizer.marks
    config = json.loads(Path("out/config.json").read_text())
    assert config["bos_token_id"] == config["eos_token_id"] == tokenizer.end_token
    library = pytest.importorskip("tokenizers").Tokenizer.from_file("out/tokenizer.json")
    assert library.encode("abé").ids == [tokenizer.end_token, *tokenizer.encode("abé")]
    assert mlx_gpt("generate", "--init-from=out", "--tokens=3", "--seed=1").status == 0


def test_another_text_is_measured_in_the_documents_of_the_run(mlx_gpt):
    mlx_gpt(*LINES)
    Path("others.txt").write_text("\n".join(NAMES[::3]))
    result = mlx_gpt("eval", "1", "--data=others.txt")
    characters = sum(len(name) + 1 for name in NAMES[::3])
    assert result.status == 0 and f"others.txt: {characters:,} tokens" in result.out


def test_the_own_text_of_a_run_is_found_where_it_was_moved_with_its_validation_text(mlx_gpt):
    Path("more.txt").write_text("aki\nono\nbel\nlok\nnim\n")
    mlx_gpt(*LINES, "--valid-data=more.txt")
    Path("names.txt").rename("moved.txt")
    result = mlx_gpt("eval", "1", "--data=moved.txt")
    assert result.status == 0 and "more.txt, validation split: 20 tokens" in result.out  # the marks count


def test_prepared_documents_of_gpt2s_tokens_train_a_model_of_gpt2s(mlx_gpt):
    gpt2s = byte_pairs()
    assert gpt2s.kind == "gpt2" and not gpt2s.marks
    model = gpt.GPT(gpt.GPTConfig(vocab_size=gpt2s.vocab_size, n_embd=16, head_size=8, n_layer=1, block_size=8))
    data = gpt.tokenize(gpt.load_corpus("play.txt"), gpt2s)
    gpt.start_from(gpt.create_run(model.config, gpt.TrainConfig(), data, run_dir="first"), model)
    list(gpt.prepare("names.txt", "tokens", tokenizer=gpt2s, documents="lines"))
    result = mlx_gpt("train", "--init-from=first", "--data=tokens", "--num-iter=2", "--eval-iters=1")
    assert result.status == 0, result.err


def test_a_stop_that_the_model_never_writes_is_a_sentence(mlx_gpt):
    mlx_gpt("train", *TINY)
    result = mlx_gpt("generate", r"--stop=\n")
    assert is_a_sentence(result) and r"the model never writes '\\'" in result.err and r"$'\n'" in result.err


def test_a_test_file_in_a_folder_of_other_texts_is_named(mlx_gpt):
    Path("in").mkdir()
    for name in ("notes.txt", "test.txt", "test_x.py"):
        Path(f"in/{name}").write_text("to be or not to be\n" * 9 + name)
    out = mlx_gpt("train", *NO_CORPUS, "--data=in").out
    assert "  Tests     in/test.txt: read with the rest; to keep tests apart, name the files" in out


def test_a_resumed_run_finds_its_validation_text_where_it_was_moved(mlx_gpt):
    Path("more.txt").write_text("aki\nono\nbel\nlok\nnim\n")
    mlx_gpt(*LINES, "--valid-data=more.txt")
    Path("more.txt").rename("moved.txt")
    result = mlx_gpt("train", "--resume=1", "--num-iter=6")
    assert is_a_sentence(result) and "name it with --data and --valid-data where it is now" in result.err
    assert mlx_gpt("train", "--resume=1", "--num-iter=6", "--valid-data=moved.txt").status == 0
    assert "another text" in mlx_gpt("train", "--resume=1", "--num-iter=8", "--valid-data=play.txt").err


def test_another_post_processor_makes_no_documents(mlx_gpt):
    mlx_gpt("train", *TINY, "--tied", "--activation=gelu")
    mlx_gpt("export", "1", "--out=out")
    described = json.loads(Path("out/tokenizer.json").read_text())
    described["post_processor"] = {
        "type": "ByteLevel",
        "add_prefix_space": True,
        "trim_offsets": False,
        "use_regex": True,
    }
    Path("out/tokenizer.json").write_text(json.dumps(described))
    assert load_pretrained("out")[1] == open_run("runs/1").tokenizer
