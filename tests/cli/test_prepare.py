"""A user's own text: sources of every kind, and folders of tokens from end to end."""

import pickle
import re
import signal
from pathlib import Path

import mlx_nanogpt as gpt
import numpy as np
import pytest
from mlx_nanogpt import open_run, open_token_folder
from conftest import FIRST_HALF, TEXT, WAIT, byte_pairs, checkpoint_arrays, in_a_process, keep_as_gpt2s, same
from helpers import NO_CORPUS, command_after, is_a_sentence, pipe, read_settings

TRAIN = ["train", *NO_CORPUS]


def same_runs(*numbers: int) -> bool:
    return same(*(checkpoint_arrays(open_run(Path(f"runs/{number}"))) for number in numbers))


# ---- prepare


@pytest.mark.parametrize("out", ["tokens", "a folder/of [tokens]"])
def test_prepare_prints_the_next_command_and_it_works_verbatim(mlx_gpt, out):
    result = mlx_gpt("prepare", "--data=play.txt", f"--out={out}")
    assert (result.status, result.err) == (0, "") and not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", result.out)
    train, valid = int(0.8 * len(TEXT)), len(TEXT) - int(0.8 * len(TEXT))
    assert result.out.startswith(f"{out}: {train:,} tokens to train on and {valid:,} to validate, vocabulary 2")
    result = mlx_gpt(*command_after("Next:", result.out), *NO_CORPUS)
    assert result.status == 0 and f"{out}: {len(TEXT):,} characters, " in result.out
    mlx_gpt(*TRAIN, "--data=play.txt")
    assert same_runs(1, 2)


def test_every_option_of_prepare_has_an_effect(mlx_gpt, halves, monkeypatch):
    pipe(monkeypatch, "the end\n")
    options = ["--data=halves", "--data=-", "--train-fraction=0.3", "--tokenizer=char", "--out=tokens"]
    assert mlx_gpt("prepare", *options, "--documents=none").status == 0
    data = open_token_folder("tokens")
    text = gpt.load_corpus("halves", documents="none").text.rstrip("\n") + "\nthe end\n"
    assert len(data.train_tokens) == int(0.3 * len(text))
    assert "".join(map(data.tokenizer.decode, (data.train_tokens, data.valid_tokens))) == text
    assert mlx_gpt(*TRAIN, "--data=tokens").status == 0 and read_settings()["train_fraction"] == 0.3


def test_the_files_of_a_folder_that_were_taken_and_left_are_counted(mlx_gpt, halves):
    for name, content in {"c.md": b"to be", "d.png": b"\0", "e.png": b"\0"}.items():
        (Path("halves") / name).write_bytes(content)
    counts = "3 in halves: 2 .txt, 1 .md; not text: 2 .png"
    assert f"  Files     {counts}\n" in mlx_gpt(*TRAIN, "--data=halves").out
    assert f"\nFiles: {counts}\n" in mlx_gpt("prepare", "--data=halves", "--out=tokens").out
    assert "Files" not in mlx_gpt(*TRAIN, "--data=tokens").out


def test_a_bad_file_in_a_folder_is_a_sentence_that_names_it(mlx_gpt, halves):
    Path("halves/2/bad.txt").write_bytes(b"\n\n\xff")
    for command in (TRAIN, ["prepare", "--out=tokens"], ["bench", "--quick"]):
        result = mlx_gpt(*command, "--data=halves")
        assert is_a_sentence(result) and "halves/2/bad.txt is not UTF-8: byte 0xff at 2 (line 3)" in result.err
    assert not Path("runs").exists() and not Path("tokens").exists()


def test_ctrl_c_while_preparing_is_130_and_leaves_nothing_behind():
    Path("long.txt").write_text("to be or not to be\n" * 10_000)
    Path("long").mkdir()
    with in_a_process("-m", "mlx_nanogpt_cli", "prepare", *["--data=long.txt"] * 2000, "--out=long/tokens") as process:
        while not Path("long/tokens").exists():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=WAIT)
    assert process.returncode == 130 and "Traceback" not in err
    assert not list(Path("long").iterdir())


# ---- train on texts in parts and on tokens


@pytest.mark.parametrize("data", [["halves"], ["halves/1.txt", "halves/2/rest.txt"], ["halves/1.txt", "-"]], ids=str)
def test_a_text_in_parts_is_trained_on_like_the_whole(mlx_gpt, halves, monkeypatch, data):
    pipe(monkeypatch, TEXT[FIRST_HALF:])
    result = mlx_gpt(*TRAIN, *(f"--data={source}" for source in data), "--documents=none")
    name = " + ".join(data).replace("-", "standard input")
    assert result.status == 0 and f"{name}: {len(TEXT):,} characters, " in result.out
    assert read_settings()["sources"] == data
    mlx_gpt(*TRAIN, "--data=play.txt")
    assert same_runs(1, 2)


