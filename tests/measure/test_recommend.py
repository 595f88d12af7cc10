"""The promises of a recommendation: models are tried within a tenth of the time, and a curve through their losses tells the best."""

from types import SimpleNamespace

import mlx_nanogpt as gpt
import pytest
from conftest import CORPUS, DATA
from mlx.utils import tree_flatten
from mlx_nanogpt.measure import recommend
from mlx_nanogpt.measure.length import Pace
from mlx_nanogpt.measure.recommend import MOST_PASSES, Candidate, excess, try_candidates

TINY_SIZE = {"n_layer": 1, "n_embd": 16, "head_size": 8, "block_size": 8, "batch_size": 4, "eval_iters": 1}
SIZES = (TINY_SIZE, TINY_SIZE | {"n_embd": 32})
TEXT = len(DATA.train_tokens)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(recommend, "SIZES", SIZES)
    monkeypatch.setattr(recommend, "FIRST_STEPS", 4)
    monkeypatch.setattr(recommend, "EVALUATED", (16, 64))


@pytest.fixture
def clock(monkeypatch):
    """A clock that a trial moves by a second for each of its steps, twice as much for a wider model."""
    now = SimpleNamespace(seconds=0.0, trials=[])

    def try_on(own: Candidate) -> None:
        step = own.gpt.n_embd / 16
        own.pace = Pace(step, 0.0, 0.0)
        own.seconds.append(own.next_steps * step)
        now.seconds += own.seconds[-1]
        own.steps += own.next_steps
        # the wide one learns more from a token, and the byte pairs less than the characters
        limit = 16 / own.gpt.n_embd + (own.kind == "bpe")
        own.points.append((own.steps * own.step_tokens, limit + excess(own.steps * own.step_tokens, TEXT)))
        now.trials.append((own.kind, own.gpt.n_embd, own.steps))

    monkeypatch.setattr(recommend.time, "perf_counter", lambda: now.seconds)
    monkeypatch.setattr(Candidate, "try_on", try_on)
    monkeypatch.setattr(Candidate, "measure_step", lambda own: own.gpt.n_embd / 16)
    return now


# ---- the curve


def test_a_token_that_is_read_again_counts_less_each_time():
    fresh, twice, often = (excess(passes * TEXT, TEXT) for passes in (1, 2, 16))
    assert excess(TEXT, 10 * TEXT) == fresh  # as long as each is read once, the text does not count
    assert excess(2 * TEXT, 10 * TEXT) < twice < fresh and often < twice
    assert excess(1000 * TEXT, TEXT) == pytest.approx(excess(16.4 * TEXT, 10**9), rel=1e-6)  # the most that it is worth


def test_losses_on_the_curve_are_continued_along_it():
    own = Candidate("char", DATA, TINY_SIZE)
    own.pace = Pace(step=1.0, evaluation=0.0, once=0.0)
    own.points = [(tokens, 1.25 + 40 * excess(tokens, TEXT)) for tokens in (10, 320, 640)]
    assert own.predict(100) == pytest.approx(1.25 + 40 * excess(100 * own.step_tokens, TEXT))


def test_a_run_ends_when_it_has_read_the_text_often_enough():
    own = Candidate("char", DATA, TINY_SIZE)
    own.pace, own.points = Pace(step=0.5, evaluation=1.0, once=2.0), [(100, 3.0), (200, 2.0)]
    steps = MOST_PASSES * TEXT // own.step_tokens
    assert own.steps_within(1e9) == steps and own.passes(1e9) == pytest.approx(MOST_PASSES, rel=0.01)
    assert own.ends_early(1e9) and not own.ends_early(20)
    assert own.predict(1e9) == own.predict(2e9)
    assert own.steps_within(20) == 34


def test_a_prediction_is_a_number_of_bits_whatever_the_losses_were():
    own = Candidate("char", DATA, TINY_SIZE)
    own.pace, own.points = Pace(step=0.5, evaluation=1.0, once=2.0), [(100, 1.0), (200, 0.1)]
    assert own.predict(1e9) == 0.0  # not less
    own.points = [(10**8, 3.0), (10**9, 2.5)]  # a text of which no further pass counts
    assert own.predict(1e9) == 2.5


