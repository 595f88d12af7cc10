"""The promises of training: the compiled step is the plain one, the optimizer is Adam, a stop loses nothing."""

import itertools
import json
import math
from itertools import groupby
from types import SimpleNamespace

import mlx_nanogpt as gpt
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx_nanogpt import evaluation, training
from mlx_nanogpt import machine as hardware
from conftest import (
    ARCHITECTURES,
    DATA,
    MODERN,
    OTHER_SETTINGS,
    TEXT,
    TOKENIZER,
    arrays,
    asked,
    checkpoint_arrays,
    finish,
    frees_at_once,
    fully_prepared,
    lively_model,
    loss_fn,
    only_here,
    same,
    tiny_gpt,
    tiny_run,
    tiny_train,
    trained_run,
)
from mlx.utils import tree_flatten
from mlx_nanogpt.errors import DeviceFailed
from mlx_nanogpt.machine.linux_cpu import folding
from mlx_nanogpt.optimizer import Muon, orthogonal
from mlx_nanogpt.runs import recorder
from mlx_nanogpt.text.batches import training_batch
from mlx_nanogpt.training import check_fits


def losses(run: gpt.Run) -> list[tuple[int, float, float]]:
    return [(evaluation.iteration, evaluation.train_loss, evaluation.valid_loss) for evaluation in run.history()]


def batch(iteration: int = 0, size: int = 4) -> list[mx.array]:
    return [mx.array(part) for part in training_batch(DATA.train_tokens, 1, iteration, size, tiny_gpt().block_size)]


def make(backend: str, dropout: float = 0.0, learning_rate: float = 1e-3, optimizer: str = "adam", **architecture):
    """A model from seed 1 and its step."""
    mx.random.seed(1)
    model = gpt.GPT(tiny_gpt(dropout=dropout, **architecture))
    config = tiny_train(learning_rate=learning_rate, backend=backend, optimizer=optimizer)
    optimizer = gpt.make_optimizer(config)
    optimizer.init(model.trainable_parameters())
    return model, gpt.make_step(model, optimizer, config)


# ---- the step

MUON = MODERN | {"optimizer": "muon"}


@fully_prepared
@pytest.mark.parametrize(
    "recipe", [*ARCHITECTURES.values(), {"dropout": 0.3}, MUON], ids=[*ARCHITECTURES, "dropout", "muon"]
)
def test_compiled_equals_eager(recipe):
    losses = []
    for backend in ("compiled", "eager"):
        _, step = make(backend, **recipe)
        losses.append([step(*batch(i))[0].item() for i in range(4)])
    # a step of Muon has all singular values near 1, so it turns rounding of a small one into a large change
    np.testing.assert_allclose(*losses, rtol=1e-3 if recipe == MUON else 1e-4)
    assert len(set(losses[1])) == 4


def test_one_batch_can_be_overfitted():
    model, step = make("compiled", learning_rate=3e-2)
    for _ in range(60):
        loss, _ = step(*batch(size=2))
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


SHAPES = {"wide": (4, 6), "tall": (6, 4), "square": (4, 4)}


