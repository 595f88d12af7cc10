"""The promises of training: the compiled step is the plain one, the optimizer is Adam, a stop loses nothing."""

import json
import math

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from conftest import TOKENS, arrays, asked, checkpoint_arrays, finish, same, tiny_gpt, tiny_run, tiny_train, trained_run

import mlx_nanogpt as gpt
from mlx_nanogpt import training
from mlx_nanogpt.data import training_batch


def batch(iteration: int = 0, size: int = 4) -> list[mx.array]:
    return [mx.array(part) for part in training_batch(TOKENS, 1, iteration, size, tiny_gpt().block_size)]


def make(backend: str, dropout: float = 0.0, learning_rate: float = 1e-3):
    """A model from seed 1 and its step."""
    mx.random.seed(1)
    model = gpt.GPT(tiny_gpt(dropout=dropout))
    optimizer = gpt.make_optimizer(tiny_train(learning_rate=learning_rate))
    optimizer.init(model.trainable_parameters())
    return model, gpt.make_step(model, optimizer, backend)


# ---- the step


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_compiled_equals_eager(dropout):
    losses = {}
    for backend in ("compiled", "eager"):
        model, step = make(backend, dropout)
        losses[backend] = [step(*batch(i)).item() for i in range(10)]
    np.testing.assert_allclose(losses["compiled"], losses["eager"], rtol=1e-4)
    assert len(set(losses["eager"])) == 10


@pytest.mark.parametrize("backend", ["compiled", "eager"])
def test_one_batch_can_be_overfitted(backend):
    model, step = make(backend, learning_rate=1e-2)
    for _ in range(150):
        loss = step(*batch(size=2))
        mx.eval(loss, model.state)
    assert loss.item() < 0.05


def test_the_optimizer_is_the_adam_of_the_paper():
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(5, 3))
    mean = square = np.zeros_like(weights)
    optimizer, params = gpt.make_optimizer(tiny_train(learning_rate=0.01)), {"w": mx.array(weights, mx.float32)}
    for t in range(1, 8):
        gradient = rng.normal(0, 10.0**-t, weights.shape)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        weights = weights - 0.01 * (mean / (1 - 0.9**t)) / (np.sqrt(square / (1 - 0.999**t)) + 1e-8)
        params = optimizer.apply_gradients({"w": mx.array(gradient, mx.float32)}, params)
        np.testing.assert_allclose(np.array(params["w"]), weights, atol=2e-6)


@pytest.mark.parametrize("backend", ["compiled", "eager"])
def test_every_step_draws_a_dropout_mask_of_its_own(backend):
    _, still = make(backend, dropout=0.0, learning_rate=1e-30)  # nothing moves: only the mask can change the loss
    _, drops = make(backend, dropout=0.5, learning_rate=1e-30)
    assert len({still(*batch()).item() for _ in range(5)}) == 1
    assert len({drops(*batch()).item() for _ in range(5)}) == 5


@pytest.mark.parametrize("size", [1, 3, 4])
@pytest.mark.parametrize("backend", ["compiled", "eager"])
def test_a_step_follows_the_gradient_of_the_loss_over_the_whole_batch(backend, size):
    model, plain = make("eager")[0], make("eager")[0]
    descent = [optim.SGD(0.5) for _ in range(2)]  # not Adam, which hides the size of a gradient
    descent[0].init(model.trainable_parameters())
    step = gpt.make_step(model, descent[0], backend)
    for i in range(3):
        loss, gradient = nn.value_and_grad(plain, gpt.loss_fn)(plain, *batch(i, size))
        descent[1].update(plain, gradient)
        assert step(*batch(i, size)).item() == pytest.approx(loss.item(), rel=1e-5)
    stepped, expected = arrays(model.parameters()), arrays(plain.parameters())
    for name in expected:
        np.testing.assert_allclose(stepped[name], expected[name], atol=1e-5, err_msg=name)


def test_a_step_is_traced_once_however_many_there_are(monkeypatch):
    traces = []

    class Counting(gpt.GPT):
        def __call__(self, idx):
            traces.append(self.training)
            return super().__call__(idx)

    def traces_of(run: gpt.Run) -> int:
        traces.clear()
        finish(run)
        return traces.count(True)

    monkeypatch.setattr(training, "GPT", Counting)
    resumed = tiny_run(dropout=0.1)
    finish(resumed, asked(3))
    once = traces_of(tiny_run(dropout=0.1, num_iter=1))
    assert 0 < once == traces_of(tiny_run(dropout=0.1)) == traces_of(resumed)


# ---- the stream


def test_the_stream_tells_of_every_evaluation_and_checkpoint_and_of_the_end():
    events = finish(tiny_run(num_iter=25, eval_interval=10))
    progress = [event for event in events if isinstance(event, gpt.Progress)]
    assert [event.iteration for event in progress] == [10, 20]
    assert all(0 < event.loss < 10 and event.train_seconds > 0 for event in progress)
    rest = [(type(event), event.iteration) for event in events if not isinstance(event, gpt.Progress)]
    stages = (gpt.Evaluating, gpt.Evaluation, gpt.Saved)
    assert rest == [*((stage, at) for at in (10, 20, 25) for stage in stages), (gpt.Done, 25)]


@pytest.mark.parametrize("eval_interval", [1, 3, 9, 10, 11])
def test_the_loss_is_told_every_ten_steps_wherever_the_evaluations_fall(eval_interval):
    events = finish(tiny_run(num_iter=30, eval_interval=eval_interval))
    assert [event.iteration for event in events if isinstance(event, gpt.Progress)] == [10, 20, 30]