def test_nothing_is_predicted_back_to_before_the_last_trial():
    own = Candidate("char", DATA, TINY_SIZE)
    own.pace, own.steps = Pace(step=0.5, evaluation=1.0, once=2.0), 20 * MOST_PASSES * TEXT // 32
    own.points = [
        (own.steps * 32 // 3, 3.0),
        (own.steps * 32, 2.5),
    ]  # of a short text, which was read too often already
    assert own.predict(1e9) == 2.5 and own.steps_within(1e9) == own.steps
    assert own.steps_within(0.1) == 1  # a run has a step, whatever its evaluations take


# ---- a trial


def test_a_step_is_measured_without_a_change_to_the_weights():
    own = Candidate("char", DATA, TINY_SIZE)
    own.start()
    before = dict(tree_flatten(own.model.parameters()))
    assert own.measure_step() > 0 and own.steps == 0
    assert all((before[name] == array).all().item() for name, array in tree_flatten(own.model.parameters()))


def test_a_trial_trains_to_the_end_of_the_rate_and_measures():
    own = Candidate("char", DATA, TINY_SIZE)
    own.start()
    for steps in (4, 12, 36):
        own.try_on()
        assert own.steps == steps and own.points[-1][0] == steps * 4 * 8
        assert 0 < own.optimizer.optimizers[0].learning_rate.item() < 0.2 * own.train.muon_lr  # it has fallen
    assert own.points[-1][1] < own.points[0][1] and min(own.pace.step, own.pace.evaluation) > 0


def test_the_compiled_step_follows_the_rate(monkeypatch):
    own = Candidate("char", DATA, TINY_SIZE)
    own.start()
    own.try_on()
    monkeypatch.setattr(
        Candidate, "_set_rate", lambda own, _: [setattr(one, "learning_rate", 0.0) for one in own.optimizer.optimizers]
    )
    before = dict(tree_flatten(own.model.parameters()))
    own.try_on()
    assert all((before[name] == array).all().item() for name, array in tree_flatten(own.model.parameters()))


# ---- the choice


def test_all_are_tried_twice_and_the_most_promising_one_longest(clock):
    tried = list(try_candidates({"char": DATA, "bpe": DATA}, 3000))
    assert clock.trials[:8] == [
        ("char", 16, 4), ("char", 16, 12), ("bpe", 16, 4), ("bpe", 16, 12),
        ("char", 32, 4), ("char", 32, 12), ("bpe", 32, 4), ("bpe", 32, 12),
    ]  # fmt: skip
    assert clock.trials[8] == ("char", 32, 36)
    assert min(set(tried), key=lambda own: own.predict(3000)).gpt.n_embd == 32
    assert clock.seconds <= 0.1 * 3000 and [(own.kind, own.gpt.n_embd) for own in tried] == [
        trial[:2] for trial in clock.trials
    ]


def test_no_trial_is_longer_than_the_run_would_be(clock):
    steps = MOST_PASSES * TEXT // 32
    list(try_candidates({"char": DATA}, 10**6))
    assert {width: max(steps for _, own, steps in clock.trials if own == width) for width in (16, 32)} == {
        16: 972, 32: 972,
    }  # fmt: skip
    assert 972 <= steps < 3 * 972


def test_the_better_tokens_come_first_where_time_is_short(clock):
    list(try_candidates({"bpe": DATA, "char": DATA}, 900))
    assert next(kind for kind, width, _ in clock.trials if width == 32) == "char" and clock.seconds <= 90


def test_a_model_that_would_take_too_long_is_not_tried(clock):
    assert {own.gpt.n_embd for own in try_candidates({"char": DATA}, 300)} == {16}
    assert clock.seconds <= 30


def test_too_little_time_is_a_sentence(clock):
    with pytest.raises(
        gpt.UserError,
        match="0.8 minutes are too short to try models: 12 steps of the smallest take 12 s; give `minutes` 3 or more",
    ):
        list(try_candidates({"char": DATA}, 48))


def test_a_text_too_short_for_larger_models_gets_the_smaller_ones(clock, monkeypatch):
    monkeypatch.setattr(recommend, "SIZES", (TINY_SIZE, TINY_SIZE | {"block_size": len(DATA.valid_tokens)}))
    assert {own.gpt.block_size for own in try_candidates({"char": DATA}, 3000)} == {8}
    monkeypatch.setattr(recommend, "SIZES", SIZES)
    short = gpt.tokenize(gpt.Corpus(("short.txt",), CORPUS.text[:40]))
    with pytest.raises(gpt.UserError, match="block_size 8 does not fit the text"):
        list(try_candidates({"char": short}, 3000))
