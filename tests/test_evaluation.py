"""The promises of an evaluation: the same windows every time or every token once, no dropout, no trace left behind."""

import math
from itertools import pairwise
from types import SimpleNamespace

import mlx_nanogpt as gpt
import mlx.core as mx
import numpy as np
import pytest
from mlx_nanogpt import UserError, evaluation
from mlx_nanogpt import machine as hardware
from conftest import (
    TOKENS,
    arrays,
    both_forms,
    checkpoint_arrays,
    fully_prepared,
    lively_model,
    loss_fn,
    same,
    tiny_gpt,
    trained_run,
)
from mlx_nanogpt.evaluation import evaluate_split
from mlx_nanogpt.text.batches import consecutive_windows, evaluation_starts, windows

backends = pytest.mark.parametrize("backend", ["compiled", "eager"])


def plain_loop(model: gpt.GPT, tokens: np.ndarray, count: int) -> float:
    """The same windows, 100 at a time, one operation at a time."""
    block_size, total = model.config.block_size, 0.0
    starts = evaluation_starts(tokens, count, block_size)
    for group in (starts[i : i + 100] for i in range(0, count, 100)):
        total += loss_fn(model, *map(mx.array, windows(tokens, group, block_size))).item() * len(group)
    return total / count


@both_forms
@backends
@pytest.mark.parametrize("count", [1, 3, 257, 4200])
def test_an_evaluation_equals_a_plain_loop_over_its_windows(backend, count):
    model = lively_model(tiny_gpt())
    loss = gpt.estimate_loss(model, TOKENS, count, backend)
    assert loss == pytest.approx(plain_loop(model, TOKENS, count), rel=1e-5)


@backends
def test_an_evaluation_is_deterministic(backend):
    model = lively_model(tiny_gpt(dropout=0.5))
    mx.random.seed(1)
    first = gpt.estimate_loss(model, TOKENS, 50, backend)
    mx.random.seed(2)
    assert gpt.estimate_loss(model, TOKENS, 50, backend) == first