def test_an_evaluation_says_what_was_done_and_how_long_it_took():
    run = tiny_run(num_iter=6, eval_interval=4)
    first, last = [event for event in finish(run) if isinstance(event, gpt.Evaluation)]
    assert (first.train_tokens, last.train_tokens) == (4 * 4 * 8, 2 * 4 * 8)  # steps x batch x block
    assert first.eval_tokens == last.eval_tokens == 2 * 4 * 8  # eval_iters x batch x block
    assert min(first.train_seconds, first.eval_seconds, last.train_seconds, last.eval_seconds) > 0
    assert (first.corpus, first.device) == ("play.txt", mx.default_device().type.name)
    assert [json.loads(line) for line in (run.path / "history.jsonl").read_text().splitlines()] == [
        vars(first),
        vars(last),
    ]


def test_training_learns():
    history = trained_run(num_iter=100, eval_interval=50, learning_rate=1e-2).history()
    assert history[-1].valid_loss < history[0].valid_loss < math.log(tiny_gpt().vocab_size)


def test_a_text_that_does_not_fit_is_refused_before_anything_is_done():
    with pytest.raises(gpt.UserError, match="block_size 8 does not fit"):
        next(gpt.train(tiny_run(), TOKENS[:20]))


# ---- stop and go on


@pytest.mark.parametrize("backend", ["compiled", "eager"])
def test_two_identical_runs_are_identical_bit_for_bit(backend):
    first, second = (trained_run(dropout=0.2, backend=backend) for _ in range(2))
    assert same(checkpoint_arrays(first), checkpoint_arrays(second))
    assert not same(checkpoint_arrays(first), checkpoint_arrays(trained_run(dropout=0.2, backend=backend, seed=6)))


@pytest.mark.parametrize("backend", ["compiled", "eager"])
@pytest.mark.parametrize(
    "times, stopped_at", [(1, 0), (3, 2), (5, 4), (6, 4), (8, 6), (10, 8)],
    ids=["before-the-first-step", "in-the-first-interval", "before-an-evaluation", "after-an-evaluation",
         "in-a-later-interval", "before-the-last-evaluation"],
)  # fmt: skip
def test_a_resumed_run_ends_with_exactly_the_weights_of_an_uninterrupted_one(times, stopped_at, backend):
    whole, parts = tiny_run(dropout=0.2, backend=backend), tiny_run(dropout=0.2, backend=backend)
    finish(whole)
    assert finish(parts, asked(times))[-1] == gpt.Done(stopped_at, interrupted=True)
    assert parts.position().iteration == stopped_at
    mx.random.seed(99)  # another process knows nothing of this one's random state
    finish(gpt.open_run(parts.path))
    assert same(checkpoint_arrays(whole), checkpoint_arrays(parts))
    losses = [[(each.iteration, each.train_loss, each.valid_loss) for each in run.history()] for run in (whole, parts)]
    assert losses[0] == losses[1]
    assert sum(each.train_tokens for each in parts.history()) == 8 * 4 * 8


def test_an_extended_run_ends_with_exactly_the_weights_of_a_longer_one():
    run = trained_run(dropout=0.2, num_iter=6)
    finish(run.extended(8))
    assert gpt.open_run(run.path).train.num_iter == 8
    assert same(checkpoint_arrays(run), checkpoint_arrays(trained_run(dropout=0.2)))


def test_a_stop_request_saves_what_was_done_since_the_last_evaluation():
    run = tiny_run()
    events = finish(run, asked(8))
    assert events[-2:] == [gpt.Saved(6), gpt.Done(6, interrupted=True)]
    assert [each.iteration for each in run.history()] == [4]
    assert run.position().train_seconds > 0


def test_the_seconds_before_a_stop_count_after_it():
    run = tiny_run(num_iter=4)
    finish(run, asked(3))
    before = run.position().train_seconds
    finish(run)
    assert run.history()[0].train_seconds > before > 0


# ---- a loss that is not finite


@pytest.fixture
def blow_up(monkeypatch):
    """Make the step of the given number lose its mind."""

    def arrange(at: int) -> None:
        def make_bad_step(*args):
            step, count = gpt.make_step(*args), iter(range(1, 1000))
            return lambda *batch: step(*batch) * (math.nan if next(count) == at else 1)

        monkeypatch.setattr(training, "make_step", make_bad_step)

    return arrange


@pytest.mark.parametrize("at, kept", [(3, "no checkpoint"), (5, "iteration 4 "), (14, "iteration 12 ")])
def test_a_loss_that_is_not_finite_stops_names_the_iteration_and_keeps_the_last_checkpoint(blow_up, at, kept):
    blow_up(at)
    run = tiny_run(num_iter=40)
    with pytest.raises(gpt.Diverged, match=f"not finite at iteration {at}, .*{kept}.*learning rate lower than 0.001"):
        finish(run)
    assert [each.iteration for each in run.history()] == list(range(4, at, 4))
    assert run.position().iteration == max(range(0, at, 4))
    if run.checkpoint.exists():
        assert all(np.isfinite(array).all() for array in arrays(run.load_model().parameters()).values())


def test_weights_that_are_not_finite_are_never_kept(monkeypatch):
    def make_bad_step(model, optimizer, backend):
        def step(*batch):
            model.ln_f.weight = model.ln_f.weight * math.nan
            return mx.array(1.0)  # the loss before this step's update

        return step

    monkeypatch.setattr(training, "make_step", make_bad_step)
    run = tiny_run()
    with pytest.raises(gpt.Diverged, match="iteration 4, .*no checkpoint"):
        finish(run)
    assert not run.checkpoint.exists()
