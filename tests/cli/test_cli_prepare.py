"""The promises of the command line on a user's own text: sources of every kind, and folders of tokens from end to end."""

import io
import pickle
import re
import signal
import sys
from pathlib import Path

import mlx_nanogpt as gpt
import numpy as np
import pytest
from mlx_nanogpt import TrainConfig, open_run, open_token_folder
from conftest import TEXT, TINY, byte_pairs, checkpoint_arrays, in_a_process, keep_as_gpt2s, same
from mlx_nanogpt.text.baselines import bigram
from mlx_nanogpt.text.corpus import CorpusIdentity
from mlx_nanogpt_cli.describe import describe_data
from test_cli import command_after, is_a_sentence, recorded, rows

TINY = TINY[:-1]  # without --data


def pipe(monkeypatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


@pytest.fixture
def halves():
    """TEXT in a folder of two files."""
    Path("halves/2").mkdir(parents=True)
    Path("halves/1.txt").write_text(TEXT[:700])
    Path("halves/2/rest.txt").write_text(TEXT[700:])


# ---- train on texts


@pytest.mark.parametrize("data", [["halves"], ["halves/1.txt", "halves/2/rest.txt"], ["halves/1.txt", "-"]], ids=str)
def test_a_text_in_parts_is_trained_on_like_the_whole(mlx_gpt, halves, monkeypatch, data):
    pipe(monkeypatch, TEXT[700:])
    result = mlx_gpt("train", *TINY, *(f"--data={each}" for each in data))
    name = " + ".join(data).replace("-", "standard input")
    assert result.status == 0 and f"{name}: {len(TEXT):,} characters, " in result.out
    assert recorded()["sources"] == data
    mlx_gpt("train", *TINY, "--data=play.txt")
    assert same(*(checkpoint_arrays(open_run(Path("runs") / number)) for number in "12"))


def test_a_run_on_several_texts_is_resumed_without_naming_them(mlx_gpt, halves):
    mlx_gpt("train", *TINY, "--data=halves/1.txt", "--data=halves/2")
    assert mlx_gpt("train", "--resume=runs/1", "--num-iter=6").status == 0
    result = mlx_gpt("train", "--resume=runs/1", "--num-iter=8", "--data=halves/2", "--data=halves/1.txt")
    assert is_a_sentence(result) and "learned from another text than halves/2 + halves/1.txt" in result.err


def test_a_file_more_in_a_folder_is_another_text(mlx_gpt, halves):
    mlx_gpt("train", *TINY, "--data=halves")
    Path("halves/3.txt").write_text("more")
    result = mlx_gpt("train", "--resume=runs/1", "--num-iter=6")
    assert is_a_sentence(result) and "learned from another text than halves holds now" in result.err


def test_what_was_taken_of_a_folder_and_what_was_left_is_said(mlx_gpt, halves):
    for name, content in {"c.md": b"to be", "d.png": b"\0", "e.png": b"\0"}.items():
        (Path("halves") / name).write_bytes(content)
    said = "3 in halves: 2 .txt, 1 .md; left 2 that are no text: 2 .png"
    assert f"  Files     {said}\n" in mlx_gpt("train", *TINY, "--data=halves").out
    assert f"\nFiles: {said}\n" in mlx_gpt("prepare", "--data=halves", "--out=tokens").out
    assert "Files" not in mlx_gpt("train", *TINY, "--data=tokens").out


def test_a_run_kept_in_the_folder_of_its_text_is_resumed(mlx_gpt, halves):
    for _ in range(2):
        assert mlx_gpt("train", *TINY, "--data=.").status == 0
    first, second = (open_run(Path("runs") / number) for number in "12")
    assert first.corpus == second.corpus
    assert mlx_gpt("train", "--resume=runs/1", "--num-iter=6").status == 0


def test_a_run_on_standard_input_needs_the_same_text_again(mlx_gpt, monkeypatch):
    pipe(monkeypatch, TEXT)
    assert mlx_gpt("train", *TINY, "--data=-").status == 0
    pipe(monkeypatch, "")
    result = mlx_gpt("train", "--resume=runs/1", "--num-iter=6")
    assert is_a_sentence(result) and "standard input is empty; pipe the same text in" in result.err
    pipe(monkeypatch, TEXT[::-1])
    result = mlx_gpt("train", "--resume=runs/1", "--num-iter=6")
    assert is_a_sentence(result) and "standard input holds now; pipe the same text into it" in result.err
    pipe(monkeypatch, TEXT)
    assert mlx_gpt("train", "--resume=runs/1", "--num-iter=6").status == 0


def test_a_bad_file_in_a_folder_is_a_sentence_that_names_it(mlx_gpt, halves):
    Path("halves/2/bad.txt").write_bytes(b"\n\n\xff")
    for command in (["train", *TINY], ["prepare", "--out=tokens"], ["bench", "--quick"]):
        result = mlx_gpt(*command, "--data=halves")
        assert is_a_sentence(result) and "halves/2/bad.txt is not UTF-8: byte 0xff at 2 (line 3)" in result.err
    assert not Path("runs").exists() and not Path("tokens").exists()


# ---- prepare, and train on tokens


@pytest.mark.parametrize("out", ["tokens", "a folder/of [tokens]"])
def test_prepare_tells_the_next_command_and_it_works_verbatim(mlx_gpt, out):
    result = mlx_gpt("prepare", "--data=play.txt", f"--out={out}")
    assert (result.status, result.err) == (0, "") and not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", result.out)
    train, valid = int(0.8 * len(TEXT)), len(TEXT) - int(0.8 * len(TEXT))
    assert result.out.startswith(f"{out}: {train:,} tokens to train on and {valid:,} to validate, vocabulary 2")
    result = mlx_gpt(*command_after("Next:", result.out), *TINY)
    assert result.status == 0 and f"{out}: {len(TEXT):,} characters, " in result.out
    mlx_gpt("train", *TINY, "--data=play.txt")
    assert same(*(checkpoint_arrays(open_run(Path("runs") / number)) for number in "12"))


def test_every_option_of_prepare_has_an_effect(mlx_gpt, halves, monkeypatch):
    pipe(monkeypatch, "the end\n")
    options = ["--data=halves", "--data=-", "--train-fraction=0.3", "--tokenizer=char", "--out=tokens"]
    assert mlx_gpt("prepare", *options).status == 0
    data = open_token_folder(Path("tokens"))
    text = gpt.load_corpus("halves").text + "the end\n"
    assert len(data.train_tokens) == int(0.3 * len(text))
    assert "".join(map(data.tokenizer.decode, (data.train_tokens, data.valid_tokens))) == text
    assert mlx_gpt("train", *TINY, "--data=tokens").status == 0 and recorded()["train_fraction"] == 0.3


def test_a_run_on_tokens_is_resumed_and_sampled_from(mlx_gpt):
    mlx_gpt("prepare", "--data=play.txt", "--out=tokens")
    mlx_gpt("train", *TINY, "--data=tokens")
    assert recorded()["sources"] == ["tokens"]
    assert mlx_gpt("generate", "--tokens=9", "--prompt=to be").status == 0
    Path("tokens").rename("moved")
    assert is_a_sentence(mlx_gpt("train", "--resume=runs/1", "--num-iter=6"))
    assert mlx_gpt("train", "--resume=runs/1", "--num-iter=6", "--data=moved").status == 0
    mlx_gpt("train", *TINY, "--num-iter=6", "--data=play.txt")
    assert same(*(checkpoint_arrays(open_run(Path("runs") / number)) for number in "12"))


@pytest.mark.parametrize("text", [TEXT[::-1], TEXT.replace("w", "x")])
def test_other_tokens_are_another_text(mlx_gpt, text):
    """Another order, or the same ids of other characters."""
    mlx_gpt("prepare", "--data=play.txt", "--out=tokens")
    mlx_gpt("train", *TINY, "--data=tokens")
    Path("other.txt").write_text(text)
    mlx_gpt("prepare", "--data=other.txt", "--out=other")
    if "x" in text:
        assert Path("other/train.bin").read_bytes() == Path("tokens/train.bin").read_bytes()
    result = mlx_gpt("train", "--resume=runs/1", "--num-iter=6", "--data=other")
    assert is_a_sentence(result) and "learned from another text than other holds now" in result.err


@pytest.mark.parametrize("of_run, other", [("play.txt", "tokens"), ("tokens", "play.txt")])
def test_a_text_and_its_tokens_are_the_same_to_a_run(mlx_gpt, of_run, other):
    mlx_gpt("prepare", "--data=play.txt", "--train-fraction=0.7", "--out=tokens")
    fraction = ["--train-fraction=0.7"] if of_run == "play.txt" else []
    mlx_gpt("train", *TINY, f"--data={of_run}", *fraction)
    mlx_gpt("train", *TINY, "--num-iter=6", f"--data={of_run}", *fraction)
    own = mlx_gpt("eval", "--run=runs/1", "--split=both").out
    result = mlx_gpt("eval", "--run=runs/1", "--split=both", f"--data={other}")
    assert result.status == 0 and result.out == own.replace(f"{of_run}, t", f"{other}, t").replace(
        f"{of_run}, v", f"{other}, v"
    )
    assert mlx_gpt("train", "--resume=runs/1", "--num-iter=6", f"--data={other}").status == 0
    assert same(*(checkpoint_arrays(open_run(Path("runs") / number)) for number in "12"))


@pytest.mark.parametrize("command", [["eval"], ["train", "--resume=runs/1", "--num-iter=6"]])
def test_the_own_text_in_other_splits_or_tokens_is_refused(mlx_gpt, command):
    """Or text that was trained on would count as validation."""
    keep_as_gpt2s(byte_pairs())
    mlx_gpt("train", *TINY, "--data=play.txt")
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
    result = mlx_gpt("train", *TINY, "--data=char")
    assert result.status == 0 and f"char: {len(TEXT):,} characters, {len(chars)} different" in result.out
    assert open_run(Path("runs/1")).train_config.train_fraction == 1500 / len(TEXT)


def test_tokens_of_unknown_characters_are_described_as_tokens():
    identity = CorpusIdentity(("owt",), "", None)
    tokens = np.zeros(1000, np.uint16)
    data = gpt.Dataset(identity, gpt.CharTokenizer("abc"), tokens, tokens[:500], 0.9)
    assert describe_data(data) == "owt: 1,500 tokens, vocabulary 3"


# ---- mistakes


@pytest.fixture
def tokens(mlx_gpt):
    mlx_gpt("prepare", "--data=play.txt", "--out=tokens")


@pytest.mark.parametrize(
    "command, reason",
    [
        (
            ["train", *TINY, "--data=tokens", "--train-fraction=0.8"],
            "tokens holds tokens, split already; leave out --train-fraction",
        ),
        (["train", *TINY, "--data=tokens", "--data=play.txt"], "tokens holds tokens"),
        (["train", *TINY, "--data=tokens", "--data=tokens"], "tokens holds tokens"),
        (["train", *TINY, "--data=-", "--data=-"], "standard input can be read only once"),
        (["bench", "--data=tokens"], "tokens holds tokens"),
        (["prepare", "--data=tokens", "--out=more"], "tokens holds tokens"),
        (["prepare", "--data=play.txt", "--out=tokens"], "tokens already holds a train.bin; choose another --out"),
        (["prepare", "--data=play.txt", "--out=play.txt/x"], "play.txt/x cannot be written"),
        (["prepare", "--data=play.txt", "--out=more", "--train-fraction=1"], "train_fraction 1.0 is out of range"),
        (["prepare", "--data=nowhere.txt", "--out=more"], "nowhere.txt cannot be read"),
        (["prepare", "--out=more"], "tiny Shakespeare could not be downloaded"),  # and nothing else in its place
    ],
)
def test_a_wish_that_cannot_be_is_a_sentence_and_leaves_nothing_behind(mlx_gpt, tokens, command, reason):
    result = mlx_gpt(*command)
    assert is_a_sentence(result) and reason in result.err and result.out == ""
    assert not Path("runs").exists() and not Path("more").exists()


def test_ctrl_c_while_preparing_is_130_and_leaves_nothing_behind():
    Path("long.txt").write_text("to be or not to be\n" * 10_000)
    Path("long").mkdir()
    with in_a_process("-m", "mlx_nanogpt_cli", "prepare", *["--data=long.txt"] * 2000, "--out=long/tokens") as process:
        while not Path("long/tokens").exists():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    assert not list(Path("long").iterdir())


def test_damaged_tokens_are_a_sentence(mlx_gpt, tokens):
    with Path("tokens/val.bin").open("r+b") as file:
        file.write(b"\1\1")
    result = mlx_gpt("train", *TINY, "--data=tokens")
    assert is_a_sentence(result) and "tokens is damaged" in result.err and not Path("runs").exists()


@pytest.mark.parametrize(
    "arguments",
    [["prepare", "--data=play.txt"], ["prepare", "--out=tokens", "--tokenizer=runes"]],
    ids=" ".join,
)
def test_a_command_that_makes_no_sense_is_a_usage_error(mlx_gpt, arguments):
    result = mlx_gpt(*arguments)
    assert result.status == 2 and result.err.startswith("Usage: ") and not Path("tokens").exists()


def test_the_share_that_trains_is_the_same_for_a_text_and_its_tokens(mlx_gpt, tokens):
    assert open_token_folder(Path("tokens")).train_fraction == TrainConfig.train_fraction


# ---- with other tokens, settings and starting points


def test_prepared_byte_pairs_are_trained_on_like_the_text(mlx_gpt):
    keep_as_gpt2s(byte_pairs())
    assert mlx_gpt("prepare", "--data=play.txt", "--out=tokens", "--tokenizer=gpt2").status == 0
    assert mlx_gpt("train", *TINY, "--data=tokens").status == 0
    mlx_gpt("train", *TINY, "--data=play.txt", "--tokenizer=gpt2")
    assert open_run(Path("runs/1")).tokenizer == byte_pairs()
    assert same(*(checkpoint_arrays(open_run(Path("runs") / number)) for number in "12"))


def test_a_settings_file_may_choose_the_tokenizer_and_several_texts(mlx_gpt, halves):
    keep_as_gpt2s(byte_pairs())
    Path("mine.toml").write_text('tokenizer = "gpt2"\ndata = ["halves/1.txt", "halves/2"]\n')
    assert mlx_gpt("train", *TINY, "--config=mine.toml").status == 0
    run = open_run(Path("runs/1"))
    assert run.tokenizer == byte_pairs() and run.corpus.sources == ("halves/1.txt", "halves/2")
    Path("again.toml").write_text(mlx_gpt("config").out)
    mlx_gpt("train", "--config=again.toml")
    assert same(*(checkpoint_arrays(open_run(Path("runs") / number)) for number in "12"))


def test_a_run_that_started_from_another_can_be_repeated_from_its_settings(mlx_gpt):
    mlx_gpt("train", *TINY, "--data=play.txt")
    mlx_gpt("train", "--init-from=runs/1", "--data=play.txt", "--num-iter=2", "--eval-iters=1", "--dropout=0.1")
    Path("again.toml").write_text(mlx_gpt("config", "--run=runs/2").out)
    assert mlx_gpt("train", "--config=again.toml").status == 0
    assert same(*(checkpoint_arrays(open_run(Path("runs") / number)) for number in "23"))


def test_the_settings_of_a_run_may_train_its_model_further(mlx_gpt):
    mlx_gpt("train", *TINY, "--data=play.txt")
    Path("mine.toml").write_text(mlx_gpt("config").out)
    assert mlx_gpt("train", "--config=mine.toml", "--init-from=runs/1").status == 0
    assert open_run(Path("runs/2")).init_from == "runs/1"


def test_an_option_may_complete_what_a_settings_file_leaves_open(mlx_gpt):
    Path("mine.toml").write_text("n_embd = 20\n")
    assert is_a_sentence(mlx_gpt("train", "--data=play.txt", "--config=mine.toml"))
    small = ["--n-layer=1", "--block-size=8", "--num-iter=2", "--eval-iters=1"]
    assert mlx_gpt("train", "--data=play.txt", "--config=mine.toml", "--head-size=10", *small).status == 0


def test_a_preset_beside_a_model_to_start_from_says_how_to_train_it(mlx_gpt):
    mlx_gpt("train", *TINY, "--data=play.txt")
    options = ["--preset=laptop", "--num-iter=2", "--eval-iters=1", "--data=play.txt", "--backend=eager"]
    assert mlx_gpt("train", "--init-from=runs/1", *options).status == 0
    first, second = (open_run(Path("runs") / number) for number in "12")
    assert second.gpt_config == first.gpt_config and second.train_config.weight_decay == 0.1


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--data=tokens", "--tokenizer=gpt2"], "choose --tokenizer char"),
        (["--data=tokens", "--init-from=runs/1"], "the tokens of another tokenizer than that of runs/1"),
        (["--data=play.txt", "--init-from=runs/1", "--tokenizer=char"], "exclude each other"),
        (["--data=play.txt", "--init-from=runs/1", "--n-layer=7"], "has n_layer 1, which cannot become 7"),
    ],
)
def test_tokens_and_models_that_do_not_belong_together_are_refused(mlx_gpt, options, reason):
    Path("other.txt").write_text("abc" * 50)
    mlx_gpt("prepare", "--data=other.txt", "--out=tokens")
    mlx_gpt("train", *TINY, "--data=play.txt")
    result = mlx_gpt("train", "--block-size=8", *options)
    assert is_a_sentence(result) and reason in result.err and not Path("runs/2").exists()


