"""The promises of `mlx-gpt train`: NanoLux's options verbatim, plain output, and a sentence for every mistake."""

import math
import re
import shutil
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import mlx_nanogpt as gpt
import mlx.core as mx
import numpy as np
import pytest
from mlx_nanogpt import GPTConfig, TrainConfig, open_run
from conftest import DATA, OTHER_SETTINGS, TEXT, TINY, TOKENIZER, tiny_gpt, tiny_run, trained_run
from helpers import HOST, NO_CORPUS, command_after, is_a_sentence, recorded
from mlx_nanogpt.measure import benchmark
from mlx_nanogpt.text.identity import CorpusIdentity
from mlx_nanogpt_cli.screen.consoles import console
from mlx_nanogpt_cli.screen.describe import describe_data, describe_run
from mlx_nanogpt_cli.screen.training_display import short_sample

# ---- options and texts


def test_nanoluxs_command_line_works_verbatim(mlx_gpt):
    nanolux = "--n_embd=64 --batch_size=32 --block_size=64 --head_size=16 --num_iter=2".split()
    assert mlx_gpt("train", *nanolux, "--eval_iters=1", "--data=play.txt").status == 0
    expected = asdict(GPTConfig(TOKENIZER.vocab_size)) | asdict(TrainConfig(num_iter=2, eval_iters=1))
    assert recorded() == expected | {"sources": ["play.txt"]}


def test_dashes_and_underscores_are_alike(mlx_gpt):
    mlx_gpt("train", *TINY)
    mlx_gpt("train", *(option.replace("-", "_").replace("__", "--", 1) for option in TINY))
    assert recorded("runs/1") == recorded("runs/2")


def test_a_training_that_comes_to_its_target_says_what_it_took(mlx_gpt):
    result = mlx_gpt("train", *TINY, "--target-loss=10")
    loss = open_run(Path("runs/1")).history()[-1].valid_loss
    expected = f"The validation loss is {loss:.4f}, no higher than 10, after 2 iterations, 64 tokens and "
    assert result.status == 0 and expected in result.out
    assert mlx_gpt("train", "--resume=runs/1", "--target-loss=0").status == 0
    assert open_run(Path("runs/1")).position().iteration == 4


def test_every_option_reaches_the_run(mlx_gpt):
    options = [f"--{name}" if value is True else f"--{name}={value}" for name, value in OTHER_SETTINGS.items()]
    assert mlx_gpt("train", "--data=play.txt", "--run-dir=mine", "--device=cpu", *options).status == 0
    assert recorded("mine") == OTHER_SETTINGS | {"sources": ["play.txt"], "vocab_size": TOKENIZER.vocab_size}
    assert [each.device for each in open_run(Path("mine")).history()] == ["cpu", "cpu"]


def test_offline_tiny_shakespeare_asked_for_by_name_is_a_sentence(mlx_gpt):
    result = mlx_gpt("train", *NO_CORPUS, "--data=tinyshakespeare")
    assert is_a_sentence(result) and HOST in result.err and "--data pastiche" in result.err
    assert not Path("runs").exists()


def test_offline_pastiche_is_trained_on_and_named_everywhere(mlx_gpt):
    result = mlx_gpt("train", *NO_CORPUS)
    assert result.status == 0
    assert result.out.count("So this uses pastiche, a play that is built in") == 1
    header, table = result.out.split("iteration  train loss")
    assert "Corpus    pastiche: 1,115,394 characters" in header and "tinyshakespeare" not in table
    assert "pastiche's validation split" in table and "nats per character" in table
    assert recorded()["sources"] == ["pastiche"]
    assert {each.corpus for each in open_run(Path("runs/1")).history()} == {"pastiche"}
    assert "pastiche" in mlx_gpt("generate", "--tokens=1").err


