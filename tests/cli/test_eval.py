"""The promises of `mlx-gpt eval`: exact losses, beside those of simple methods on the same tokens."""

import math
import re
from pathlib import Path
from unittest.mock import Mock

import mlx_nanogpt as gpt
import pytest
from mlx_nanogpt import open_token_folder
from conftest import DATA, TEXT, TOKENIZER, TOKENS, trained_run, worsened_run
from helpers import NO_CORPUS, is_a_sentence, rows
from mlx_nanogpt.text.baselines import bigram, uniform, unigram, xz_bits_per_character
from rich.console import Console


def expected_rows(run, tokens, train) -> dict[str, list[str]]:
    """By the library. A token is a character here."""
    *_, loss = gpt.evaluate_split(run.load_model(), tokens, "compiled")
    losses = {"this model": loss, "uniform guess": uniform(tokens, TOKENIZER.vocab_size)}
    xz = {}
    if train is not None:
        losses["bigram"] = bigram(train, tokens, TOKENIZER.vocab_size)
        losses["unigram"] = unigram(train, tokens, TOKENIZER.vocab_size)
        bits = xz_bits_per_character(TOKENIZER, tokens, None if tokens is train else train)
        xz = {"xz -9e": ["-", f"{bits:.4f}", "-"]}
    return xz | {
        name: [f"{each.mean:.4f}", f"{each.mean / math.log(2):.4f}", f"{math.exp(each.mean):.2f}"]
        for name, each in losses.items()
    }


@pytest.mark.parametrize("split, tokens", [("train", DATA.train_tokens), ("valid", DATA.valid_tokens)])
def test_eval_shows_the_model_beside_the_baselines_on_a_whole_split(mlx_gpt, run, split, tokens):
    result = mlx_gpt("eval", f"--split={split}")
    assert (result.status, result.err) == (0, "")
    assert "Run       runs/1: play.txt, iteration 8 of 8\n" in result.out
    assert (
        f"play.txt, {'training' if split == 'train' else 'validation'} split: {len(tokens) - 1:,} tokens" in result.out
    )
    assert rows(result.out) == expected_rows(run, tokens, DATA.train_tokens)


def test_eval_is_of_the_validation_split_unless_told_and_both_are_one_after_the_other(mlx_gpt, run):
    valid, both = mlx_gpt("eval").out, mlx_gpt("eval", "--split=both").out
    assert valid == mlx_gpt("eval", "--split=valid").out
    assert both.count("training split") == both.count("validation split") == 1
    assert rows(both) == rows(valid)  # the later of the two


def test_what_eval_pipes_has_no_control_codes_and_the_best_method_first(mlx_gpt, run):
    out = mlx_gpt("eval").out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", out)
    bits = [float(row[1]) for row in rows(out).values()]
    assert len(bits) == 5 and bits == sorted(bits)


def test_eval_marks_the_row_of_the_model(mlx_gpt, run, monkeypatch):
    names = [line.split("\u2502")[1].strip() for line in mlx_gpt("eval").out.splitlines() if line.startswith("\u2502")]
    assert sorted(names) == ["> this model", "bigram", "uniform guess", "unigram", "xz -9e"]
    console = Console(force_terminal=True, width=80)
    monkeypatch.setattr("mlx_nanogpt_cli.commands.eval.console", console)
    bold = [line for line in mlx_gpt("eval").out.splitlines() if "\x1b[1m" in line and "\u2502" in line]
    assert len(bold) == 1 and "> this model" in bold[0]


@pytest.mark.parametrize("slow", ["bigram", "count_characters", "xz_bits_per_character"])
def test_eval_shows_the_models_loss_before_it_counts_and_compresses(mlx_gpt, run, monkeypatch, slow):
    monkeypatch.setattr(f"mlx_nanogpt_cli.commands.eval.{slow}", Mock(side_effect=KeyboardInterrupt))
    result = mlx_gpt("eval")
    loss, _, perplexity = expected_rows(run, DATA.valid_tokens, None)["this model"]
    assert result.status == 130 and "validation split: " in result.out
    assert result.out.endswith(f"\nThis model: {loss} nats per token, perplexity {perplexity}\n")


