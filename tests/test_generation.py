"""The promises of generation: the cache changes nothing, and draws follow the distribution that was asked for."""

import math

import mlx.core as mx
import numpy as np
import pytest
from mlx_nanogpt import UserError, generate, generation, make_sampler
from conftest import LOGIT_ROUNDING, MODERN, both_forms, each_architecture, lively_model, tiny_gpt
from mlx_nanogpt.generation import make_writer, until
from mlx_nanogpt.model import Cache

CONFIG = tiny_gpt(vocab_size=13)
MODEL = lively_model(CONFIG)
GREEDY = make_sampler(temperature=0)
PROMPTS = [[0], [3, 1, 4, 1, 5], list(range(8)), [i % 13 for i in range(29)]]  # the last two fill the block and more
prompts = pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: f"{len(prompt)}-tokens")
RNG = np.random.default_rng(0)


def plain_logits(text: list[int]) -> np.ndarray:
    """The logits after the last `block_size` tokens, computed again from all of them, as in the lecture."""
    MODEL.eval()
    return np.array(MODEL(mx.array([text[-CONFIG.block_size :]])))[0, -1]


# ---- the text


@both_forms
@prompts
def test_temperature_0_takes_the_likeliest_token_as_a_plain_loop_would_within_the_block_and_beyond(prompt):
    text = list(prompt)
    for _ in range(20):
        text.append(int(plain_logits(text).argmax()))
    assert list(generate(MODEL, prompt, 20, seed=1, sample=GREEDY)) == text[len(prompt) :]
    assert len(set(text)) > 2


@both_forms
@prompts
@pytest.mark.parametrize("seed", [1, 2])
def test_draws_are_those_of_a_plain_loop_within_the_block_and_beyond(prompt, seed):
    sample, key, text = make_sampler(temperature=0.7, top_k=6, top_p=0.9), mx.random.key(seed), list(prompt)
    for _ in range(20):
        key, now = mx.random.split(key)
        text.append(sample(mx.array(plain_logits(text)[None]), now).item())
    assert list(generate(MODEL, prompt, 20, seed, sample)) == text[len(prompt) :]


@each_architecture
def test_cached_logits_equal_uncached_ones(machine, architecture):
    text = RNG.integers(13, size=CONFIG.block_size).tolist()
    model = lively_model(tiny_gpt(**{"vocab_size": 13} | architecture)).eval()
    machine.prepare(model)
    for first in range(1, CONFIG.block_size):  # that many tokens are read at once, the rest one by one
        cache = Cache(model)
        chunks = [text[:first], *([token] for token in text[first:])]
        for end, chunk in enumerate(chunks, first):
            logits = np.array(model.next_logits(mx.array([chunk]), cache))[0]
            expected = np.array(model(mx.array([text[:end]])))[0, -1]
            np.testing.assert_allclose(logits, expected, atol=LOGIT_ROUNDING)


@both_forms
@each_architecture
def test_every_architecture_writes_what_a_plain_loop_would(architecture):
    model = lively_model(tiny_gpt(**{"vocab_size": 13} | architecture)).eval()
    text = [3, 1, 4]
    for _ in range(12):
        text.append(int(np.array(model(mx.array([text[-CONFIG.block_size :]])))[0, -1].argmax()))
    assert list(generate(model, text[:3], 12, seed=1, sample=GREEDY)) == text[3:]


@pytest.mark.parametrize("config", [tiny_gpt(block_size=1), tiny_gpt(n_embd=8, head_size=1), tiny_gpt(dropout=0.5)])
def test_any_shape_can_write(config):
    model = lively_model(config)
    written = list(generate(model, [1, 2], 12, seed=1))
    assert len(written) == 12 and all(0 <= token < config.vocab_size for token in written)
    assert written == list(generate(model, [1, 2], 12, seed=1))


def test_the_prompt_is_honoured_up_to_the_block_and_no_further():
    def text(prompt):
        return list(generate(MODEL, prompt, 15, seed=1, sample=GREEDY))

    block = PROMPTS[2]
    assert text([5, *block]) == text([6, *block]) == text(block)
    assert len({tuple(text([first, 1, 2])) for first in range(13)}) > 1