@pytest.mark.parametrize("run_dir", [None, "a folder/run", "run [new]", "[/]"])
def test_the_next_command_works_verbatim(mlx_gpt, run_dir):
    out = mlx_gpt("train", *TINY, *([f"--run-dir={run_dir}"] if run_dir else [])).out
    assert f"  Run       {run_dir or 'runs/1'}\n" in out
    result = mlx_gpt(*command_after("Next:", out))
    assert result.status == 0 and len(result.out) == 500 + 1


# ---- the header


def test_what_is_piped_shows_everything_and_has_no_control_codes(mlx_gpt):
    result = mlx_gpt("train", *TINY)
    assert (result.status, result.err) == (0, "")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", result.out)
    lines = result.out.splitlines()
    for name, value in {
        "Device": "CPU|GPU",
        "Versions": rf"mlx-nanogpt {version('mlx-nanogpt')}, mlx {version('mlx')}, Python 3",
        "Backend": "compiled",
        "Corpus": f"play.txt: {len(TEXT):,} characters, {TOKENIZER.vocab_size} different",
        "Model": r"\d,\d{3} parameters",
        "Training": "4 x 8 = 32 tokens",
        "Run": "runs/1",
    }.items():
        assert any(re.match(rf"  {name} .*({value})", line) for line in lines), name
    rows = [line.split() for line in lines if re.match(r" +\d+ +\d+\.\d{4} ", line)]
    assert [row[0] for row in rows] == ["2", "4"]
    assert re.search(r"s of training, .* s of evaluation. Final loss \d\.\d{4} on the training split", result.out)
    assert "NanoLux" not in result.out
    sample = result.out.split("A sample of 200 tokens\n")[1].rsplit("\n\nNext:", 1)[0]
    assert len(sample) >= 200 - 1 and set(sample) <= set(TEXT)


def test_a_corpus_is_named_as_it_is(mlx_gpt):
    Path("play.txt").rename("[draft] play.txt")
    assert "Corpus    [draft] play.txt: " in mlx_gpt("train", *NO_CORPUS, "--data=[draft] play.txt").out


def settings_row(out: str) -> list[str]:
    return re.findall(r"^  Settings  (.*)$", out, re.M)


def test_the_header_tells_every_setting_that_is_not_the_default(mlx_gpt):
    shown = "bias all, tied, activation gelu, train_fraction 0.7, weight_decay 0.1, beta1 0.8, beta2 0.9, grad_clip 1.0, eval_interval 2, eval_iters 1, patience 9, dtype bfloat16"
    options = [f"--{name.replace(' ', '=')}" for name in shown.split(", ")]
    out = mlx_gpt(
        "train", *TINY, *options, "--gradient-accumulation-steps=3", "--learning-rate=0.002", "--backend=eager"
    ).out
    assert settings_row(out) == [shown]
    assert "  Training  4 iterations of 3 x 4 x 8 = 96 tokens, rate 0.002, dropout 0, seed 1337\n" in out


@pytest.mark.parametrize(
    "settings, told",
    [
        ({}, ""),
        ({"warmup_iters": 3}, "it rises over 3 iterations"),
        ({"lr_decay_iters": 8}, "it falls along a cosine to 0 at iteration 8"),
        (
            {"lr_decay_iters": 9, "warmup_iters": 2, "min_lr": 1e-4, "schedule": "linear"},
            "it rises over 2 iterations; it falls along a line to 0.0001 at iteration 9; the training ends before, at 8",
        ),
        (
            {"optimizer": "muon", "lr_decay_iters": 6, "schedule": "wsd"},
            "Muon's is 0.02; it falls in the last fifth, along a line, to 0 at iteration 6; after that nothing is learned",
        ),
    ],
)
def test_the_header_tells_how_the_rate_changes(settings, told):
    assert describe_run(tiny_run(**settings), DATA).get("Rate", "") == told


def test_the_header_of_the_defaults_is_no_longer_than_it_was():
    lines = describe_run(tiny_run(**asdict(TrainConfig())), DATA)
    assert list(lines) == ["Device", "Versions", "Backend", "Corpus", "Model", "Training", "Export", "Run"]
    assert lines["Training"] == "5,000 iterations of 32 x 8 = 256 tokens, rate 0.001, dropout 0, seed 1337"


