"""Characters as tokens: nothing is lost, ids follow the code points unless a file says otherwise, and unknown characters are named."""

import random
from pathlib import Path

import numpy as np
import pytest
from mlx_nanogpt import CharTokenizer, UserError
from conftest import TEXT, byte_pairs
from mlx_nanogpt.text.tokenizer import encode_prompt, known_text, token_pieces, tokenizer_from_json
from mlx_nanogpt.text.tokenizer_files import store_tokens, tokenizer_of_folder


def random_text(seed: int) -> str:
    """Up to 300 characters from everywhere in Unicode but the surrogates, which are not text."""
    rng = random.Random(seed)
    planes = [range(0x80), range(0x80, 0xD800), range(0xE000, 0x110000)]
    return "".join(chr(rng.choice(rng.choice(planes))) for _ in range(rng.randint(1, 300)))


@pytest.mark.parametrize("text", ["", *map(random_text, range(20))])
def test_any_text_comes_back_whole(text):
    tokenizer = CharTokenizer.of(text or "ab")
    ids = tokenizer.encode(text)
    assert len(ids) == len(text) and tokenizer.decode(ids) == text


def test_ids_go_by_rank_of_code_point():
    tokenizer = CharTokenizer.of("Zebra 🦓\nà la carte")
    assert list(tokenizer.symbols) == sorted(set("Zebra 🦓\nà la carte"))
    assert tokenizer.encode(tokenizer.symbols).tolist() == list(range(tokenizer.vocab_size))


@pytest.mark.parametrize(
    "text, named",
    [
        ("b🦓z!c", "'!' 'z' '🦓'"), ("b\0", r"'\\x00'"), ("b~", "'~'"), ("b\U0010ffff", r"'\\U0010ffff'"), ("b\udcff", r"'\\udcff'"),
        ("".join(map(chr, range(1000, 2000))), " and 990 more;"),
    ],
    ids=["several", "below", "above", "last", "surrogate", "many"],
)  # fmt: skip
def test_unknown_characters_are_named_wherever_they_rank(text, named):
    with pytest.raises(UserError, match=f"never seen .*{named}"):
        CharTokenizer.of("bcd").encode(text)


@pytest.mark.parametrize(
    "text, skipped, replaced",
    [
        ("café", "caf", "cafe"),
        ("cafe\u0301 é", "cafe ", "cafe e"),  # a decomposed é is one character
        ("‘a’ — “b”", "a  b", "'a' - \"b\""),
        ("ﬁ a€a 🦓", "aa ", "f a a  "),  # what is known of a ligature's letters, or a space
        ("ace", "ace", "ace"),
    ],
)
def test_unknown_characters_are_left_out_or_replaced_by_the_nearest_known_ones(text, skipped, replaced):
    tokenizer = CharTokenizer.of("abcef '\"-")
    assert known_text(tokenizer, text, replace=True) == replaced
    assert known_text(tokenizer, text, replace=False).split() == skipped.split()
    for known in (skipped, replaced):
        assert not tokenizer.unknown(known)


def test_a_text_in_an_alphabet_without_a_space_loses_what_is_not_near():
    assert known_text(CharTokenizer.of("ACGT"), "ÄC€G", replace=True) == "ACG"


@pytest.mark.parametrize("vocab_size, dtype", [(2**16, np.uint16), (2**16 + 1, np.uint32)])
def test_ids_are_as_narrow_as_the_vocabulary_allows(vocab_size, dtype):
    text = "".join(map(chr, range(0xE000, 0xE000 + vocab_size)))
    ids = CharTokenizer.of(text).encode(text)
    assert ids.dtype == dtype and ids[-1] == vocab_size - 1


def test_characters_in_another_order_keep_it():
    tokenizer = CharTokenizer("zé🦓\na ")
    ids = tokenizer.encode("a🦓é z\n")
    assert ids.tolist() == [4, 2, 1, 5, 0, 3] and tokenizer.decode(ids) == "a🦓é z\n"
    Path("tokenizer.json").write_text(store_tokens(tokenizer).json)
    assert tokenizer_of_folder(Path()) == tokenizer


@pytest.mark.parametrize("make", [lambda: CharTokenizer.of(TEXT), lambda: CharTokenizer("zé🦓\na "), byte_pairs])
def test_a_tokenizer_comes_back_from_its_json(make):
    tokenizer = make()
    assert tokenizer_from_json(tokenizer.to_json()) == tokenizer != tokenizer_from_json('{"symbols": "a"}')


@pytest.mark.parametrize("known, other", [("é", "e\u0301"), ("e\u0301", "é")])
def test_a_prompt_is_read_in_the_form_of_unicode_that_the_model_knows(known, other):
    tokenizer = CharTokenizer.of(f"caf{known}")
    for prompt in (known, other):
        assert tokenizer.decode(encode_prompt(tokenizer, f"caf{prompt}")) == f"caf{known}"
    marking = CharTokenizer.of(f"\0caf{known}")
    assert marking.decode(encode_prompt(marking, f"caf{other}")) == f"\0caf{known}"  # the start of a document
    with pytest.raises(UserError, match=f"never seen .*'{other[-1]}' '♥'"):  # the prompt's own characters
        encode_prompt(tokenizer, f"♥{other}")


def test_the_pieces_of_tokens_are_their_texts_and_a_character_belongs_to_its_last_token():
    assert token_pieces(CharTokenizer("abc"), [2, 0]) == ["c", "a"]
    ids = byte_pairs().encode("to é")
    pieces = token_pieces(byte_pairs(), ids)
    assert len(pieces) == len(ids) and "".join(pieces) == "to é" and pieces[-2:] == ["", "é"]


@pytest.mark.parametrize("text, start", [("a\tb\n", "\n"), ("to be\n", "\n"), ("ACGT", "A")])
def test_an_empty_prompt_of_characters_starts_after_a_new_line_if_the_text_has_one(text, start):
    tokenizer = CharTokenizer.of(text)
    assert tokenizer.decode([tokenizer.start_token]) == start
