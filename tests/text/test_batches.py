"""Batches: the split, targets one token later, and no input but the seed and the iteration."""

import numpy as np
import pytest
from mlx_nanogpt import Corpus, Dataset, UserError, tokenize
from conftest import TEXT, byte_pairs
from mlx_nanogpt.text.batches import evaluation_starts, training_batch, windows
from mlx_nanogpt.text.dataset import check_splits

COUNT = np.arange(100, dtype=np.uint16)  # the value of each token is its position


def dataset(length: int, **more) -> Dataset:
    """A text of `length` characters; up to 100, all are different."""
    text = "".join(chr(33 + i % 100) for i in range(length))
    return tokenize(Corpus(("text",), text), **more)


@pytest.mark.parametrize("length, options, train, valid", [
    (100, {}, 80, 20), (100, {"train_fraction": 0.9}, 90, 10), (1_115_394, {}, 892_315, 223_079),
])  # fmt: skip
def test_the_beginning_of_a_text_trains_and_the_rest_validates(length, options, train, valid):
    data = dataset(length, **options)
    assert (len(data.train_tokens), len(data.valid_tokens)) == (train, valid)
    assert data.train_tokens[:80].tolist() == list(range(80)) and data.valid_tokens[0] == train % 100


def test_a_text_is_split_before_it_is_encoded_and_byte_pairs_have_no_floor():
    corpus = Corpus(("text",), TEXT, floor=lambda start, stop: 1.0)
    data = tokenize(corpus, byte_pairs(), train_fraction=0.5)
    middle = len(TEXT) // 2
    assert byte_pairs().decode(data.train_tokens) == TEXT[:middle]
    assert byte_pairs().decode(data.valid_tokens) == TEXT[middle:]
    assert data.floor is None and tokenize(corpus).floor == 1.0


def test_targets_are_the_inputs_one_token_later():
    idx, targets = training_batch(COUNT, seed=1, iteration=2, batch_size=50, block_size=7)
    assert idx.shape == targets.shape == (50, 7)
    assert (targets == idx + 1).all() and (np.diff(idx.astype(int)) == 1).all()


def test_a_batch_depends_on_the_seed_and_the_iteration_alone():
    def batch(seed, iteration):
        return training_batch(COUNT, seed, iteration, batch_size=8, block_size=4)[0].tolist()

    first = batch(1, 0)
    others = [batch(1, 1), batch(2, 0), batch(0, 1)]
    np.random.seed(0)
    assert batch(1, 0) == first and first not in others


def test_windows_reach_both_ends_of_a_split_and_never_leave_it():
    idx, targets = training_batch(COUNT, seed=1, iteration=0, batch_size=5000, block_size=10)
    assert idx.min() == 0 and targets.max() == 99


def passes(length: int, block_size: int, size: int, iteration: int, seed: int = 1) -> np.ndarray:
    """The targets of a batch of `size` windows."""
    tokens = np.arange(length)
    return training_batch(tokens, seed, iteration, batch_size=size, block_size=block_size, order="passes")[1]


@pytest.mark.parametrize("length, block_size, size", [(997, 8, 123), (31, 10, 2), (11, 10, 1)])
def test_a_pass_reads_each_part_but_the_ends_once_and_the_next_one_others_in_another_order(length, block_size, size):
    whole = [passes(length, block_size, size, number) for number in range(20)]  # each pass is one batch
    for targets in whole:
        assert len(np.unique(targets)) == size * block_size > length - 1 - 2 * block_size
        assert 0 < targets.min() and targets.max() < length
    assert size == 1 or len({tuple(targets[:, 0].argsort()) for targets in whole}) > 1
    assert len({targets.min() for targets in whole}) > 1 or length == block_size + 1
    parts = [passes(length, block_size, 5, iteration) for iteration in range(4 * size)]  # some are of two passes
    assert (np.concatenate(parts) == np.concatenate(whole)).all()


def test_another_seed_passes_in_another_order():
    assert (passes(997, 8, 123, 0, seed=1) != passes(997, 8, 123, 0, seed=2)).any()


def test_the_windows_of_an_evaluation_are_the_same_every_time_and_stay_inside():
    starts = evaluation_starts(COUNT, 5000, block_size=10)
    assert (starts == evaluation_starts(COUNT, 5000, block_size=10)).all()
    assert windows(COUNT, starts, 10)[1].max() == 99


@pytest.mark.parametrize("length, block_size", [(100, 19), (10, 1)])
def test_a_text_that_just_fits_is_accepted(length, block_size):
    check_splits(dataset(length), block_size)
    training_batch(dataset(length).valid_tokens, seed=1, iteration=0, batch_size=8, block_size=block_size)


@pytest.mark.parametrize("length, block_size, reason", [
    (100, 20, "block_size 20 .* 100 tokens .* block_size of 19 or less"),
    *((length, 1, "use a longer text") for length in (1, 2, 5)),
])  # fmt: skip
def test_a_text_that_is_too_short_is_refused_with_the_remedy(length, block_size, reason):
    with pytest.raises(UserError, match=reason):
        check_splits(dataset(length), block_size)


@pytest.mark.parametrize("share", [slice(None), slice(1, None, 3)])
@pytest.mark.parametrize("order", ["random", "passes"])
def test_every_second_window_of_documents_begins_with_one(share, order):
    tokens, beginnings = np.arange(1000), np.array([0, 10, 500, 994])
    draw = lambda **more: training_batch(tokens, 1, 1, 60, block_size=8, batches=2, order=order, **more)[0][:, 0]
    whole = draw(beginnings=beginnings).reshape(2, 60)  # the first token of each window
    assert set(whole[:, 1::2].flat) == {0, 10, 500}  # not 994, whose window is cut
    if order == "random":
        assert (whole[:, ::2] == draw().reshape(2, 60)[:, ::2]).all()
    assert len(set(whole[:, ::2].flat)) > 40
    assert (draw(beginnings=beginnings, share=share) == whole[:, share].reshape(-1)).all()