def test_tokens_of_unknown_characters_are_described_as_tokens():
    identity = CorpusIdentity(("owt",), "", None)
    tokens = np.zeros(1000, np.uint16)
    data = gpt.Dataset(identity, gpt.CharTokenizer("abc"), tokens, tokens[:500], 0.9)
    assert describe_data(data) == "owt: 1,500 tokens, vocabulary 3"


@pytest.mark.skipif(mx.default_device() != mx.cpu, reason="only MLX's CPU backend needs a compiler")
def test_a_compiled_backend_that_cannot_compile_says_so(mlx_gpt, monkeypatch):
    assert "needs g++" not in mlx_gpt("train", *TINY).out or shutil.which("g++") is None
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "needs g++" in mlx_gpt("train", *TINY).out
    assert "needs g++" not in mlx_gpt("train", *TINY, "--backend=eager").out


# ---- rows and samples


def test_a_short_sample_is_shown_under_every_row_but_the_last(mlx_gpt, monkeypatch):
    out = mlx_gpt("train", *TINY, "--num-iter=6").out
    lines = out[out.index("iteration  train") :].splitlines()[1:6]
    assert [line.split()[0] for line in lines[::2]] == ["2", "4", "6"]
    texts = [line.removeprefix(" " * 11) for line in lines[1::2]]
    assert all(40 < len(text) <= 69 and text[0] != " " for text in texts)
    tokens = gpt.generate(trained_run_of(2), [TOKENIZER.start_token], 60, TrainConfig.seed)
    assert " / ".join(TOKENIZER.decode(tokens).split("\n")).startswith(texts[0].rstrip("\u2026"))


def trained_run_of(iterations: int) -> gpt.GPT:
    """The model of TINY after so many iterations."""
    config = {"n_layer": 1, "eval_interval": 2, "eval_iters": 1, "num_iter": iterations, "seed": TrainConfig.seed}
    return trained_run("shorter", **config).load_model()


def test_a_short_sample_is_one_line_of_the_screens_width_and_steers_no_terminal(monkeypatch):
    monkeypatch.setattr(type(console), "width", 40)
    line = short_sample(["To be\n\tor \x1b[31mnot", " to be, \u65e5\u672c that is the question"])
    assert line.plain == " " * 11 + "To be / \\u0009or \\u001B[31mn\u2026"


def test_the_losses_on_the_screen_are_those_of_the_history(mlx_gpt):
    out = mlx_gpt("train", *TINY).out
    for each in open_run(Path("runs/1")).history():
        assert re.search(rf" {each.iteration} +{each.train_loss:.4f} +{each.valid_loss:.4f} ", out)


# ---- the end


def test_a_run_of_nanoluxs_model_ends_with_its_table_and_says_where_it_departs(mlx_gpt, monkeypatch):
    monkeypatch.setattr(benchmark, "NANOLUX_GPT", tiny_gpt(n_layer=1))
    monkeypatch.setattr(benchmark, "NANOLUX_TRAIN", TrainConfig(num_iter=4, batch_size=4, eval_interval=2))
    result = mlx_gpt("train", *TINY)
    for metric in (
        "Train 1st epoch", "Average epoch training time", "Time to estimate losses", "Total training time",
        "Final loss (train)", "Final loss (valid)",
    ):  # fmt: skip
        assert result.out.count(metric) == 1
    assert all(
        each in result.out for each in ("Reactant", "Zygote", "M4 Pro", "504.00 s", "873.00 s", "1.7820", "1.7811")
    )
    assert "eval_iters 1 (there 200)." in result.out
    assert "The losses here are on play.txt, the published ones on tiny Shakespeare." in result.out
    assert "NanoLux" not in mlx_gpt("train", *TINY, "--num-iter=1").out  # a shorter training is no benchmark