@pytest.mark.parametrize("of_run, other", [("play.txt", "tokens"), ("tokens", "play.txt")])
def test_a_text_and_its_tokens_are_the_same_to_a_run(mlx_gpt, of_run, other):
    mlx_gpt("prepare", "--data=play.txt", "--train-fraction=0.7", "--out=tokens")
    fraction = ["--train-fraction=0.7"] if of_run == "play.txt" else []
    mlx_gpt(*TRAIN, f"--data={of_run}", *fraction)
    mlx_gpt(*TRAIN, "--num-iter=6", f"--data={of_run}", *fraction)
    assert read_settings()["sources"] == [of_run] and mlx_gpt("generate", "--tokens=9", "--prompt=to be").status == 0
    own = mlx_gpt("eval", "runs/1", "--split=both").out
    result = mlx_gpt("eval", "runs/1", "--split=both", f"--data={other}")
    assert result.status == 0 and result.out == re.sub(rf"{of_run}, (t|v)", rf"{other}, \1", own)
    Path(of_run).rename("moved")
    assert is_a_sentence(mlx_gpt("train", "--resume=runs/1", "--num-iter=6"))
    assert mlx_gpt("train", "--resume=runs/1", "--num-iter=6", f"--data={other}").status == 0
    assert same_runs(1, 2)


@pytest.mark.parametrize("text", [TEXT[::-1], TEXT.replace("w", "x")])
def test_other_tokens_are_another_text(mlx_gpt, text):
    """Another order, or the same ids of other characters."""
    mlx_gpt("prepare", "--data=play.txt", "--out=tokens")
    mlx_gpt(*TRAIN, "--data=tokens")
    Path("other.txt").write_text(text)
    mlx_gpt("prepare", "--data=other.txt", "--out=other")
    if "x" in text:
        assert Path("other/train.bin").read_bytes() == Path("tokens/train.bin").read_bytes()
    result = mlx_gpt("train", "--resume=runs/1", "--num-iter=6", "--data=other")
    assert is_a_sentence(result) and "learned from another text than other holds now" in result.err


@pytest.mark.parametrize("command", [["eval"], ["train", "--resume=runs/1", "--num-iter=6"]])
def test_the_own_text_in_other_splits_or_tokens_is_refused(mlx_gpt, command):
    """Or text that was trained on would count as validation."""
    keep_as_gpt2s(byte_pairs())
    mlx_gpt(*TRAIN, "--data=play.txt")
    mlx_gpt("prepare", "--data=play.txt", "--out=half", "--train-fraction=0.5")
    mlx_gpt("prepare", "--data=play.txt", "--out=pairs", "--tokenizer=gpt2")
    result = mlx_gpt(*command, "--data=half")
    assert is_a_sentence(result) and "half holds the text" in result.err and result.out == ""
    assert "0.5 of it for training, where the run had 0.8; give the text itself with --data" in result.err
    result = mlx_gpt(*command, "--data=pairs")
    assert is_a_sentence(result) and "in the tokens of another tokenizer; give the text itself" in result.err


def test_a_folder_of_nanogpts_is_trained_on(mlx_gpt):
    Path("char").mkdir()
    chars = sorted(set(TEXT))
    stoi = {ch: i for i, ch in enumerate(chars)}
    ids = np.array([stoi[ch] for ch in TEXT], np.uint16)
    ids[:1500].tofile("char/train.bin")
    ids[1500:].tofile("char/val.bin")
    meta = {"vocab_size": len(chars), "itos": dict(enumerate(chars)), "stoi": stoi}
    Path("char/meta.pkl").write_bytes(pickle.dumps(meta))
    Path("char/input.txt").write_text(TEXT)  # beside them, as there
    result = mlx_gpt(*TRAIN, "--data=char")
    assert result.status == 0 and f"char: {len(TEXT):,} characters, {len(chars)} different" in result.out
    assert read_settings()["train_fraction"] == 1500 / len(TEXT)


@pytest.mark.parametrize("options, size", [(["--tokenizer=gpt2"], 301), (["--tokenizer=bpe", "--vocab-size=280"], 280)])
def test_byte_pairs_are_prepared_and_trained_on_like_the_text(mlx_gpt, options, size):
    keep_as_gpt2s(byte_pairs())
    assert mlx_gpt("prepare", "--data=play.txt", "--out=tokens", *options).status == 0
    for arguments in (["--data=tokens"], ["--data=play.txt", *options]):
        result = mlx_gpt(*TRAIN, *arguments)
        assert result.status == 0 and f"vocabulary {size}" in result.out
    Path("mine.toml").write_text(mlx_gpt("config").out)
    assert mlx_gpt("train", "--config=mine.toml").status == 0
    assert same_runs(1, 2) and same_runs(2, 3)