def test_a_run_on_a_folder_of_tokens_is_evaluated_on_it(mlx_gpt):
    mlx_gpt("prepare", "--data=play.txt", "--out=tokens")
    mlx_gpt("train", *TINY, "--data=tokens")
    mlx_gpt("train", *TINY, "--data=play.txt")
    tables = [mlx_gpt("eval", f"--run=runs/{number}").out.partition("Method")[2] for number in "12"]
    assert tables[0] == tables[1] != ""


def test_a_folder_of_another_text_is_evaluated_by_its_own_splits(mlx_gpt):
    mlx_gpt("train", *TINY, "--data=play.txt")
    Path("reversed.txt").write_text(TEXT[::-1])
    mlx_gpt("prepare", "--data=reversed.txt", "--out=others", "--train-fraction=0.5")
    result = mlx_gpt("eval", "--data=others", "--split=both")
    halves = [f"others, {name} split: {len(TEXT) // 2 - 1:,} tokens" for name in ("training", "validation")]
    assert result.status == 0 and all(half in result.out for half in halves)
    others = open_token_folder(Path("others"))
    learned_there = bigram(others.train_tokens, others.valid_tokens, others.tokenizer.vocab_size)
    assert rows(result.out)["bigram"][0] == f"{learned_there.mean:.4f}"
    Path("other.txt").write_text("abc" * 50)
    mlx_gpt("prepare", "--data=other.txt", "--out=strange")
    result = mlx_gpt("eval", "--data=strange")
    assert is_a_sentence(result) and "another tokenizer" in result.err