@pytest.mark.parametrize("run_dir", [None, "a folder/run"])
def test_the_end_of_a_training_tells_of_better_weights_before_it(mlx_gpt, run_dir):
    options = [*TINY, "--learning-rate=0.5", "--eval-interval=1", "--num-iter=8", "--seed=3"]
    out = mlx_gpt("train", *options, *([f"--run-dir={run_dir}"] if run_dir else [])).out
    run = open_run(Path(run_dir or "runs/1"))
    best = min(run.history(), key=lambda each: each.valid_loss)
    assert (
        f"The lowest validation loss was {best.valid_loss:.4f} at iteration {best.iteration}; its weights are kept"
        in out
    )
    result = mlx_gpt(*command_after("Next:", out))
    assert result.status == 0 and f"iteration {best.iteration} of 8" in result.err


def test_the_end_of_a_training_says_nothing_of_the_best_weights_if_they_are_the_last(mlx_gpt):
    out = mlx_gpt("train", *TINY).out
    losses = [each.valid_loss for each in open_run(Path("runs/1")).history()]
    assert losses[-1] < losses[0] and "The lowest validation loss" not in out


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--learning-rate=1", "--num-iter=40"], r"the training went wrong; try a lower --learning-rate than 1\."),
        (
            ["--learning-rate=1e-9"],
            r"the model has learned nothing; try more --num-iter than 4, or a lower --learning-rate than 1e-09\.",
        ),
    ],
)
def test_a_training_that_ends_above_a_uniform_guess_says_so(mlx_gpt, options, sentence):
    result = mlx_gpt("train", *TINY, *options)
    above = rf"The validation loss, [\d.]+, is above that of a uniform guess, {math.log(TOKENIZER.vocab_size):.3g}"
    assert result.status == 0 and re.search(f"^{above}: {sentence}$", result.out, re.M)


def test_a_training_that_learned_something_says_nothing_of_a_guess(mlx_gpt):
    assert "uniform guess" not in mlx_gpt("train", *TINY, "--learning-rate=0.01", "--num-iter=40").out


# ---- mistakes


BAD_TEXTS = {
    "missing": (None, "cannot be read"),
    "empty": (b"", "is empty"),
    "binary": (b"\0\1\2", "is not text"),
    "latin-1": ("café".encode("latin-1"), "is not UTF-8"),
    "too short": (b"ab", "use a longer text"),
    "too short for the context": (b"abcd" * 8, "block_size of 6 or less"),
}


@pytest.mark.parametrize("content, reason", BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_a_text_that_cannot_be_used_is_a_sentence_and_leaves_nothing_behind(mlx_gpt, content, reason):
    if content is not None:
        Path("bad.txt").write_bytes(content)
    result = mlx_gpt("train", *NO_CORPUS, "--data=bad.txt")
    assert is_a_sentence(result) and reason in result.err and result.out == ""
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "option, reason",
    [
        ("--head-size=5", "head_size 5 does not divide n_embd 16; these sizes do: 1, 2, 4, 8, 16"),
        ("--n-embd=0", "n_embd 0 is out of range"),
        ("--batch-size=-3", "batch_size -3 is out of range"),
        ("--num-iter=99999999999999", "num_iter 99999999999999 is out of range"),
        ("--seed=99999999999999999999999", "seed 99999999999999999999999 is out of range"),
        ("--learning-rate=nan", "learning_rate nan is out of range"),
        ("--dropout=1", "dropout 1.0 is out of range"),
        ("--block-size=5000", "block_size 5000 does not fit the text"),
        ("--run-dir=play.txt/run", "play.txt/run cannot be written"),
    ],
)
def test_a_bad_value_is_a_sentence_and_leaves_nothing_behind(mlx_gpt, option, reason):
    result = mlx_gpt("train", *TINY, option)
    assert is_a_sentence(result) and reason in result.err and result.out == ""
    assert not Path("runs").exists()


def test_a_sentence_shows_values_as_they_are(mlx_gpt):
    assert "[bold]x[/bold].txt" in mlx_gpt("train", *NO_CORPUS, "--data=[bold]x[/bold].txt").err


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
