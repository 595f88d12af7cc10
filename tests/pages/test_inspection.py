"""The promises of an inspection: a direct computation finds the same numbers, wherever a token stands."""

import mlx_nanogpt as gpt
import mlx.core as mx
import numpy as np
import pytest
from conftest import LOGIT_ROUNDING, TOKENIZER, TOKENS, each_architecture, lively_model, tiny_gpt
from mlx_nanogpt.evaluation import evaluate_split
from mlx_nanogpt.model import Attention, Block
from mlx_nanogpt.pages import inspection
from mlx_nanogpt.pages.inspection import inspect, look_inside

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
def test_in_a_longer_text_it_is_predicted_from_at_least_half_a_context(count, monkeypatch):
    monkeypatch.setattr(inspection, "LOGITS_PER_BATCH", 2 * 8 * TOKENIZER.vocab_size)  # two windows
    model = lively_model(tiny_gpt()).eval()
    found = inspect(model, IDS[:count], START)
    text = [START, *IDS]
    for place in range(count):
        contexts = [place + 1] if place < 8 else range(4, 9)
        direct = [-np.log2(distribution(model, text[place + 1 - n : place + 1])[IDS[place]]) for n in contexts]
        assert np.abs(np.array(direct) - found.surprise[place]).min() < 4 * LOGIT_ROUNDING


def test_the_bits_are_the_loss():
    model = lively_model(tiny_gpt(block_size=16)).eval()
    (loss,) = evaluate_split(model, np.array([START, *IDS[:16]]))
    assert inspect(model, IDS[:16], START).bits == pytest.approx(loss.nats / np.log(2), abs=16 * 4 * LOGIT_ROUNDING)


def test_the_model_keeps_its_mode_and_dropout_changes_nothing():
    model = lively_model(tiny_gpt(dropout=0.5)).train()
    first, second = (inspect(model, IDS, START).surprise for _ in range(2))
    assert model.training and np.array_equal(first, second)
    first, second = (look_inside(model, IDS, START).attention for _ in range(2))
    assert model.training and np.array_equal(first, second)


def test_there_are_no_more_expectations_than_tokens():
    model = lively_model(tiny_gpt())
    found = inspect(model, IDS, START, top=1000)
    assert found.expected.shape == (30, model.config.vocab_size)
    assert found.probabilities.sum(axis=1) == pytest.approx(np.ones(30))


@pytest.mark.parametrize("function", [inspect, look_inside])
def test_a_text_without_tokens_cannot_be_inspected(function):
    with pytest.raises(gpt.UserError, match="no token to inspect; give a text"):
        function(lively_model(tiny_gpt()), [], START)


# ---- the inside


@each_architecture
def test_attention_looks_back_and_adds_up_to_one(machine, architecture):
    model = lively_model(tiny_gpt(**architecture)).eval()
    inside = look_inside(model, IDS, START)
    assert inside.attention.shape == (2, 2, 30, 8) and inside.attention.sum(axis=-1) == pytest.approx(
        np.ones((2, 2, 30))
    )
    for place, first in enumerate(inside.first):
        assert 0 <= place - first < 8 and (place < 8) <= (first == 0)
        assert not inside.attention[:, :, place, place - first + 1 :].any()  # nothing after the place itself


def test_attention_is_that_of_the_formula():
    model = lively_model(tiny_gpt(block_size=16)).eval()
    inside = look_inside(model, IDS[:16], START)
    block, x = model.h[0], np.array(model.embed(mx.array(np.array([START, *IDS[:15]], np.int32))[None])[0], np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    x = x * np.array(block.ln_1.weight) + np.array(block.ln_1.bias)
    q, k, _ = np.split(x @ np.array(block.attn.c_attn.weight).T, 3, axis=-1)
    for head in range(2):
        own = slice(8 * head, 8 * head + 8)
        scores = np.where(np.tri(16), q[:, own] @ k[:, own].T / np.sqrt(8), -np.inf)
        powers = np.exp(scores - scores.max(-1, keepdims=True))
        assert inside.attention[0, head] == pytest.approx(powers / powers.sum(-1, keepdims=True), abs=LOGIT_ROUNDING)


@each_architecture
def test_the_lens_has_the_predictions_of_a_model_with_fewer_layers(architecture):
    model = lively_model(tiny_gpt(n_layer=3, block_size=16, **architecture)).eval()
    inside, found = look_inside(model, IDS[:16], START, top=4), inspect(model, IDS[:16], START, top=4)
    assert inside.probabilities[-1] == pytest.approx(
        found.probabilities, abs=LOGIT_ROUNDING
    )  # all layers: the model itself
    text = [START, *IDS]
    model.h = model.h[:1]
    for place in range(16):
        direct = distribution(model, text[: place + 1])
        assert inside.probabilities[0, place] == pytest.approx(np.sort(direct)[::-1][:4], abs=4 * LOGIT_ROUNDING)
        assert direct[inside.lens[0, place]] == pytest.approx(inside.probabilities[0, place], abs=4 * LOGIT_ROUNDING)


class OwnBlock(Block):
    pass


class OwnAttention(Attention):
    pass


@pytest.mark.parametrize("own", [OwnBlock, OwnAttention])
def test_only_the_blocks_of_this_package_have_a_known_inside(own):
    model = lively_model(tiny_gpt()).eval()
    if own is OwnBlock:
        model.h[1] = OwnBlock(model.config)
    else:
        model.h[1].attn = OwnAttention(model.config)
    with pytest.raises(gpt.UserError, match=f"the inside of {own.__name__} cannot be shown.*use `inspect`"):
        look_inside(model, IDS, START)
    assert inspect(model, IDS, START).bits > 0  # of any model