def test_a_text_with_fewer_byte_pairs_is_trained_on(mlx_gpt):
    result = mlx_gpt(*TRAIN, "--data=play.txt", "--tokenizer=bpe", "--vocab-size=5000")
    assert result.status == 0 and f", vocabulary {read_settings()['vocab_size']}" in result.out


def test_without_a_number_1024_byte_pairs_are_learned(mlx_gpt):
    Path("long.txt").write_text("".join(map(chr, range(0x4E00, 0x5E00))))
    assert "vocabulary 1,024" in mlx_gpt("prepare", "--data=long.txt", "--out=tokens", "--tokenizer=bpe").out


# ---- mistakes


@pytest.fixture
def tokens(mlx_gpt):
    mlx_gpt("prepare", "--data=play.txt", "--out=tokens")


@pytest.mark.parametrize(
    "command, reason",
    [
        ("train --data=tokens --train-fraction=0.8", "tokens holds tokens, split already; leave out --train-fraction"),
        ("train --data=tokens --data=play.txt", "tokens holds tokens"),
        ("train --data=tokens --data=tokens", "tokens holds tokens"),
        ("train --data=- --data=-", "standard input can be read only once"),
        ("bench --data=tokens", "tokens holds tokens"),
        ("prepare --data=tokens --out=more", "tokens holds tokens"),
        ("prepare --data=play.txt --out=tokens", "tokens already holds a train.bin; choose another --out"),
        ("prepare --data=play.txt --out=play.txt/x", "play.txt/x cannot be written"),
        ("prepare --data=play.txt --out=more --train-fraction=1", "train_fraction 1.0 is out of range"),
        ("prepare --data=nowhere.txt --out=more", "nowhere.txt cannot be read"),
        ("train --data=tokens --vocab-size=300", "and 300 was chosen; leave out --vocab-size"),
        ("train --data=tokens --tokenizer=gpt2", "and gpt2 was chosen; leave out --tokenizer"),
        ("train --data=play.txt --vocab-size=300", "give --tokenizer bpe, too"),
        ("prepare --data=play.txt --out=more --vocab-size=300", "give --tokenizer bpe, too"),
        ("plan --data=play.txt --n-layer=1 --vocab-size=300", "give --tokenizer bpe, too"),
        ("plan --tokenizer=gpt2 --n-layer=1 --vocab-size=300", "give --tokenizer bpe, too"),
        ("plan --data=tokens --n-layer=1 --vocab-size=300", "and 300 was chosen; leave out --vocab-size"),
        ("prepare --data=play.txt --out=more --tokenizer=bpe --vocab-size=70000", "give at most 65536"),
        ("plan --tokenizer=bpe --n-layer=1 --vocab-size=256", "vocab_size 256 is out of range"),
        ("prepare --out=more", "tiny Shakespeare could not be downloaded"),  # and nothing else in its place
    ],
)
def test_a_wish_that_cannot_be_is_a_sentence_and_leaves_nothing_behind(mlx_gpt, tokens, command, reason):
    result = mlx_gpt(*command.split(), *(NO_CORPUS if command.startswith("train") else []))
    assert is_a_sentence(result) and reason in result.err and result.out == ""
    assert not Path("runs").exists() and not Path("more").exists()


def test_damaged_tokens_are_a_sentence(mlx_gpt, tokens):
    with Path("tokens/val.bin").open("r+b") as file:
        file.write(b"\1\1")
    result = mlx_gpt(*TRAIN, "--data=tokens")
    assert is_a_sentence(result) and "tokens/val.bin is damaged" in result.err and not Path("runs").exists()


@pytest.mark.parametrize("arguments", ["prepare --data=play.txt", "prepare --out=tokens --tokenizer=runes"])
def test_a_command_that_makes_no_sense_is_a_usage_error(mlx_gpt, arguments):
    result = mlx_gpt(*arguments.split())
    assert result.status == 2 and result.err.startswith("Usage: ") and not Path("tokens").exists()


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--data=tokens", "--init-from=runs/1"], "the tokens of another tokenizer than that of runs/1"),
        (["--data=play.txt", "--init-from=runs/1", "--tokenizer=char"], "exclude each other"),
        (["--data=play.txt", "--init-from=runs/1", "--n-layer=7"], "has n_layer 1, which cannot become 7"),
    ],
)
def test_tokens_and_models_that_do_not_belong_together_are_refused(mlx_gpt, options, reason):
    Path("other.txt").write_text("abc" * 50)
    mlx_gpt("prepare", "--data=other.txt", "--out=tokens")
    mlx_gpt(*TRAIN, "--data=play.txt")
    result = mlx_gpt("train", "--block-size=8", *options)
    assert is_a_sentence(result) and reason in result.err and not Path("runs/2").exists()
