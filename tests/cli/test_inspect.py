"""The promises of `mlx-gpt inspect`: it shows the text as it is, and its surprises as the library finds them."""

import mlx_nanogpt as gpt
import numpy as np
import pytest
from conftest import DATA, TEXT, TINY, byte_pairs, tiny_gpt, tiny_train
from helpers import is_a_sentence
from mlx_nanogpt.pages.inspection import Inspection, inspect
from mlx_nanogpt.text.tokenizer import token_pieces
from mlx_nanogpt_cli.commands.inspect import COLOURS, _colour


def test_it_shows_the_text_and_the_greatest_surprises(mlx_gpt, run):
    text = "to be or not, question\nthat is"
    result = mlx_gpt("inspect", "--prompt", text, "--surprises=3")
    assert result.status == 0 and text in result.out
    found = inspect(run.load_model(), run.tokenizer.encode(text), run.tokenizer.start_token)
    rows = [line.split("│")[1:-1] for line in result.out.splitlines() if line.startswith("│")]
    greatest = np.sort(found.surprise)[::-1][:3]
    assert [cells[0].strip() for cells in rows] == [f"{bits:.1f}" for bits in greatest]
    place = int(np.argmax(found.surprise))
    assert rows[0][2].strip() == f"“{text[place]}”".replace("\n", "⏎")
    likeliest = run.tokenizer.decode([found.expected[place, 0]]).replace("\n", "⏎")
    assert rows[0][3].strip().startswith(f"“{likeliest}” {found.probabilities[place, 0]:.0%}")
    assert f"{found.bits / len(text):.2f} bits a token, {found.bits / len(text):.2f} a character." in result.out


def test_without_a_text_it_takes_the_beginning_of_the_validation_split(mlx_gpt, run):
    result = mlx_gpt("inspect", "--surprises=0")
    assert result.status == 0 and DATA.tokenizer.decode(DATA.valid_tokens[:300]) in result.out
    assert "surprised it most" not in result.out


def test_an_export_needs_a_text(mlx_gpt):
    assert mlx_gpt("train", *TINY, "--tied", "--activation=gelu").status == 0
    assert mlx_gpt("export", "--out=exported").status == 0
    assert mlx_gpt("inspect", "--prompt=to be", "--init-from=exported").status == 0
    result = mlx_gpt("inspect", "--init-from=exported")
    assert is_a_sentence(result) and "give one with --prompt" in result.err


@pytest.mark.parametrize(
    "arguments, reason",
    [(["--prompt=to bé"], "the model has never seen 'é'"), (["--prompt="], "there is no token to inspect")],
)
def test_an_inspection_that_cannot_be_is_a_sentence(mlx_gpt, run, arguments, reason):
    result = mlx_gpt("inspect", *arguments)
    assert is_a_sentence(result) and reason in result.err


def test_the_pieces_of_byte_pairs_are_the_text():
    text = "to be: déjà vu 🙂 nobler"
    ids = byte_pairs().encode(text)
    pieces = token_pieces(byte_pairs(), ids)
    assert "".join(pieces) == text and len(pieces) == len(ids) and "" in pieces  # of bytes that are half a character


def test_more_bits_have_stronger_colours_and_a_text_commands_no_terminal():
    pieces = ["a", "b", "\x1b", "d", "e"]
    bits = np.array([0.9, 1.0, 3.9, 4.0, 20.0])
    text = _colour(pieces, Inspection(bits, np.zeros((5, 1), int), np.zeros((5, 1))))
    assert text.plain == "ab\\u001Bde"
    assert [str(span.style) for span in text.spans] == [COLOURS[1], COLOURS[2], COLOURS[4], COLOURS[8]]


def test_a_run_of_byte_pairs_is_inspected(mlx_gpt):
    data = gpt.tokenize(gpt.Corpus(("play.txt",), TEXT), byte_pairs())
    run = gpt.create_run(tiny_gpt(vocab_size=data.tokenizer.vocab_size), tiny_train(), data)
    assert list(gpt.train(run, data))
    result = mlx_gpt("inspect", "--prompt=to be or not", "--surprises=2")
    assert result.status == 0 and "\nto be or not\n" in result.out
    tokens = len(data.tokenizer.encode("to be or not"))
    bits = inspect(run.load_model(), data.tokenizer.encode("to be or not"), data.tokenizer.start_token).bits
    assert f"{bits / tokens:.2f} bits a token, {bits / 12:.2f} a character." in result.out
