"""The promises of `mlx-gpt train`: NanoLux's options verbatim, plain output, and a sentence for every mistake."""

import math
import re
import shutil
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import mlx_nanogpt as gpt
import mlx.core as mx
import numpy as np
import pytest
from mlx_nanogpt import GPTConfig, TrainConfig, open_run
from conftest import DATA, OTHER_SETTINGS, TEXT, TINY, TOKENIZER, WHOLE, tiny_run
from helpers import HOST, NO_CORPUS, command_after, is_a_sentence, read_settings
from mlx_nanogpt.measure.timing import Rounds
from mlx_nanogpt.text.identity import CorpusIdentity
from mlx_nanogpt_cli.screen import conclusion, describe, training_display
from mlx_nanogpt_cli.screen.consoles import console
from mlx_nanogpt_cli.screen.describe import describe_data, describe_run
from mlx_nanogpt_cli.screen.training_display import shorten_sample


@pytest.fixture
def whole_samples(monkeypatch):
    """Samples as long as users get them."""
    for owner, name in ((conclusion, "SAMPLE_TOKENS"), (training_display, "SHORT_SAMPLE_TOKENS")):
        monkeypatch.setattr(owner, name, WHOLE[owner, name])


# ---- options and texts


def test_nanoluxs_command_line_works_verbatim(mlx_gpt):
    nanolux = "--n_embd=64 --batch_size=32 --block_size=64 --head_size=16 --num_iter=2".split()
    assert mlx_gpt("train", *nanolux, "--eval_iters=1", "--data=play.txt").status == 0
    expected = asdict(GPTConfig(TOKENIZER.vocab_size)) | asdict(TrainConfig(num_iter=2, eval_iters=1))
    assert read_settings() == expected | {"sources": ["play.txt"]}


def test_a_run_that_comes_to_its_target_prints_its_cost(mlx_gpt):
    result = mlx_gpt("train", *TINY, "--target-loss=10")
    assert result.status == 0 and re.search(
        r"\nStopped at iteration 2: the validation loss is no higher than 10\.\n\n[\d.]+ s of training, ", result.out
    )
    assert mlx_gpt("train", "--resume=runs/1", "--target-loss=0").status == 0
    assert open_run(Path("runs/1")).position().iteration == 4


def test_every_option_reaches_the_run(mlx_gpt):
    options = [f"--{name}" if value is True else f"--{name}={value}" for name, value in OTHER_SETTINGS.items()]
    assert mlx_gpt("train", *TINY, "--run-dir=teacher", "--train-fraction=0.7").status == 0
    common = "--data=play.txt", "--run-dir=mine", "--device=cpu", "--teacher=teacher"
    assert mlx_gpt("train", *common, *options).status == 0
    assert read_settings("mine") == OTHER_SETTINGS | {"sources": ["play.txt"], "vocab_size": TOKENIZER.vocab_size}
    assert [evaluation.device for evaluation in open_run(Path("mine")).history()] == ["cpu", "cpu"]


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
    assert read_settings()["sources"] == ["pastiche"]
    assert {evaluation.corpus for evaluation in open_run(Path("runs/1")).history()} == {"pastiche"}
    assert "pastiche" in mlx_gpt("generate", "--tokens=1").err


@pytest.mark.parametrize("run_dir", [None, "a folder [/]/[run]"])
def test_the_next_command_works_verbatim_and_names_are_shown_as_they_are(mlx_gpt, run_dir):
    Path("play.txt").rename("[draft] play.txt")
    options = [f"--run-dir={run_dir}"] if run_dir else []
    out = mlx_gpt("train", *NO_CORPUS, "--data=[draft] play.txt", *options).out
    assert f"  Run       {run_dir or 'runs/1'}\n" in out and "Corpus    [draft] play.txt: " in out
    result = mlx_gpt(*command_after("Next:", out))
    assert result.status == 0 and len(result.out) == 500 + 1


# ---- the header


def test_what_is_piped_shows_everything_and_has_no_control_codes(mlx_gpt, whole_samples):
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


def test_the_header_shows_the_nearest_preset_and_every_setting_that_is_not_its():
    changes = {name: value for name, value in OTHER_SETTINGS.items() if name not in ("num_iter", "seed")}
    run = tiny_run(**changes | {"distill": TrainConfig.distill})  # whose text sets train_fraction
    train_config = replace(run.train_config, **{name: changes[name] for name in ("train_fraction", "distill")})
    lines = describe_run(replace(run, train_config=train_config), DATA)
    preset, *settings = lines["Settings"].removeprefix("preset ").split(", ")
    for name, value in changes.items():
        shown = (name if value is True else f"{name} {value}") in settings
        assert shown != (gpt.PRESETS[preset].settings.get(name) == value), name
    for words in (
        "2 x 2 x 6 = 24 tokens, rate 0.002, dropout 0.25",
        "2 layers, 12 wide, 3 heads of 4, context 6",
        "eager",
    ):
        assert words in " ".join(lines.values())


