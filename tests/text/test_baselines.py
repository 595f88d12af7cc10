"""The baselines equal their formulas written out, and read their tokens in bounded parts."""

import functools
import lzma
import math
import subprocess
from collections import Counter, defaultdict
from dataclasses import dataclass
from fractions import Fraction
from shutil import which

import numpy as np
import pytest
from conftest import DATA, TEXT, TOKENIZER, TOKENS
from mlx_nanogpt.text import baselines
from mlx_nanogpt.text.baselines import bigram, count_characters, uniform, unigram, xz_bits_per_character

TRAIN, VALID, V = DATA.train_tokens, DATA.valid_tokens, TOKENIZER.vocab_size
in_parts = pytest.mark.parametrize("chunk", [1, 7, 1000, 2**20])


@pytest.fixture
def strange():
    """Tokens of a large vocabulary, with unknown tokens, contexts and pairs, so that smoothing matters."""
    rng = np.random.default_rng(1)
    return rng.geometric(0.02, 3000).astype(np.uint16), rng.geometric(0.01, 500).astype(np.uint16)


def plain_unigram(train, w: int, vocab_size: int) -> float:
    return (list(train).count(w) + 1) / (len(train) + vocab_size)


def plain_bigram_nats(train, tokens, vocab_size: int) -> float:
    """Witten-Bell interpolation, one token at a time, with dictionaries."""
    after = defaultdict(Counter)
    for h, w in zip(train.tolist(), train.tolist()[1:]):
        after[h][w] += 1
    counts = Counter(train.tolist())
    nats = 0.0
    for h, w in zip(tokens.tolist(), tokens.tolist()[1:]):
        p = (counts[w] + 1) / (len(train) + vocab_size)
        if after[h]:
            share = sum(after[h].values()) / (sum(after[h].values()) + len(after[h]))
            p = share * after[h][w] / sum(after[h].values()) + (1 - share) * p
        nats -= math.log(p)
    return nats


# ---- uniform and unigram


def test_a_uniform_guess_costs_the_logarithm_of_the_vocabulary():
    loss = uniform(TOKENS, 65)
    assert loss.tokens == len(TOKENS) - 1 and loss.mean == pytest.approx(math.log(65))
    assert loss.perplexity == pytest.approx(65) and loss.bits_per_character(loss.tokens) == pytest.approx(math.log2(65))


@in_parts
def test_a_unigram_is_the_frequencies_plus_one(monkeypatch, chunk):
    monkeypatch.setattr(baselines, "CHUNK", chunk)
    loss = unigram(TRAIN, VALID, V)
    frequency = {w: plain_unigram(TRAIN, w, V) for w in range(V)}
    assert sum(frequency.values()) == pytest.approx(1)
    assert loss.tokens == len(VALID) - 1
    assert loss.nats == pytest.approx(-sum(math.log(frequency[w]) for w in VALID.tolist()[1:]), rel=1e-12)


def test_a_unigram_gives_unseen_tokens_a_probability(strange):
    train, tokens = strange
    assert set(tokens.tolist()) - set(train.tolist())
    plain = -sum(math.log(plain_unigram(train, w, 50_257)) for w in tokens.tolist()[1:])
    assert unigram(train, tokens, 50_257).nats == pytest.approx(plain, rel=1e-12)


# ---- bigram


@in_parts
def test_a_bigram_equals_its_formula_one_token_at_a_time(monkeypatch, chunk):
    monkeypatch.setattr(baselines, "CHUNK", chunk)
    loss = bigram(TRAIN, VALID, V)
    assert loss.tokens == len(VALID) - 1
    assert loss.nats == pytest.approx(plain_bigram_nats(TRAIN, VALID, V), rel=1e-12)


def test_a_bigram_of_a_large_vocabulary_needs_no_table_of_all_pairs(strange, vocab_size=50_257):
    train, tokens = strange
    loss = bigram(train, tokens, vocab_size)
    assert loss.nats == pytest.approx(plain_bigram_nats(train, tokens, vocab_size), rel=1e-12)


def test_the_probabilities_of_a_bigram_add_up_to_one():
    train = np.array([0, 1, 0, 2, 0, 1, 1, 3])
    for before in range(5):  # 3 has no successor, 4 was never seen
        losses = [bigram(train, np.array([before, after]), 5).nats for after in range(5)]
        assert sum(math.exp(-nats) for nats in losses) == pytest.approx(1, rel=1e-12)


def test_a_bigram_by_hand():
    """0 was followed twice, both times by 1, which is 3 of the 5 tokens."""
    train = np.array([1, 0, 1, 0, 1])
    probability = (2 + 1 * Fraction(3 + 1, 5 + 2)) / (2 + 1)
    assert bigram(train, np.array([0, 1]), 2).nats == pytest.approx(-math.log(probability))


def test_a_bigram_of_a_single_token_is_the_unigram():
    """Up to the order of a sum: one method adds pairs, the other tokens."""
    pairs, tokens = (loss(TRAIN[:1], VALID, V) for loss in (bigram, unigram))
    assert pairs.tokens == tokens.tokens and pairs.nats == pytest.approx(tokens.nats, rel=1e-12)


