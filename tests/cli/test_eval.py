"""The promises of `mlx-gpt eval`: exact losses, beside those of simple methods on the same tokens."""

import math
import re
from pathlib import Path
from unittest.mock import Mock

import pytest
from mlx_nanogpt import open_token_folder
from conftest import DATA, TEXT, TOKENIZER
from helpers import NO_CORPUS, is_a_sentence, rows
from mlx_nanogpt.evaluation import evaluate_split
from mlx_nanogpt.text.baselines import bigram, uniform, unigram, xz_bits_per_character
from rich.console import Console

NEEDED = "Bigram, unigram and xz need the training text:"
SPLITS = {"training": ["--split=train"], "validation": [], "both": ["--split=both"]}


def expected_rows(run, tokens, train) -> dict[str, list[str]]:
    """By the library. A token is a character here."""
    *_, loss = evaluate_split(run.load_model(), tokens)
    losses = {"this model": loss, "uniform guess": uniform(tokens, TOKENIZER.vocab_size)}
    xz = {}
    if train is not None:
        losses["bigram"] = bigram(train, tokens, TOKENIZER.vocab_size)
        losses["unigram"] = unigram(train, tokens, TOKENIZER.vocab_size)
        bits = xz_bits_per_character(TOKENIZER, tokens, None if tokens is train else train)
        xz = {"xz -9e": ["-", f"{bits:.4f}", "-"]}
    return xz | {
        name: [f"{loss.mean:.4f}", f"{loss.mean / math.log(2):.4f}", f"{math.exp(loss.mean):.2f}"]
        for name, loss in losses.items()
    }


def test_eval_shows_the_model_beside_the_baselines_on_whole_splits(mlx_gpt, run):
    results = {split: mlx_gpt("eval", *options) for split, options in SPLITS.items()}
    for name, result in results.items():
        assert (result.status, result.err) == (
            0,
            "",
        ) and "Run       runs/1: play.txt, iteration 8 of 8, best weights\n" in result.out
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", result.out)
        for split, tokens in {"training": DATA.train_tokens, "validation": DATA.valid_tokens}.items():
            shown = f"play.txt, {split} split: {len(tokens) - 1:,} tokens" in result.out
            assert shown == (name in (split, "both"))
        tokens = DATA.train_tokens if name == "training" else DATA.valid_tokens
        assert rows(result.out) == expected_rows(run, tokens, DATA.train_tokens)  # of both, the later
    bits = [float(row[1]) for row in rows(results["validation"].out).values()]
    assert len(bits) == 5 and bits == sorted(bits)  # the best method first


def test_eval_marks_the_row_of_the_model(mlx_gpt, run, monkeypatch):
    assert "│ > this model " in mlx_gpt("eval").out
    monkeypatch.setattr("mlx_nanogpt_cli.commands.eval.console", Console(force_terminal=True, width=80))
    bold = [line for line in mlx_gpt("eval").out.splitlines() if "\x1b[1m" in line and "│" in line]
    assert len(bold) == 1 and "> this model" in bold[0]


@pytest.mark.parametrize("slow", ["bigram", "count_characters", "xz_bits_per_character"])
def test_eval_shows_the_models_loss_before_it_counts_and_compresses(mlx_gpt, run, monkeypatch, slow):
    monkeypatch.setattr(f"mlx_nanogpt_cli.commands.eval.{slow}", Mock(side_effect=KeyboardInterrupt))
    result = mlx_gpt("eval")
    loss, _, perplexity = expected_rows(run, DATA.valid_tokens, None)["this model"]
    assert result.status == 130 and "validation split: " in result.out
    assert result.out.endswith(f"\nThis model: {loss} nats per token, perplexity {perplexity}\n")


@pytest.mark.parametrize("own_text", ["there", "gone"])
def test_another_text_is_evaluated_whole_and_predicted_from_the_runs_own_if_that_is_there(mlx_gpt, run, own_text):
    other = TEXT[::-1][:301]
    Path("other.txt").write_text(other)
    if own_text == "gone":
        Path("play.txt").unlink()
    result = mlx_gpt("eval", "--data=other.txt")
    assert result.status == 0 and "other.txt: 300 tokens in windows of 8" in result.out
    train = DATA.train_tokens if own_text == "there" else None
    assert rows(result.out) == expected_rows(run, TOKENIZER.encode(other), train)
    reason = re.search(f"{NEEDED} the text of the run .* play.txt cannot be", result.out)
    assert bool(reason) == (own_text == "gone")


def test_the_runs_own_text_keeps_its_splits_wherever_it_lies(mlx_gpt, run):
    before = mlx_gpt("eval").out
    Path("play.txt").rename("moved.txt")
    assert mlx_gpt("eval", "--data=moved.txt", "--split=valid").out == before.replace("play.txt, v", "moved.txt, v")
    result = mlx_gpt("eval")
    assert is_a_sentence(result) and "play.txt cannot be read" in result.err and result.out == ""


@pytest.mark.parametrize(
    "options, reason",
    [
        (["runs/7"], "runs/7 holds no run"),
        (["--data=missing.txt"], "missing.txt cannot be read"),
        (["--data=strange.txt"], "never seen '€'; remove them from the text"),
        (["--data=short.txt"], "the text has too few tokens (1)"),
        (["--data=empty.txt"], "empty.txt is empty"),
        (["--data=other.txt", "--split=valid"], "other.txt is not the text that the model learned from"),
        ([], "learned from another text than play.txt holds now"),
        (["--init-from=exported"], "give one with --data"),
        (["--init-from=exported", "runs/1", "--data=play.txt"], "exclude each other"),
        (["--init-from=exported", "--last", "--data=play.txt"], "exclude each other"),
        (["--init-from=nowhere", "--data=play.txt"], "nowhere"),
    ],
)
def test_an_eval_that_cannot_be_is_a_sentence(mlx_gpt, run, options, reason):
    for name, text in {"strange": "to b€", "short": "t", "empty": "", "other": "to be", "play": TEXT[::-1]}.items():
        Path(f"{name}.txt").write_text(text)
    result = mlx_gpt("eval", *options)
    assert is_a_sentence(result) and reason in result.err


# ---- folders of tokens, and models without a run


def test_a_run_on_a_folder_of_tokens_is_evaluated_on_it(mlx_gpt):
    mlx_gpt("prepare", "--data=play.txt", "--out=tokens")
    mlx_gpt("train", *NO_CORPUS, "--data=tokens")
    tables = [mlx_gpt("eval", *data).out.partition("Method")[2] for data in ([], ["--data=play.txt"])]
    assert tables[0] == tables[1] != ""


def test_a_folder_of_another_text_is_evaluated_by_its_own_splits(mlx_gpt, run):
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
    mlx_gpt("train", *NO_CORPUS, "--data=play.txt", "--tied", "--activation=gelu")
    mlx_gpt("export", "--out=exported")
    mlx_gpt("prepare", "--data=play.txt", "--out=tokens")
    ours, exported = mlx_gpt("eval"), mlx_gpt("eval", "--init-from=exported", "--data=tokens")
    assert exported.status == 0 and exported.out.partition("Method")[2] == ours.out.partition("Method")[2] != ""
    text = mlx_gpt("eval", "--init-from=exported", "--data=play.txt").out
    assert "play.txt: " in text and NEEDED in text and "this model" in text