def test_the_same_seed_writes_the_same_text_whatever_the_global_random_state():
    def text(seed):
        return list(generate(MODEL, [0], 30, seed))

    mx.random.seed(1)
    first = text(1)
    mx.random.seed(2)
    assert text(1) == first != text(2)


def test_a_longer_text_begins_with_the_shorter_one():
    assert list(generate(MODEL, [0], 30, 1))[:11] == list(generate(MODEL, [0], 11, 1))


def test_top_k_1_equals_greedy():
    one = generate(MODEL, [0], 20, seed=5, sample=make_sampler(temperature=3.0, top_k=1))
    assert list(one) == list(generate(MODEL, [0], 20, seed=6, sample=GREEDY))


def test_a_prompt_may_be_an_array():
    """As a tokenizer makes it."""
    prompt = np.array(PROMPTS[1], dtype=np.uint16)
    assert list(generate(MODEL, prompt, 12, seed=1)) == list(generate(MODEL, PROMPTS[1], 12, seed=1))


@both_forms
def test_a_writer_writes_each_text_as_if_it_were_the_first_also_after_one_that_was_left():
    write = make_writer(MODEL, GREEDY)
    for text in write(PROMPTS[1], 20, seeds=[1, 2]):
        next(text)
    for prompt in PROMPTS[::-1]:
        [text] = write(prompt, 20, seeds=[1])
        assert list(text) == list(generate(MODEL, prompt, 20, seed=1, sample=GREEDY))


# ---- several texts at once


@both_forms
@pytest.mark.parametrize("architecture", [{}, MODERN | {"tied": True}], ids=["default", "modern-tied"])
def test_texts_that_are_drawn_together_are_those_that_their_seeds_write_alone(monkeypatch, architecture):
    monkeypatch.setattr(generation, "TEXTS_AT_ONCE", 3)
    model, sample = lively_model(tiny_gpt(**{"vocab_size": 13} | architecture)), make_sampler(0.9, 11, 0.95)
    for prompt in PROMPTS[1], PROMPTS[3]:
        texts = [list(text) for text in make_writer(model, sample)(prompt, 20, range(5, 10))]
        assert texts == [list(generate(model, prompt, 20, seed, sample)) for seed in range(5, 10)]
        assert len(set(map(tuple, texts))) == 5


def test_each_of_several_texts_has_its_own_end():
    def write(**end):
        return [list(text) for text in make_writer(MODEL)([0], 30, range(6), **end)]

    texts = [text[: text.index(7)] if 7 in text else text for text in write()]
    assert write(end=7) == texts and len(set(map(len, texts))) > 3


def test_texts_may_be_read_in_any_order_of_their_tokens():
    first, second = make_writer(MODEL)([0], 20, [1, 2])
    mixed = [(token, next(first)) for token in second]
    assert mixed == list(zip(generate(MODEL, [0], 20, 2), generate(MODEL, [0], 20, 1)))


def test_nothing_is_drawn_once_all_texts_have_ended(monkeypatch):
    drawn = []
    rows = [[1, 1], [9, 1], [1, 1], [1, 9], *[[1, 1]] * 10]
    draw = lambda *_: (drawn.append(row) or mx.array(row) for row in rows)
    monkeypatch.setattr(generation, "_make_draw", lambda *_: draw)
    texts = [list(text) for text in make_writer(MODEL)([0], 14, [1, 2], end=9)]
    assert texts == [[1], [1, 1, 1]] and len(drawn) == 5  # the next token is begun before one is read


def test_many_texts_are_drawn_a_few_at_a_time_and_fewer_of_a_large_model(monkeypatch):
    def sizes() -> list[int]:
        seen = []
        sample = lambda logits, *keys: seen.append(len(logits)) or mx.argmax(logits, axis=-1)
        assert sum(len(list(text)) for text in make_writer(MODEL, sample)([0], 2, range(11))) == 22
        return sorted(set(seen), reverse=True)

    assert sizes() == [generation.TEXTS_AT_ONCE, 11 - generation.TEXTS_AT_ONCE]
    cache = sum(array.nbytes for array in Cache(MODEL).state)
    monkeypatch.setattr(generation, "CACHE_BYTES", 5 * cache)
    assert sizes() == [5, 1]
    monkeypatch.setattr(generation, "CACHE_BYTES", cache - 1)
    assert sizes() == [1]


