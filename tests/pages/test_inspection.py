"""The promises of an inspection: a direct computation finds the same numbers, wherever a token stands."""

import mlx_nanogpt as gpt
import mlx.core as mx
import numpy as np
import pytest
from conftest import LOGIT_ROUNDING, TOKENIZER, TOKENS, each_architecture, lively_model, tiny_gpt
from mlx_nanogpt.evaluation import evaluate_split
from mlx_nanogpt.pages import inspection
from mlx_nanogpt.pages.inspection import inspect

IDS = TOKENS[:30].astype(int)
START = 3


def distribution(model: gpt.GPT, tokens) -> np.ndarray:
    """The probabilities of the token after `tokens`."""
    logits = np.array(model(mx.array(np.array(tokens, np.int32))[None])[0, -1], np.float64)
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


@each_architecture
def test_within_the_context_a_token_is_predicted_from_all_before_it(machine, architecture):
    model = lively_model(tiny_gpt(block_size=16, **architecture)).eval()
    found = inspect(model, IDS[:16], START, top=4)
    text = [START, *IDS]
    for place in range(16):
        direct = distribution(model, text[: place + 1])
        # a logit that is off by `LOGIT_ROUNDING` moves a logarithm by twice that at most
        assert found.surprise[place] == pytest.approx(-np.log2(direct[IDS[place]]), abs=4 * LOGIT_ROUNDING)
        assert found.probabilities[place] == pytest.approx(np.sort(direct)[::-1][:4], rel=4 * LOGIT_ROUNDING)
        assert direct[found.expected[place]] == pytest.approx(found.probabilities[place], rel=4 * LOGIT_ROUNDING)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 12, 13, 30])
def test_in_a_longer_text_it_is_predicted_in_windows_that_begin_in_the_middle_of_each_other(count, monkeypatch):
    monkeypatch.setattr(inspection, "LOGITS_PER_BATCH", 2 * 8 * TOKENIZER.vocab_size)  # two windows
    model = lively_model(tiny_gpt()).eval()
    found = inspect(model, IDS[:count], START)
    text = [START, *IDS]
    for place in range(count):
        first = max(0, -(-(place + 1 - 8) // 4) * 4)
        direct = -np.log2(distribution(model, text[first : place + 1])[IDS[place]])
        assert found.surprise[place] == pytest.approx(direct, abs=4 * LOGIT_ROUNDING)


def test_a_certain_token_costs_nothing_and_not_less():
    model = lively_model(tiny_gpt(vocab_size=1)).eval()
    assert not np.signbit(inspect(model, [0, 0, 0], 0).surprise).any()


def test_the_bits_are_the_loss():
    model = lively_model(tiny_gpt(block_size=16)).eval()
    (loss,) = evaluate_split(model, np.array([START, *IDS[:16]]))
    assert inspect(model, IDS[:16], START).bits == pytest.approx(loss.nats / np.log(2), abs=16 * 4 * LOGIT_ROUNDING)


def test_the_model_keeps_its_mode_and_dropout_changes_nothing():
    model = lively_model(tiny_gpt(dropout=0.5)).train()
    first, second = (inspect(model, IDS, START).surprise for _ in range(2))
    assert model.training and np.array_equal(first, second)


def test_there_are_no_more_expectations_than_tokens():
    model = lively_model(tiny_gpt())
    found = inspect(model, IDS, START, top=1000)
    assert found.expected.shape == (30, model.config.vocab_size)
    assert found.probabilities.sum(axis=1) == pytest.approx(np.ones(30))


def test_a_text_without_tokens_cannot_be_inspected():
    with pytest.raises(gpt.UserError, match="no token to inspect; give a text"):
        inspect(lively_model(tiny_gpt()), [], START)