def matrices(seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Two matrices of each shape."""
    rng = np.random.default_rng(seed)
    return {f"{name}{i}": rng.normal(0, scale, shape) for name, shape in SHAPES.items() for i in range(2)}


def as_arrays(named: dict[str, np.ndarray]) -> dict[str, mx.array]:
    return {name: mx.array(matrix, mx.float32) for name, matrix in named.items()}


def newton_schulz(x: np.ndarray) -> np.ndarray:
    """Jordan's iteration, in float64."""
    y = x / np.linalg.norm(x)
    for _ in range(5):
        square = y @ y.T
        y = 3.4445 * y + (-4.7750 * square + 2.0315 * square @ square) @ y
    return y


def test_muon_is_that_of_its_formulas():
    weights, params = matrices(1), as_arrays(matrices(1))
    momenta = {name: np.zeros_like(matrix) for name, matrix in weights.items()}
    optimizer = Muon(0.1, weight_decay=0.3)
    for t in range(4):
        gradients = matrices(10 + t)
        params = optimizer.apply_gradients(as_arrays(gradients), params)
        for name, gradient in gradients.items():
            momenta[name] = 0.95 * momenta[name] + 0.05 * gradient
            step = newton_schulz(0.95 * momenta[name] + 0.05 * gradient)
            scale = math.sqrt(max(1, len(gradient) / len(gradient.T)))
            weights[name] = weights[name] * (1 - 0.1 * 0.3) - 0.1 * scale * step
            # the iteration multiplies rounding by 3.4445 five times, 500 in all
            np.testing.assert_allclose(np.array(params[name]), weights[name], atol=(t + 1) * 500 * 2**-24)


def test_muon_without_decay_is_mlx_s():
    ours, theirs = (as_arrays(matrices(1)) for _ in range(2))
    own, mlx = Muon(0.1, weight_decay=0.0), optim.Muon(0.1, weight_decay=0.0)
    for t in range(4):
        gradients = as_arrays(matrices(10 + t))
        ours, theirs = own.apply_gradients(gradients, ours), mlx.apply_gradients(gradients, theirs)
        for name in ours:
            assert mx.allclose(ours[name], theirs[name], atol=(t + 1) * 500 * 2**-24), name


def test_muon_turns_queries_keys_and_values_each_for_itself():
    weights, gradients = (np.random.default_rng(seed).normal(size=(12, 4)) for seed in range(2))
    together = Muon(0.1, weight_decay=0.3).apply_gradients(of_c_attn(gradients), of_c_attn(weights))
    apart = Muon(0.1, weight_decay=0.3).apply_gradients(*(as_arrays(thirds(all)) for all in (gradients, weights)))
    assert mx.allclose(together["c_attn"]["weight"], mx.concatenate(list(apart.values())), atol=500 * 2**-24)


def of_c_attn(matrix: np.ndarray) -> dict:
    return {"c_attn": as_arrays({"weight": matrix})}


def thirds(matrix: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip("qkv", np.split(matrix, 3)))


def test_a_step_of_muon_turns_all_directions_alike():
    values = np.linalg.svd(np.array(orthogonal(mx.random.normal((3, 8, 5), key=mx.random.key(1)))), compute_uv=False)
    assert values.shape == (3, 5) and (values > 0.6).all() and (values < 1.3).all()


def test_muon_moves_the_matrices_of_the_blocks_and_adam_the_rest():
    model, optimizer = gpt.GPT(tiny_gpt()), gpt.make_optimizer(tiny_train(optimizer="muon"))
    parameters = dict(tree_flatten(model.parameters()))
    optimizer.init(model.trainable_parameters())
    muons, adams = (
        {name.removesuffix(".v") for name, _ in tree_flatten(state)} & parameters.keys()
        for state in optimizer.state["states"]
    )
    assert muons == {name for name, p in parameters.items() if name.startswith("h.") and p.ndim == 2}
    assert adams == parameters.keys() - muons > {"wte.weight", "lm_head.weight", "h.0.ln_1.weight"}


@fully_prepared
@pytest.mark.parametrize("backend", ["compiled", "eager"])
def test_every_step_draws_a_dropout_mask_of_its_own(backend):
    _, still = make(backend, dropout=0.0, learning_rate=1e-30)  # no weight moves: only the mask can change the loss
    _, drops = make(backend, dropout=0.5, learning_rate=1e-30)
    assert len({still(*batch())[0].item() for _ in range(5)}) == 1
    assert len({drops(*batch())[0].item() for _ in range(5)}) == 5


@fully_prepared
@pytest.mark.parametrize("size", [1, 3, 4])
@pytest.mark.parametrize("backend", ["compiled", "eager"])
def test_a_step_follows_the_gradient_of_the_loss_over_the_whole_batch(backend, size):
    model, plain = make("eager")[0], make("eager")[0]
    descent = [optim.SGD(0.5) for _ in range(2)]  # not Adam, which hides the size of a gradient
    descent[0].init(model.trainable_parameters())
    step = gpt.make_step(model, descent[0], tiny_train(backend=backend))
    for i in range(3):
        loss, gradient = nn.value_and_grad(plain, loss_fn)(plain, *batch(i, size))
        descent[1].update(plain, gradient)
        assert step(*batch(i, size))[0].item() == pytest.approx(loss.item(), rel=1e-5)
    stepped, expected = arrays(model.parameters()), arrays(plain.parameters())
    for name in expected:
        np.testing.assert_allclose(stepped[name], expected[name], atol=1e-5, err_msg=name)


@fully_prepared
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

    monkeypatch.setattr(recorder, "GPT", Counting)
    monkeypatch.setattr(recorder.Run, "check_model", lambda *_: None)
    resumed = tiny_run(dropout=0.1)
    finish(resumed, asked(3))
    traces.clear()
    gpt.make_step(Counting(tiny_gpt()), optim.SGD(0.1), tiny_train())
    before = traces.count(True)  # what a machine asks of a model before it is traced
    once = traces_of(tiny_run(dropout=0.1, num_iter=1)) - before
    assert 0 < once == traces_of(tiny_run(dropout=0.1)) - before == traces_of(resumed) - before
    assert traces_of(tiny_run(**EVERYTHING)) - before == 2 * once  # each of two accumulated batches


@fully_prepared
@pytest.mark.parametrize("backend", ["compiled", "eager"])
def test_accumulated_batches_are_one_large_batch(backend):
    ends = {}
    for parts in (1, 4):
        config = tiny_train(backend=backend, batch_size=12 // parts, gradient_accumulation_steps=parts)
        mx.random.seed(1)
        model, optimizer = gpt.GPT(tiny_gpt()), optim.SGD(0.5)  # not Adam, which hides the size of a gradient
        optimizer.init(model.trainable_parameters())
        step = gpt.make_step(model, optimizer, config)
        losses = [step(*batch(i, size=12))[0].item() for i in range(3)]
        ends[parts] = (losses, arrays(model.parameters()))
    np.testing.assert_allclose(ends[1][0], ends[4][0], rtol=1e-5)
    for name, expected in ends[1][1].items():
        np.testing.assert_allclose(ends[4][1][name], expected, atol=1e-6, err_msg=name)


@fully_prepared
@frees_at_once
def test_accumulation_saves_memory():
    def peak(parts: int) -> int:
        config = gpt.TrainConfig(batch_size=64 // parts, gradient_accumulation_steps=parts)
        model = gpt.GPT(gpt.GPTConfig(n_layer=2))
        optimizer = gpt.make_optimizer(config)
        optimizer.init(model.trainable_parameters())
        mx.eval(model.state, optimizer.state)
        step, idx = gpt.make_step(model, optimizer, config), mx.zeros((64, 64), mx.int32)
        mx.clear_cache()
        mx.reset_peak_memory()
        mx.eval(step(idx, idx), model.state, optimizer.state)
        return mx.get_peak_memory()

    assert peak(8) < peak(1) / 2


def rates(updates: int = 30, **schedule) -> list[float]:
    """The optimizer's rate at each of the first updates."""
    optimizer, params = gpt.make_optimizer(tiny_train(**schedule)), {"w": mx.ones(2)}
    optimizer.init(params)
    found = []
    for _ in range(updates):
        optimizer.apply_gradients({"w": mx.ones(2)}, params)
        found.append(optimizer.learning_rate.item())
    return found


def test_the_rate_rises_and_falls_as_nanogpts():
    def nanogpt(it: int) -> float:
        if it < 5:
            return 1e-2 * (it + 1) / (5 + 1)
        if it > 20:
            return 1e-3
        return 1e-3 + 0.5 * (1 + math.cos(math.pi * (it - 5) / (20 - 5))) * (1e-2 - 1e-3)

    schedule = {"learning_rate": 1e-2, "warmup_iters": 5, "lr_decay_iters": 20, "min_lr": 1e-3}
    np.testing.assert_allclose(rates(**schedule), [nanogpt(it) for it in range(30)], rtol=1e-5)


def test_the_rate_may_rise_only_or_fall_only_or_stay():
    np.testing.assert_allclose(rates(learning_rate=1e-2), 1e-2, rtol=1e-6)
    rising = rates(learning_rate=1e-2, warmup_iters=9)
    np.testing.assert_allclose(rising[:10], np.arange(1, 11) * 1e-3, rtol=1e-5)
    np.testing.assert_allclose(rising[9:], 1e-2, rtol=1e-6)
    falling = rates(learning_rate=1e-2, lr_decay_iters=10)
    assert falling[0] == pytest.approx(1e-2) and falling == sorted(falling, reverse=True)
    np.testing.assert_allclose(falling[10:], 0, atol=1e-9)  # a device's float32 cosine of pi may be off by 2^-23


def test_the_rate_falls_by_its_schedule():
    settings = {"learning_rate": 1.0, "warmup_iters": 10, "lr_decay_iters": 110, "min_lr": 0.5}
    linear, wsd = (rates(150, schedule=schedule, **settings) for schedule in ("linear", "wsd"))
    for falling in (linear, wsd):
        np.testing.assert_allclose(falling[:10], (np.arange(10) + 1) / 11, rtol=1e-5)
        np.testing.assert_allclose(falling[110:], 0.5, rtol=1e-6)
    np.testing.assert_allclose(linear[10:110], 1 - 0.5 * np.arange(100) / 100, rtol=1e-5)
    np.testing.assert_allclose(wsd[10:90], 1.0, rtol=1e-6)
    np.testing.assert_allclose(wsd[90:110], 1 - 0.5 * np.arange(20) / 20, rtol=1e-5)


def test_muons_rate_changes_as_adams():
    settings = {"learning_rate": 0.01, "muon_lr": 0.05, "warmup_iters": 3, "lr_decay_iters": 9, "min_lr": 0.001}
    optimizer = gpt.make_optimizer(tiny_train(optimizer="muon", **settings))
    params = {"h": [{"w": mx.zeros((2, 2))}], "wte": mx.zeros((2, 2))}
    for _ in range(12):
        optimizer.apply_gradients(params, params)
        muon, adam = (part.learning_rate.item() for part in optimizer.optimizers)
        assert muon == pytest.approx(5 * adam, rel=1e-5)


def test_decay_shrinks_matrices_and_nothing_else():
    settings = {"learning_rate": 0.1, "beta1": 0.5, "beta2": 0.6}
    start = {"matrix": mx.full((2, 2), 3.0), "vector": mx.full((2,), 3.0)}
    gradient = {name: mx.full(array.shape, 0.2) for name, array in start.items()}
    plain = gpt.make_optimizer(tiny_train(**settings)).apply_gradients(gradient, start)
    decayed = gpt.make_optimizer(tiny_train(**settings, weight_decay=0.5)).apply_gradients(gradient, start)
    np.testing.assert_allclose(np.array(plain["vector"]), 3 - 0.1, rtol=1e-5)  # the first step of Adam is the rate
    np.testing.assert_array_equal(np.array(decayed["vector"]), np.array(plain["vector"]))
    np.testing.assert_allclose(np.array(decayed["matrix"]), 3 * (1 - 0.1 * 0.5) - 0.1, rtol=1e-5)


def test_the_betas_are_adams():
    optimizer = gpt.make_optimizer(tiny_train(beta1=0.5, beta2=0.75))
    optimizer.init({"w": mx.zeros(1)})
    optimizer.apply_gradients({"w": mx.array([2.0])}, {"w": mx.zeros(1)})
    assert (optimizer.state["w"]["m"].item(), optimizer.state["w"]["v"].item()) == (0.5 * 2, 0.25 * 4)


@fully_prepared
@pytest.mark.parametrize("parts", [1, 2])
def test_a_long_gradient_is_clipped_and_a_short_one_is_not(parts):
    """The limit applies to the gradient of all accumulated batches together; one alone would be longer."""

    def moved(clip: float) -> float:
        mx.random.seed(1)
        model, descent = gpt.GPT(tiny_gpt()), optim.SGD(1.0)
        before = arrays(model.parameters())
        descent.init(model.trainable_parameters())
        gpt.make_step(model, descent, tiny_train(grad_clip=clip, gradient_accumulation_steps=parts))(*batch())
        return math.sqrt(sum(((a - before[name]) ** 2).sum() for name, a in arrays(model.parameters()).items()))

    free = moved(0.0)
    assert moved(free / 10) == pytest.approx(free / 10, rel=1e-3)
    assert moved(free * 10) == pytest.approx(free, rel=1e-4)


@fully_prepared
def test_bfloat16_trains_float32_weights_to_nearly_the_same_loss():
    ends = {}
    for dtype in ("float32", "bfloat16"):  # at a rate of 1e-2 any rounding would grow and move the loss by 0.1
        run = tiny_run(num_iter=30, eval_interval=30, learning_rate=3e-3, dtype=dtype)
        finish(run)
        ends[dtype] = run.history()[-1].valid_loss
        assert {array.dtype for array in checkpoint_arrays(run).values()} <= {np.dtype(t) for t in ("f4", "u4", "u8")}
        # and evaluates them in float32
        plain = gpt.estimate_loss(run.load_model(), DATA.valid_tokens, 8, "eager")
        assert ends[dtype] == pytest.approx(plain, rel=1e-5)
    assert ends["bfloat16"] != ends["float32"] and ends["bfloat16"] == pytest.approx(ends["float32"], abs=0.1)


def test_the_matrices_of_a_bfloat16_step_are_bfloat16(monkeypatch):
    seen = set()

    class Watching(gpt.GPT):
        def __call__(self, idx):
            logits = super().__call__(idx)
            seen.add((self.wte.weight.dtype, logits.dtype))
            return logits

    model, optimizer = Watching(tiny_gpt()), optim.SGD(0.1)
    step = gpt.make_step(model, optimizer, tiny_train(dtype="bfloat16", backend="eager"))
    seen.clear()
    step(*batch())
    assert seen == {(mx.bfloat16, mx.bfloat16)} and model.wte.weight.dtype == mx.float32


# All that a step can do, but for the sizes and lengths of a tiny run.
LEFT_TINY = set(
    "block_size n_embd head_size num_iter batch_size seed backend eval_interval patience target_loss distill".split()
)
EVERYTHING = {name: value for name, value in OTHER_SETTINGS.items() if name not in LEFT_TINY}


# ---- the stream


@pytest.fixture
def validation_losses(monkeypatch):
    """Make the evaluations return the given validation losses."""

    def arrange(losses: list[float]) -> None:
        found = iter([loss for valid_loss in losses for loss in (1.0, valid_loss)])
        monkeypatch.setattr(training, "split_losses", lambda *_: [gpt.SplitLoss(1, next(found))])

    return arrange


def test_the_stream_has_every_evaluation_and_checkpoint_and_the_end():
    events = finish(tiny_run(num_iter=25, eval_interval=10))
    progress = [event for event in events if isinstance(event, gpt.Progress)]
    assert [event.iteration for event in progress] == [10, 20]
    assert all(0 < event.loss < 10 and event.tokens_per_second > 0 for event in progress)
    rest = [(type(event), event.iteration) for event in events if not isinstance(event, gpt.Progress)]
    stages = (gpt.Saved, gpt.Evaluating, gpt.Evaluation, gpt.Saved)
    rest = [event for event, _ in groupby(rest)]  # a slow evaluation reports its progress more than once
    assert rest == [*((stage, at) for at in (10, 20, 25) for stage in stages), (gpt.Done, 25)]


@pytest.mark.parametrize("eval_interval", [3, 10, 11])
def test_the_loss_is_reported_every_ten_steps_wherever_the_evaluations_fall(validation_losses, eval_interval):
    validation_losses([1.0] * 7)
    events = finish(tiny_run(num_iter=20, eval_interval=eval_interval))
    assert [event.iteration for event in events if isinstance(event, gpt.Progress)] == [10, 20]


def test_an_evaluation_reports_its_progress_and_finds_the_same(monkeypatch):
    monkeypatch.setattr(evaluation, "windows_per_batch", lambda model: 3)
    seldom, often = tiny_run(num_iter=4), tiny_run(num_iter=4)
    finish(seldom)
    monkeypatch.setattr(training, "REPORT_SECONDS", 0)
    reports = [event for event in finish(often) if isinstance(event, gpt.Evaluating)]
    assert [(event.windows, event.total) for event in reports] == [(n, 16) for n in (0, 3, 6, 8, 11, 14, 16)]
    assert losses(often) == losses(seldom) and same(checkpoint_arrays(often), checkpoint_arrays(seldom))


def test_an_evaluation_holds_the_work_and_its_seconds():
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
    history = trained_run(num_iter=40, eval_interval=20, learning_rate=1e-2).history()
    assert history[-1].valid_loss < history[0].valid_loss < math.log(tiny_gpt().vocab_size)


def test_a_text_that_does_not_fit_is_refused_before_anything_is_done():
    with pytest.raises(gpt.UserError, match="block_size 8 does not fit"):
        next(gpt.train(tiny_run(), gpt.tokenize(gpt.Corpus(("play.txt",), TEXT[:20]))))


def test_a_model_that_the_machine_cannot_hold_is_refused_with_what_to_lower(monkeypatch):
    monkeypatch.setattr(type(hardware.machine()), "memory", lambda _: 10**6)
    with pytest.raises(
        gpt.UserError, match="this machine has 0.0 GB for it; lower batch_size .4., block_size .8., n_layer"
    ):
        check_fits(tiny_gpt(n_embd=256), tiny_train(), DATA)
    check_fits(tiny_gpt(), tiny_train(), DATA)


def test_a_bfloat16_step_fits_where_a_float32_one_does_not(monkeypatch):
    monkeypatch.setattr(type(hardware.machine()), "memory", lambda _: 35 * 10**6)
    large = {"batch_size": 1024, "eval_iters": 1}
    check_fits(tiny_gpt(), tiny_train(dtype="bfloat16", **large), DATA)
    with pytest.raises(gpt.UserError, match="takes about 0.0 GB of memory"):
        check_fits(tiny_gpt(), tiny_train(**large), DATA)


def test_a_run_is_trained_by_one_process_at_a_time():
    run = tiny_run()
    first = gpt.train(run, DATA)
    next(first)
    with pytest.raises(gpt.UserError, match="in use by another process"):
        next(gpt.train(gpt.open_run(run.path), DATA))
    first.close()
    assert finish(run)[-1] == gpt.Done(8, "finished")


# ---- samples


def samples(events: list[gpt.Record]) -> list[gpt.Sample]:
    return [event for event in events if isinstance(event, gpt.Sample)]


def test_a_sample_follows_every_evaluation_and_is_in_the_log():
    run = tiny_run(num_iter=12)
    events = finish(run, sample_tokens=9)
    assert [(sample.iteration, len(sample.text)) for sample in samples(events)] == [(4, 9), (8, 9), (12, 9)]
    for i, event in enumerate(events):
        if isinstance(event, gpt.Sample):
            assert isinstance(events[i - 1], gpt.Evaluation) and isinstance(events[i + 1], gpt.Saved)
    assert samples(run.log()) == samples(events)
    assert samples(finish(tiny_run(num_iter=4))) == []


def test_a_sample_is_what_the_model_writes_by_then():
    run = tiny_run(num_iter=8)
    first, _ = samples(finish(run, sample_tokens=20))
    ids = gpt.generate(trained_run(num_iter=4).load_model(), [TOKENIZER.start_token], 20, run.train_config.seed)
    assert first.text == TOKENIZER.decode(list(ids))


@fully_prepared
@pytest.mark.parametrize("size", [0, 10**9])
def test_samples_change_nothing_of_a_run(monkeypatch, size):
    monkeypatch.setattr(folding, "SMALL_MODEL", size)  # generating in the live model, and in one of its own
    without, with_samples = trained_run(dropout=0.2), tiny_run(dropout=0.2)
    assert len(samples(finish(with_samples, sample_tokens=20))) == 2
    assert same(checkpoint_arrays(with_samples), checkpoint_arrays(without))
    assert losses(with_samples) == losses(without)


def test_the_seconds_of_a_sample_do_not_count_as_the_runs(monkeypatch):
    clock = [0.0]  # only sampling moves it
    monkeypatch.setattr(training.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(recorder, "generate", lambda *_: clock.append(clock.pop() + 5) or [0])
    run = tiny_run(num_iter=9)
    assert len(samples(finish(run, sample_tokens=1))) == 3 and clock == [15]
    assert all(evaluation.train_seconds == evaluation.eval_seconds == 0 for evaluation in run.history())


# ---- what computes


@fully_prepared
@only_here
def test_a_step_is_the_same_where_another_machine_computes(broadcasts, monkeypatch):
    """The plain model, as on a Mac, makes the same step from the same batch."""

    def weights_after_a_step() -> dict[str, np.ndarray]:
        model, idx = lively_model(tiny_gpt()), mx.arange(32).reshape(4, 8) % 10
        optimizer = gpt.make_optimizer(gpt.TrainConfig())
        optimizer.init(model.trainable_parameters())
        mx.eval(gpt.make_step(model, optimizer, tiny_train())(idx, (idx + 1) % 10), model.state)
        return arrays(model.parameters())

    here = weights_after_a_step()
    monkeypatch.setattr(hardware, "sys", SimpleNamespace(platform="darwin"))
    there = weights_after_a_step()
    # Adam's first step is as long as its learning rate in every direction, whatever the size of the gradient
    assert all(np.mean(np.abs(here[name] - there[name]) < 1e-5) > 0.99 for name in here)


# ---- a stop and what follows


@fully_prepared
def test_two_identical_runs_are_identical_bit_for_bit():
    first, second = trained_run(dropout=0.2), tiny_run(dropout=0.2)
    finish(second)
    assert same(checkpoint_arrays(first), checkpoint_arrays(second))
    assert not same(checkpoint_arrays(first), checkpoint_arrays(trained_run(dropout=0.2, seed=6)))


def test_the_order_of_the_windows_changes_what_is_learned():
    assert not same(checkpoint_arrays(trained_run()), checkpoint_arrays(trained_run(order="passes")))


@fully_prepared
@pytest.mark.parametrize(
    "times, stopped_at, backend",
    [(1, 0, "compiled"), (3, 2, "compiled"), (5, 4, "compiled"), (6, 4, "compiled"), (8, 6, "compiled"), (8, 6, "eager"),
     (10, 8, "compiled")],
    ids=["before-the-first-step", "in-the-first-interval", "before-an-evaluation", "after-an-evaluation",
         "in-a-later-interval", "in-a-later-interval-eager", "before-the-last-evaluation"],
)  # fmt: skip
def test_a_resumed_run_ends_with_exactly_the_weights_of_an_uninterrupted_one(times, stopped_at, backend):
    whole, parts = trained_run(dropout=0.2, backend=backend), tiny_run(dropout=0.2, backend=backend)
    assert finish(parts, asked(times))[-1] == gpt.Done(stopped_at, "interrupted")
    assert parts.position().iteration == stopped_at
    mx.random.seed(99)  # another process has another random state
    finish(gpt.open_run(parts.path))
    assert same(checkpoint_arrays(whole), checkpoint_arrays(parts))
    assert losses(whole) == losses(parts)
    assert sum(evaluation.train_tokens for evaluation in parts.history()) == 8 * 4 * 8


@pytest.mark.parametrize(
    "recipe", [ARCHITECTURES["modern-tied"], MUON, EVERYTHING], ids=["modern", "muon", "every option"]
)
def test_other_weights_and_other_states_of_the_optimizer_resume_bit_for_bit(recipe):
    changes = {"n_layer": 2, "num_iter": 4, "weight_decay": 0.1, "warmup_iters": 2, "lr_decay_iters": 4, **recipe}
    whole, parts = trained_run(**changes), tiny_run(**changes)
    finish(parts, asked(3))
    assert parts.position().iteration == 2
    mx.random.seed(99)
    finish(gpt.open_run(parts.path))
    assert same(checkpoint_arrays(whole), checkpoint_arrays(parts))


def test_an_extended_run_ends_with_exactly_the_weights_of_a_longer_one():
    run = trained_run(dropout=0.2, num_iter=6)
    finish(run.extended(num_iter=8))
    assert gpt.open_run(run.path).train_config.num_iter == 8
    assert same(checkpoint_arrays(run), checkpoint_arrays(trained_run(dropout=0.2)))


def test_a_stop_request_saves_what_was_done_since_the_last_evaluation():
    run = tiny_run()
    events = finish(run, asked(8))
    assert events[-2:] == [gpt.Saved(6, run.path), gpt.Done(6, "interrupted")]
    assert [evaluation.iteration for evaluation in run.history()] == [4]
    assert run.position().train_seconds > 0


def test_a_run_stopped_in_an_evaluation_repeats_it_and_ends_with_the_same_weights(monkeypatch):
    whole, parts, records = trained_run(dropout=0.2), tiny_run(dropout=0.2), []
    monkeypatch.setattr(training, "REPORT_SECONDS", 0.0)
    for record in gpt.train(parts, DATA, lambda: bool(records) and isinstance(records[-1], gpt.Evaluating)):
        records.append(record)
    assert records[-1] == gpt.Done(4, "interrupted") and parts.history() == []
    finish(gpt.open_run(parts.path))
    assert same(checkpoint_arrays(whole), checkpoint_arrays(parts)) and losses(whole) == losses(parts)


def test_a_stop_that_is_asked_for_once_stops():
    run, calls = tiny_run(), itertools.count(1)
    assert finish(run, lambda: next(calls) == 3)[-1] == gpt.Done(2, "interrupted")


def test_the_seconds_before_a_stop_count_after_it():
    run = tiny_run(num_iter=4)
    finish(run, asked(3))
    before = run.position().train_seconds
    finish(run)
    assert run.history()[0].train_seconds > before > 0


# ---- the best, and an early end


def test_the_best_weights_are_kept_beside_the_last(validation_losses):
    run, best = tiny_run(num_iter=12), tiny_run(num_iter=8)
    for trained in (run, best):
        validation_losses([3.0, 1.0, 2.0])
        finish(trained)
    assert same(arrays(run.load_model().parameters()), arrays(best.load_model(last=True).parameters()))
    assert not same(arrays(run.load_model(last=True).parameters()), arrays(run.load_model().parameters()))


def test_training_ends_at_the_target(validation_losses):
    validation_losses([3.0, 2.0, 1.9])
    run = tiny_run(num_iter=100, target_loss=2.0)
    assert finish(run)[-1] == gpt.Done(8, "at the target")
    assert finish(gpt.open_run(run.path)) == [gpt.Done(8, "at the target")]  # and stays so
    assert finish(run.extended(target_loss=1.9))[-1] == gpt.Done(12, "at the target")


def test_without_a_target_a_loss_of_zero_ends_nothing(validation_losses):
    validation_losses([0.0, 0.0])
    run = tiny_run()
    assert finish(run)[-1] == gpt.Done(8, "finished")


def test_a_run_whose_last_iteration_is_done_is_finished(validation_losses):
    """Also if patience ends there."""
    validation_losses([1.0, 2.0])
    run = tiny_run(patience=1)
    assert finish(run)[-1] == gpt.Done(8, "finished")


def test_training_ends_when_patience_does(validation_losses):
    validation_losses([3.0, 2.0, 2.5, 2.0, 1.0])
    run = tiny_run(num_iter=100, patience=2)
    assert finish(run)[-1] == gpt.Done(16, "out of patience")
    assert finish(gpt.open_run(run.path)) == [gpt.Done(16, "out of patience")]  # and stays so
    assert finish(run.extended(patience=0, num_iter=20))[-1] == gpt.Done(20, "finished")


# ---- a loss that is not finite


def test_the_seconds_of_an_interval_are_its_own(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(training.time, "perf_counter", lambda: float(next(clock)))
    events = finish(tiny_run(num_iter=20, eval_interval=10))
    first, second = (event.train_seconds for event in events if isinstance(event, gpt.Evaluation))
    assert first == second


def test_weights_that_are_not_finite_are_not_saved_when_a_run_is_stopped(monkeypatch):
    run = tiny_run()
    finish(run, asked(3))
    before = run.checkpoint.read_bytes()

    def make_bad_step(model, *_):
        def step(*_):
            model.wpe.weight = mx.full(model.wpe.weight.shape, math.nan)
            return mx.array(1.0), mx.array(1.0)

        return step

    monkeypatch.setattr(training, "make_step", make_bad_step)
    with pytest.raises(gpt.Diverged):
        finish(run, asked(3))
    assert run.checkpoint.read_bytes() == before


@pytest.fixture
def blow_up(monkeypatch):
    """Make the step of the given number return a loss that is not finite."""

    def arrange(at: int) -> None:
        count = iter(range(1, 1000))

        def make_bad_step(*args):
            step = gpt.make_step(*args)

            def bad(*batch):
                loss, norm = step(*batch)
                return loss * (math.nan if next(count) == at else 1), norm

            return bad

        monkeypatch.setattr(training, "make_step", make_bad_step)

    return arrange


@pytest.mark.parametrize("at, kept", [(3, "no checkpoint"), (5, "iteration 4 "), (14, "iteration 12 ")])
def test_a_loss_that_is_not_finite_stops_names_the_iteration_and_keeps_the_last_checkpoint(blow_up, at, kept):
    blow_up(at)
    run = tiny_run(num_iter=40)
    with pytest.raises(gpt.Diverged, match=f"not finite at iteration {at}, .*{kept}.*learning rate lower than 0.001"):
        finish(run)
    assert [evaluation.iteration for evaluation in run.history()] == list(range(4, at, 4))
    assert run.position().iteration == max(range(0, at, 4))
    if run.checkpoint.exists():
        assert all(np.isfinite(array).all() for array in arrays(run.load_model().parameters()).values())


def test_weights_that_are_not_finite_are_never_kept(monkeypatch):
    def make_bad_step(model, *_):
        def step(*batch):
            model.ln_f.weight = model.ln_f.weight * math.nan
            return mx.array(1.0), mx.array(1.0)  # the loss before this step's update

        return step

    monkeypatch.setattr(training, "make_step", make_bad_step)
    run = tiny_run()
    with pytest.raises(gpt.Diverged, match="iteration 4, .*no checkpoint"):
        finish(run)
    assert not run.checkpoint.exists()


# ---- a GPU


def test_arrays_that_a_step_cannot_use_are_given_back_after_each_evaluation_and_sample(monkeypatch):
    calls = []
    monkeypatch.setattr(mx, "clear_cache", lambda: calls.append(1))
    records = finish(tiny_run(), sample_tokens=3)
    kinds = [type(record) for record in records]
    assert len(calls) == kinds.count(gpt.Evaluation) + kinds.count(gpt.Sample) == 4


def test_a_gpu_that_fails_while_it_saves_is_no_fault_of_the_disk(monkeypatch):
    run, written = tiny_run(), recorder.write_arrays

    def fail_at_8(folder, name, parts, contents):
        if contents.position.iteration == 8:
            raise RuntimeError("[METAL] Command buffer execution failed: Internal Error (0000000e:Internal Error).")
        written(folder, name, parts, contents)

    monkeypatch.setattr(recorder, "write_arrays", fail_at_8)
    with pytest.raises(
        DeviceFailed, match="the GPU failed .*, so training stopped .the checkpoint of iteration 4 is kept"
    ):
        finish(run)
    assert run.position().iteration == 4