@backends
def test_an_evaluation_has_no_dropout(backend):
    with_dropout, without = lively_model(tiny_gpt(dropout=0.9)), lively_model(tiny_gpt())
    losses = [gpt.estimate_loss(model, TOKENS, 50, backend) for model in (with_dropout, without)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@backends
def test_an_evaluation_sees_the_weights_as_they_are_now(backend):
    model = lively_model(tiny_gpt())
    before = gpt.estimate_loss(model, TOKENS, 50, backend)
    model.update(lively_model(tiny_gpt(), seed=4).parameters())
    assert (
        gpt.estimate_loss(model, TOKENS, 50, backend)
        == pytest.approx(plain_loop(model, TOKENS, 50), rel=1e-5)
        != before
    )


@backends
@pytest.mark.parametrize("training", [True, False])
def test_an_evaluation_leaves_weights_randomness_and_mode_as_they_were(backend, training):
    model = lively_model(tiny_gpt(dropout=0.5))
    model.train(training)
    weights, randomness = arrays(model.parameters()), mx.random.state[0].tolist()
    gpt.estimate_loss(model, TOKENS, 50, backend)
    assert same(weights, arrays(model.parameters()))
    assert mx.random.state[0].tolist() == randomness
    assert {module.training for module in model.modules()} == {training}


def test_a_failed_evaluation_leaves_the_mode_as_it_was():
    model = lively_model(tiny_gpt())
    with pytest.raises(ValueError):
        gpt.estimate_loss(model, TOKENS[:3], 5, "eager")
    assert model.training


def test_how_often_a_run_is_evaluated_does_not_change_what_it_learns():
    often, once = trained_run(dropout=0.2, eval_interval=1), trained_run(dropout=0.2, eval_interval=8, eval_iters=9)
    assert same(checkpoint_arrays(often), checkpoint_arrays(once))


# ---- all of a split


def whole(model: gpt.GPT, tokens: np.ndarray) -> gpt.SplitLoss:
    *_, loss = evaluate_split(model, tokens)
    return loss


def plain_nats(model: gpt.GPT, tokens: np.ndarray) -> float:
    """One window after the other, one token's probability at a time, the softmax in NumPy's float64."""
    block_size, nats = model.config.block_size, 0.0
    for start in range(0, len(tokens) - 1, block_size):
        window = tokens[start : start + block_size + 1].astype(np.int32)
        logits = np.array(model(mx.array(window[None, :-1])))[0].astype(np.float64)  # (T, V)
        for row, target in zip(logits, window[1:]):
            nats -= row[target] - row.max() - math.log(np.exp(row - row.max()).sum())
    return nats


@fully_prepared
@pytest.mark.parametrize("length", [2, 3, 8, 9, 10, 17, 100, 1001])
def test_a_split_is_what_a_plain_loop_over_its_windows_adds_up_to(length):
    model = lively_model(tiny_gpt())
    loss = whole(model, TOKENS[:length])
    assert gpt.evaluate(model, TOKENS[:length]) == loss.mean
    assert loss.tokens == length - 1
    assert loss.nats == pytest.approx(plain_nats(model, TOKENS[:length]), rel=1e-5)
    assert loss.mean == pytest.approx(loss.nats / (length - 1))
    assert loss.perplexity == pytest.approx(math.exp(loss.mean))


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_every_token_but_the_first_is_a_target_once_and_follows_its_input(batch_size):
    for length in (*range(2, 30), 1000):
        targets = []
        for idx, following in consecutive_windows(np.arange(length), batch_size, 8):
            assert idx.shape == following.shape and idx.shape[0] <= batch_size and idx.shape[1] <= 8
            assert np.array_equal(idx + 1, following)
            targets += following.ravel().tolist()
        assert targets == list(range(1, length))


def test_the_loss_of_a_split_does_not_depend_on_streams_and_groups(monkeypatch):
    model, seen = lively_model(tiny_gpt()), []
    for count in (1, 2, 3):
        streams = tuple(mx.new_stream(mx.default_device()) for _ in range(count))
        for windows_per_batch in (1, 3, 12, 10**5):
            monkeypatch.setattr(type(hardware.machine()), "streams", lambda _: streams)
            monkeypatch.setattr(evaluation, "windows_per_batch", lambda model: windows_per_batch)
            seen.append(whole(model, TOKENS[:1001]))
    assert {loss.tokens for loss in seen} == {1000}
    assert max(loss.nats for loss in seen) - min(loss.nats for loss in seen) < 1e-6 * seen[0].nats


def test_an_untrained_model_has_the_logarithm_of_its_vocabulary_as_loss():
    model = lively_model(tiny_gpt())
    model.lm_head.update({name: mx.zeros_like(array) for name, array in model.lm_head.parameters().items()})
    loss = whole(model, TOKENS)
    assert loss.mean == pytest.approx(math.log(model.config.vocab_size), rel=1e-6)
    assert loss.perplexity == pytest.approx(model.config.vocab_size, rel=1e-5)


def test_the_records_of_a_split_grow_to_its_end(monkeypatch):
    monkeypatch.setattr(evaluation, "windows_per_batch", lambda model: 10)
    records = list(evaluate_split(lively_model(tiny_gpt()), TOKENS[:1001]))
    assert [record.tokens for record in records] == [*range(80, 1000, 80), 1000]
    assert all(a.nats < b.nats for a, b in pairwise(records))


def test_a_batch_holds_as_many_tokens_as_keep_the_device_busy_where_the_vocabulary_is_small(machine):
    def tokens(vocab_size: int) -> int:
        model = SimpleNamespace(config=tiny_gpt(vocab_size=vocab_size, block_size=1))
        return evaluation.windows_per_batch(model)

    assert [tokens(vocab_size) for vocab_size in (1, 65, 8192)] == [machine.eval_tokens] * 3
    assert tokens(50_257) == min(machine.eval_tokens, 2670)  # 512 MiB of logits


@pytest.mark.parametrize("count", [1, 64, 100])
def test_a_large_vocabulary_has_no_more_logits_in_a_batch_than_are_allowed(monkeypatch, count):
    class Watching(gpt.GPT):
        def __call__(self, idx):
            sizes.append(idx.size)
            return super().__call__(idx)

    sizes, model = [], Watching(tiny_gpt())
    expected = gpt.estimate_loss(model, TOKENS, count, "eager"), whole(model, TOKENS).nats
    sizes.clear()
    monkeypatch.setattr(evaluation, "LOGITS_PER_BATCH", 44 * model.config.vocab_size)
    found = gpt.estimate_loss(model, TOKENS, count, "eager"), whole(model, TOKENS).nats
    assert found == pytest.approx(expected, rel=1e-6) and max(sizes) <= 40 < sum(sizes)


class Watched(np.ndarray):
    """Tokens that record the longest slice that was read."""

    longest = 0

    def __getitem__(self, span: slice) -> np.ndarray:
        part = np.asarray(self)[span]
        Watched.longest = max(Watched.longest, len(part))
        return part


def test_a_memmap_is_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "windows_per_batch", lambda model: 10)
    TOKENS.tofile(tmp_path / "tokens.bin")
    mapped, model = np.memmap(tmp_path / "tokens.bin", TOKENS.dtype, "r"), lively_model(tiny_gpt())
    assert whole(model, mapped) == whole(model, TOKENS) == whole(model, mapped.view(Watched))
    assert Watched.longest == 81


def test_a_split_is_evaluated_without_dropout_and_without_a_trace():
    with_dropout, without = lively_model(tiny_gpt(dropout=0.9)), lively_model(tiny_gpt())
    weights, randomness = arrays(with_dropout.parameters()), mx.random.state[0].tolist()
    assert whole(with_dropout, TOKENS).nats == pytest.approx(whole(without, TOKENS).nats, rel=1e-6)
    assert same(weights, arrays(with_dropout.parameters())) and mx.random.state[0].tolist() == randomness
    assert with_dropout.training


def test_an_evaluation_that_is_given_up_leaves_the_mode_as_it_was(monkeypatch):
    monkeypatch.setattr(evaluation, "windows_per_batch", lambda model: 10)
    model = lively_model(tiny_gpt())
    records = evaluate_split(model, TOKENS)
    next(records)
    assert not model.training
    records.close()
    assert model.training


@pytest.mark.parametrize("length", [0, 1])
def test_a_split_without_a_token_to_predict_is_refused(length):
    with pytest.raises(UserError, match=rf"too few tokens \({length}\): .*; give one of at least 2"):
        whole(lively_model(tiny_gpt()), TOKENS[:length])


def test_a_loss_beyond_all_bounds_has_a_perplexity():
    assert gpt.SplitLoss(2, 4000.0).perplexity == math.inf