def test_eval_of_the_best_weights_is_another(mlx_gpt):
    run = worsened_run()
    last, best = mlx_gpt("eval").out, mlx_gpt("eval", "--best").out
    assert float(rows(best)["this model"][0]) < float(rows(last)["this model"][0])
    assert f"iteration {run.position(best=True).iteration} of 8" in best and "iteration 8 of 8" in last
    assert rows(best)["bigram"] == rows(last)["bigram"]


def test_the_newest_run_is_evaluated_unless_one_is_named(mlx_gpt):
    trained_run()
    trained_run(seed=9)
    newest, first, second = (mlx_gpt("eval", *named).out for named in ([], ["--run=runs/1"], ["--run=runs/2"]))
    assert newest == second and rows(second)["this model"] != rows(first)["this model"]


def test_another_text_is_evaluated_whole_and_predicted_from_the_runs_own(mlx_gpt, run):
    other = TEXT[::-1][:301]
    Path("other.txt").write_text(other)
    result = mlx_gpt("eval", "--data=other.txt")
    assert result.status == 0 and "other.txt: 300 tokens in windows of 8" in result.out
    assert rows(result.out) == expected_rows(run, TOKENIZER.encode(other), DATA.train_tokens)


def test_another_text_is_evaluated_without_baselines_where_the_runs_own_is_gone(mlx_gpt, run):
    Path("play.txt").unlink()
    Path("other.txt").write_text(TEXT[:301])
    result = mlx_gpt("eval", "--data=other.txt")
    assert result.status == 0 and "No bigram, unigram and xz here" in result.out and "play.txt cannot be" in result.out
    assert rows(result.out) == expected_rows(run, TOKENS[:301], None)


def test_the_runs_own_text_keeps_its_splits_wherever_it_lies(mlx_gpt, run):
    before = mlx_gpt("eval").out
    Path("play.txt").rename("moved.txt")
    assert mlx_gpt("eval", "--data=moved.txt", "--split=valid").out == before.replace("play.txt, v", "moved.txt, v")
    result = mlx_gpt("eval")
    assert is_a_sentence(result) and "play.txt cannot be read" in result.err and result.out == ""


def test_eval_with_a_changed_text_is_refused(mlx_gpt, run):
    Path("play.txt").write_text(TEXT[::-1])
    result = mlx_gpt("eval")
    assert is_a_sentence(result) and "learned from another text than play.txt holds now" in result.err


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--run=nowhere"], "nowhere holds no run"),
        (["--data=missing.txt"], "missing.txt cannot be read"),
        (["--data=strange.txt"], "never seen '€'; remove them from the text"),
        (["--data=short.txt"], "the text has too few tokens (1)"),
        (["--data=empty.txt"], "empty.txt is empty"),
        (["--data=other.txt", "--split=valid"], "other.txt is not the text that the model learned from"),
    ],
)
def test_an_eval_that_cannot_be_is_a_sentence(mlx_gpt, run, options, reason):
    for name, text in {"strange": "to b€", "short": "t", "empty": "", "other": "to be or not"}.items():
        Path(f"{name}.txt").write_text(text)
    result = mlx_gpt("eval", *options)
    assert is_a_sentence(result) and reason in result.err


# ---- folders of tokens, and models without a run


def test_a_run_on_a_folder_of_tokens_is_evaluated_on_it(mlx_gpt):
    mlx_gpt("prepare", "--data=play.txt", "--out=tokens")
    mlx_gpt("train", *NO_CORPUS, "--data=tokens")
    mlx_gpt("train", *NO_CORPUS, "--data=play.txt")
    tables = [mlx_gpt("eval", f"--run=runs/{number}").out.partition("Method")[2] for number in "12"]
    assert tables[0] == tables[1] != ""


def test_a_folder_of_another_text_is_evaluated_by_its_own_splits(mlx_gpt):
    mlx_gpt("train", *NO_CORPUS, "--data=play.txt")
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