def test_the_header_warns_of_a_rate_that_is_0_before_the_end():
    assert "Rate" not in describe_run(tiny_run(lr_decay_iters=8), DATA)
    lines = describe_run(tiny_run(lr_decay_iters=6), DATA)
    assert lines["Rate"] == "0 from iteration 6 on, so nothing is learned after it"


def test_the_header_of_the_defaults_has_no_settings():
    defaults = gpt.create_run(GPTConfig(vocab_size=TOKENIZER.vocab_size), TrainConfig(), DATA)
    lines = describe_run(defaults, DATA)
    assert list(lines) == ["Device", "Versions", "Backend", "Corpus", "Model", "Training", "Export", "Run"]
    assert lines["Training"] == "5,000 iterations of 32 x 64 = 2,048 tokens, rate 0.001, dropout 0, seed 1337"


def test_tokens_of_unknown_characters_are_described_as_tokens():
    identity = CorpusIdentity(("owt",), "", None)
    tokens = np.zeros(1000, np.uint16)
    data = gpt.Dataset(identity, gpt.CharTokenizer("abc"), tokens, tokens[:500], 0.9)
    assert describe_data(data) == "owt: 1,500 tokens, vocabulary 3"


@pytest.mark.skipif(mx.default_device() != mx.cpu, reason="only MLX's CPU backend needs a compiler")
def test_a_compiled_backend_that_cannot_compile_is_shown(monkeypatch):
    assert ("needs g++" in describe_run(tiny_run(), DATA)["Backend"]) == (shutil.which("g++") is None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "needs g++" in describe_run(tiny_run(), DATA)["Backend"]
    assert "needs g++" not in describe_run(tiny_run(backend="eager"), DATA)["Backend"]


# ---- rows and samples


def test_a_short_sample_is_shown_under_every_row_but_the_last(mlx_gpt, whole_samples):
    out = mlx_gpt("train", *TINY, "--num-iter=6").out
    run = open_run(Path("runs/1"))
    lines = out[out.index("iteration  train") :].splitlines()[1:6]
    for line, evaluation in zip(lines[::2], run.history(), strict=True):
        shown = f" {evaluation.iteration} +{evaluation.train_loss:.4f} +{evaluation.valid_loss:.4f} "
        assert re.search(shown, line)
    texts = [line.removeprefix(" " * 11) for line in lines[1::2]]
    assert all(40 < len(text) <= 69 and text[0] != " " for text in texts)
    samples = [line.text for line in run.log() if isinstance(line, gpt.Sample)]
    assert len(samples) == 3  # the last one is in the log, too
    for text, sample in zip(texts, samples):
        assert " / ".join(sample.strip().split("\n")).startswith(text.rstrip("\u2026"))


def test_a_short_sample_is_one_line_of_the_screens_width_and_steers_no_terminal(monkeypatch):
    monkeypatch.setattr(type(console), "width", 40)
    line = shorten_sample("To be\n\tor \x1b[31mnot to be, \u65e5\u672c that is the question")
    assert line.plain == " " * 11 + "To be / \\u0009or \\u001B[31mn\u2026"


# ---- the end


def test_the_end_names_better_weights_before_it(mlx_gpt):
    options = [*TINY, "--learning-rate=0.5", "--eval-interval=1", "--num-iter=8", "--seed=3"]
    out = mlx_gpt("train", *options).out
    best = min(open_run(Path("runs/1")).history(), key=lambda evaluation: evaluation.valid_loss)
    assert f"The lowest validation loss was {best.valid_loss:.4f} at iteration {best.iteration}: the sample and" in out
    result = mlx_gpt(*command_after("Next:", out))
    assert result.status == 0 and f"iteration {best.iteration} of 8, best weights" in result.err


@pytest.mark.parametrize("rate, iterations", [("1", 40), ("1e-09", 4)])
def test_a_run_that_ends_above_a_uniform_guess_has_a_warning(mlx_gpt, rate, iterations):
    result = mlx_gpt("train", *TINY, f"--learning-rate={rate}", f"--num-iter={iterations}", "--eval-interval=40")
    above = rf"The losses, [\d.]+ and [\d.]+, are no better than that of a uniform guess, {math.log(TOKENIZER.vocab_size):.3g}"
    remedy = rf"Try a lower --learning-rate than {rate}, or more --num-iter than {iterations}\."
    assert result.status == 0 and re.search(f"^{above}: the model learned nothing. {remedy}$", result.out, re.M)


def test_a_run_that_learned_has_no_warning_and_no_better_weights(mlx_gpt):
    out = mlx_gpt("train", *TINY, "--learning-rate=0.01", "--num-iter=20", "--eval-interval=10").out
    losses = [evaluation.valid_loss for evaluation in open_run(Path("runs/1")).history()]
    assert losses[-1] < losses[0] and "uniform guess" not in out and "The lowest validation loss" not in out


# ---- mistakes


BAD_TEXTS = {
    "empty": (b"", "is empty"),
    "binary": (b"\0\1\2", "is not text"),
    "latin-1": ("café".encode("latin-1"), "is not UTF-8"),
    "too short": (b"ab", "use a longer text"),
    "too short for the context": (b"abcd" * 8, "block_size of 6 or less"),
}


@pytest.mark.parametrize("content, reason", BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_a_text_that_cannot_be_used_is_a_sentence_and_leaves_nothing_behind(mlx_gpt, content, reason):
    Path("bad.txt").write_bytes(content)
    result = mlx_gpt("train", *NO_CORPUS, "--data=bad.txt")
    assert is_a_sentence(result) and reason in result.err and result.out == ""
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "option, reason",
    [
        ("--data=[bold]x[/bold].txt", "[bold]x[/bold].txt cannot be read"),
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


@pytest.mark.parametrize(
    "command, reason",
    [
        (["prepare", "--data=halves", "--out=halves"], "holds the text itself, which its tokens would hide"),
        (["train", "--init-from=resume", "--data=halves"], "is --resume RUN here"),
        (["train", "--init-from=halves/2/no", "--data=halves"], "halves/2/no is not a folder"),
        (["train", "--init-from=halves/no", "--data=halves"], "halves/no is not a folder"),
        (["train", "--data=nanogpts"], "nanogpts has no table of symbols, so its tokens are GPT-2's, and "),
    ],
)
def test_a_mistake_of_a_nanogpt_user_is_answered(mlx_gpt, halves, command, reason):
    Path("nanogpts").mkdir()
    for name in ("train.bin", "val.bin"):
        Path("nanogpts", name).write_bytes(bytes(100))
    result = mlx_gpt(*command)
    assert is_a_sentence(result) and reason in result.err and not Path("runs").exists()


@pytest.mark.parametrize(
    "losses, words",
    [
        ([(3.0, 3.1), (2.0, 2.1)], None),
        ([(3.0, 3.1), (2.9, 3.15)], None),  # the rise is small
        ([(8.1, 8.0)], "the model learned nothing. Try a lower --learning-rate than 0.001"),
        ([(3.0, 3.1), (1.0, 4.0)], "Since iteration 1 the model has learned its text by heart"),
        ([(2.5, 8.3), (2.04, 8.1)], "the end of the text, which validates, differs from the text to train on"),
        (
            [(3.0, 3.1), (2.5, 2.6), (2.0, 2.1)],
            "still falls; more steps would lower it: mlx-gpt train --resume runs/1 --num-iter 6",
        ),
    ],
)
def test_the_advice_at_the_end_looks_at_both_losses(losses, words):
    history = [gpt.Evaluation(i, *pair, 1, 1.0, 1, 1.0, "play.txt", "cpu") for i, pair in enumerate(losses, 1)]
    advice = conclusion._advise(history, 4.17, tiny_run(num_iter=len(losses)))
    assert advice is None if words is None else words in advice


def test_the_advice_names_the_files_that_validate(mlx_gpt, halves):
    mlx_gpt("train", *NO_CORPUS, *(f"--data={name}" for name in ("halves/1.txt", "halves/2/rest.txt", "play.txt")))
    advice = conclusion._advise([gpt.Evaluation(4, 2.0, 8.1, 1, 1.0, 1, 1.0, "", "cpu")], 4.17, open_run("runs/1"))
    assert "the end of the text (play.txt), which validates" in advice


def test_a_long_run_has_a_forecast_and_a_short_one_none(mlx_gpt, monkeypatch):
    monkeypatch.setattr(describe, "measure_matrix", lambda rounds: Rounds.of([1e3]))  # a very slow machine
    assert "  Time  " not in mlx_gpt("train", *TINY).out
    monkeypatch.setattr(describe, "LONG_WORK", 0)
    assert re.search(
        r"  Time +a step takes at least .* here, and 4 of them .*; mlx-gpt plan", mlx_gpt("train", *TINY).out
    )