def test_a_bigram_is_better_than_a_unigram_and_that_than_a_guess():
    losses = [bigram(TRAIN, VALID, V), unigram(TRAIN, VALID, V), uniform(VALID, V)]
    assert losses == sorted(losses, key=lambda loss: loss.nats) and len({loss.tokens for loss in losses}) == 1


def test_the_baselines_read_a_memmap(tmp_path):
    for name, tokens in (("train", TRAIN), ("valid", VALID)):
        tokens.tofile(tmp_path / name)
    train, valid = (np.memmap(tmp_path / name, TRAIN.dtype, "r") for name in ("train", "valid"))
    assert unigram(train, valid, V) == unigram(TRAIN, VALID, V)
    assert bigram(train, valid, V) == bigram(TRAIN, VALID, V)
    xz = xz_bits_per_character
    assert xz(TOKENIZER, valid, train) == xz(TOKENIZER, VALID, TRAIN)


# ---- xz


def size(text: str) -> int:
    return len(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


class Watched:
    """Tokens that record the first position that was read."""

    def __init__(self, tokens: np.ndarray) -> None:
        self.tokens, self.first = tokens, len(tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, span: slice) -> np.ndarray:
        self.first = min(self.first, span.start)
        return self.tokens[span]


@in_parts
def test_xz_takes_what_the_whole_text_takes_more_than_the_training_text(monkeypatch, chunk):
    monkeypatch.setattr(baselines, "CHUNK", chunk)
    train, valid = TEXT[: len(TRAIN)], TEXT[len(TRAIN) :]
    assert xz_bits_per_character(TOKENIZER, TRAIN) == size(train) * 8 / len(train)
    assert xz_bits_per_character(TOKENIZER, VALID, TRAIN) == (size(TEXT) - size(train)) * 8 / len(valid)


def test_xz_reads_no_more_of_the_training_text_than_it_remembers(monkeypatch):
    monkeypatch.setattr(baselines, "CHUNK", 10)
    monkeypatch.setattr(baselines, "REMEMBERED", 95)
    read, valid = TEXT[len(TRAIN) - 100 : len(TRAIN)], TEXT[len(TRAIN) :]
    expected = (size(read + valid) - size(read)) * 8 / len(valid)
    long = Watched(TRAIN)
    assert xz_bits_per_character(TOKENIZER, VALID, long) == expected
    assert long.first == len(TRAIN) - 100


def test_what_xz_remembers_is_counted_in_bytes_and_not_in_tokens(monkeypatch):
    monkeypatch.setattr(baselines, "CHUNK", 1)
    monkeypatch.setattr(baselines, "REMEMBERED", 8)
    tokens = np.array([1, 2, 3, 4, 0, 0])  # "to be", then é of 2 bytes, and … of 3 with a line end
    assert baselines._end(Pieces(), tokens).tolist() == [2, 3, 4, 0, 0]


def test_what_xz_is_given_is_all_that_its_strongest_preset_remembers():
    """Its header names the size of its dictionary."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": baselines.REMEMBERED}]
    compress = functools.partial(lzma.compress, TEXT.encode())
    assert compress(filters=filters) == compress(preset=9 | lzma.PRESET_EXTREME)


@pytest.mark.programs
@pytest.mark.skipif(which("xz") is None, reason="there is no xz here")
def test_xz_is_the_programs(tmp_path):
    """The container ends with a checksum of 4 bytes here and of 8 there."""
    (tmp_path / "text").write_text(TEXT)
    command = ["xz", "-9e", "--threads=1", "--stdout", tmp_path / "text"]  # several threads write more headers
    program = subprocess.run(command, capture_output=True, check=True).stdout
    assert abs(xz_bits_per_character(TOKENIZER, TOKENS) * len(TEXT) / 8 - len(program)) <= 8


# ---- tokens that are not characters


@dataclass(frozen=True)
class Pieces:
    """A tokenizer whose tokens are 0 to 3 characters long, some of them several bytes."""

    pieces = ("", "to", " be", "é", "…\n")
    vocab_size = len(pieces)

    def stream(self, ids):
        return (self.pieces[i] for i in ids)


@in_parts
def test_bits_are_of_characters_and_not_of_tokens(monkeypatch, chunk):
    monkeypatch.setattr(baselines, "CHUNK", chunk)
    tokens = np.random.default_rng(2).integers(len(Pieces.pieces), size=400).astype(np.uint16)
    text = "".join(Pieces.pieces[i] for i in tokens)
    assert count_characters(Pieces(), tokens) == len(text) != len(tokens)
    loss = uniform(tokens, Pieces.vocab_size)
    assert loss.bits_per_character(len(text)) == pytest.approx(399 * math.log2(5) / len(text))
    assert xz_bits_per_character(Pieces(), tokens) == size(text) * 8 / len(text)