def test_an_exported_model_is_evaluated_like_its_run(mlx_gpt):
    mlx_gpt("train", *TINY, "--data=play.txt", "--tied", "--activation=gelu")
    mlx_gpt("export", "--out=exported")
    mlx_gpt("prepare", "--data=play.txt", "--out=tokens")
    ours, exported = mlx_gpt("eval"), mlx_gpt("eval", "--init-from=exported", "--data=tokens")
    assert exported.status == 0 and exported.out.partition("Method")[2] == ours.out.partition("Method")[2] != ""
    text = mlx_gpt("eval", "--init-from=exported", "--data=play.txt").out
    assert "play.txt: " in text and "No bigram, unigram and xz here" in text and "this model" in text


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--init-from=exported"], "give one with --data"),
        (["--init-from=exported", "--run=runs/1", "--data=play.txt"], "exclude each other"),
        (["--init-from=exported", "--best", "--data=play.txt"], "exclude each other"),
        (["--init-from=nowhere", "--data=play.txt"], "nowhere"),
    ],
)
def test_an_evaluation_without_a_model_or_a_text_is_refused(mlx_gpt, options, reason):
    result = mlx_gpt("eval", *options)
    assert is_a_sentence(result) and reason in result.err


@pytest.mark.parametrize(
    "command, reason",
    [
        (["prepare", "--data=halves", "--out=halves"], "holds the text itself, which its tokens would hide"),
        (["train", "--init-from=resume", "--data=halves"], "is --resume RUN here"),
        (["train", "--init-from=halves/2/no", "--data=halves"], "halves/2/no is not a folder"),
        (["train", "--init-from=halves/no", "--data=halves"], "halves/no is not a folder"),
        (["train", "--data=nanogpts"], "nanogpts has no meta.json and no meta.pkl, so its tokens are GPT-2's, and "),
    ],
)
def test_what_a_nanogpt_user_may_mean_is_answered(mlx_gpt, halves, command, reason):
    Path("nanogpts").mkdir()
    for name in ("train.bin", "val.bin"):
        Path("nanogpts", name).write_bytes(bytes(100))
    result = mlx_gpt(*command)
    assert is_a_sentence(result) and reason in result.err and not Path("runs").exists()


def test_a_text_that_moved_is_asked_for(mlx_gpt):
    mlx_gpt("train", *TINY, "--data=play.txt")
    Path("play.txt").rename("moved.txt")
    result = mlx_gpt("train", "--resume=runs/1", "--num-iter=6")
    assert is_a_sentence(result) and "name it with --data where it is now" in result.err
    assert mlx_gpt("train", "--resume=runs/1", "--num-iter=6", "--data=moved.txt").status == 0