def test_nothing_asked_is_nothing_written():
    assert list(generate(MODEL, [0], 0, seed=1)) == []


def test_an_empty_prompt_is_refused():
    with pytest.raises(UserError, match="at least one token"):
        next(generate(MODEL, [], 5, seed=1))


# ---- the draws

LOGITS = RNG.normal(0, 2, 12)
DRAWS = 20_000


def draw(seed: int = 1, logits: np.ndarray = LOGITS, **settings) -> np.ndarray:
    """How often each token was drawn, (V,)."""
    rows = mx.broadcast_to(mx.array(logits, mx.float32), (DRAWS, len(logits)))
    tokens = make_sampler(**settings)(rows, mx.random.key(seed))
    return np.bincount(np.array(tokens), minlength=len(logits))


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax_of_the_logits_over_the_temperature(temperature):
    expected = DRAWS * softmax(LOGITS / temperature)
    often = expected > 5
    counts = draw(temperature=temperature)
    chi_square = ((counts - expected)[often] ** 2 / expected[often]).sum()
    assert chi_square < 35  # 11 degrees of freedom: one chance in 4,000
    assert counts[~often].sum() <= 3 * expected[~often].sum() + 10


def kept_by_top_k(k: int) -> set[int]:
    return set(np.argsort(-LOGITS)[:k].tolist())


def kept_by_top_p(p: float, logits: np.ndarray = LOGITS) -> set[int]:
    """The fewest likeliest tokens whose probabilities add up to p."""
    chances, kept = softmax(logits), []
    for token in np.argsort(-logits).tolist():
        if sum(chances[kept]) >= p:
            break
        kept.append(token)
    return set(kept)


@pytest.mark.parametrize("k", [1, 2, 5, 11, 12, 1000])
def test_top_k_keeps_the_k_likeliest(k):
    assert set(np.flatnonzero(draw(temperature=5.0, top_k=k)).tolist()) == kept_by_top_k(k)


@pytest.mark.parametrize("p", [1e-6, 0.3, 0.6, 0.9, 0.99, 1.0])
def test_top_p_keeps_the_fewest_likeliest_that_make_up_p(p):
    flatter = LOGITS / 5  # so that each token that remains is drawn
    assert set(np.flatnonzero(draw(temperature=5.0, top_p=p)).tolist()) == kept_by_top_p(p, flatter)


def test_what_is_kept_keeps_its_proportions():
    counts, chances = draw(top_k=3), softmax(LOGITS)
    kept = sorted(kept_by_top_k(3))
    np.testing.assert_allclose(counts[kept] / DRAWS, chances[kept] / chances[kept].sum(), atol=0.015)


def test_top_p_chooses_among_what_top_k_left():
    left = np.where(np.isin(np.arange(12), list(kept_by_top_k(4))), LOGITS / 5, -np.inf)
    drawn = set(np.flatnonzero(draw(temperature=5.0, top_k=4, top_p=0.6)).tolist())
    assert drawn == kept_by_top_p(0.6, left)


@pytest.mark.parametrize("temperature", [0, 1e-3, 1e-30, 1e-45, 1e-300])
def test_the_coldest_draws_are_all_the_likeliest_token(temperature):
    assert draw(temperature=temperature)[LOGITS.argmax()] == DRAWS


@pytest.mark.parametrize(
    "settings",
    [{"temperature": value} for value in (-1, math.nan, math.inf)]
    + [{"top_k": value} for value in (0, -3)]
    + [{"top_p": value} for value in (0, -0.1, 1.1, math.nan)],
    ids=str,
)
def test_a_bad_setting_is_refused_by_name_with_a_remedy(settings):
    name, value = next(iter(settings.items()))
    with pytest.raises(UserError, match=f"{name} {value} is out of range; give"):
        make_sampler(**settings)


@pytest.mark.parametrize("pieces", [["abc"], ["a", "b", "c"], ["ab", "c"], ["a", "bc"]])
def test_a_text_stops_at_the_same_place_however_it_comes(pieces):
    assert "".join(until(pieces, ["abc", "b"])) == "a"
    assert "".join(until([*pieces, "d"], ["cd", "bcd"])) == "a" and "".join(until(pieces, ["x"])) == "abc"
