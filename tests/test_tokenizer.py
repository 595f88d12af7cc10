"""The promises of the tokenizer: nothing is lost, ids go by rank of code point, strangers are named."""

import random

import numpy as np
import pytest

from mlx_nanogpt import CharTokenizer, UserError


def random_text(seed: int) -> str:
    """Up to 300 characters from everywhere in Unicode but the surrogates, which are no text."""
    rng = random.Random(seed)
    planes = [range(0x80), range(0x80, 0xD800), range(0xE000, 0x110000)]
    return "".join(chr(rng.choice(rng.choice(planes))) for _ in range(rng.randint(1, 300)))


@pytest.mark.parametrize("seed", range(20))
def test_any_text_comes_back_whole(seed):
    text = random_text(seed)
    tokenizer = CharTokenizer.of(text)
    ids = tokenizer.encode(text)
    assert len(ids) == len(text) and tokenizer.decode(ids) == text


def test_ids_go_by_rank_of_code_point():
    tokenizer = CharTokenizer.of("Zebra 🦓\nà la carte")
    assert list(tokenizer.symbols) == sorted(set("Zebra 🦓\nà la carte"))
    assert tokenizer.encode(tokenizer.symbols).tolist() == list(range(tokenizer.vocab_size))


def test_an_empty_text_has_no_ids():
    assert CharTokenizer("ab").encode("").tolist() == []


def test_strangers_are_named():
    with pytest.raises(UserError, match="'!' 'z' '🦓'"):
        CharTokenizer.of("abc").encode("ab🦓!z!")


@pytest.mark.parametrize("stranger", ["\0", "~", "\U0010ffff", "\udcff"])
def test_a_stranger_is_named_wherever_it_ranks(stranger):
    with pytest.raises(UserError) as error:
        CharTokenizer.of("bcd").encode(f"b{stranger}")
    assert repr(stranger) in str(error.value)


def test_of_many_strangers_only_some_are_listed():
    with pytest.raises(UserError, match=r" and 900 more;"):
        CharTokenizer("a").encode("".join(map(chr, range(1000, 2000))))


@pytest.mark.parametrize("vocab_size, dtype", [(2**16, np.uint16), (2**16 + 1, np.uint32)])
def test_ids_are_as_narrow_as_the_vocabulary_allows(vocab_size, dtype):
    text = "".join(map(chr, range(0xE000, 0xE000 + vocab_size)))
    ids = CharTokenizer.of(text).encode(text)
    assert ids.dtype == dtype and ids[-1] == vocab_size - 1
