"""The promise of several ranks: whatever their number, they train the model that one process would train."""

import functools
import json
from pathlib import Path
from types import SimpleNamespace

import mlx_nanogpt as gpt
import mlx.core as mx
import numpy as np
import pytest
from mlx_nanogpt import machine as hardware
from conftest import DATA, TEXT, arrays, finish, tiny_run, tiny_train
from mlx_nanogpt.distributed.joining import Launch, launched
from mlx_nanogpt.distributed.ranks import ALONE
from mlx_nanogpt.text.batches import training_batch
from ring import start_ring, trained_by_ring

# Two sums of the same numbers in another order differ by their rounding. Adam divides a gradient by its own size. So where a
# gradient is little more than rounding, so is its sign, and a step may go the other way. There are few such weights: the
# differences of all weights together are less than a thousandth of what the training changed. A wrong row in a batch, a sum in
# place of a mean or another mask changes more than a tenth. bfloat16 keeps 8 bits of a number, float32 24.
ROUNDING, BFLOAT_ROUNDING = 1e-3, 0.1

SETTINGS = {
    "block_size": 8, "n_layer": 2, "n_embd": 16, "head_size": 8, "num_iter": 8, "batch_size": 12, "eval_interval": 4,
    "eval_iters": 40, "seed": 5,
}  # fmt: skip
VARIANTS = {
    "default": {},
    "uneven": {"batch_size": 11, "n_layer": 11},
    "accumulated": {"batch_size": 7, "gradient_accumulation_steps": 3, "grad_clip": 0.05},
    "eager": {"backend": "eager", "weight_decay": 0.1, "lr_decay_iters": 8, "warmup_iters": 2},
    "dropout": {"dropout": 0.3, "batch_size": 11, "gradient_accumulation_steps": 2},
    "modern": {"norm": "rmsnorm", "position": "rope", "activation": "swiglu", "init": "zero", "optimizer": "muon"},
    "bfloat16": {"dtype": "bfloat16"},
    "stopped early": {"target_loss": 2.8, "num_iter": 100},
}  # fmt: skip
# A rank that waits for another keeps a core busy, so three of them are slow on two cores.
BY_THREE = ("dropout",)
each_training = pytest.mark.parametrize(
    "size, variant", [(2, name) for name in VARIANTS] + [(3, name) for name in BY_THREE]
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of each variant, by one process that computes as a Mac does."""
    folder, patched = tmp_path_factory.mktemp("alone"), pytest.MonkeyPatch()
    patched.setattr(hardware, "sys", SimpleNamespace(platform="darwin"))
    runs = {name: tiny_run(folder / name, **SETTINGS | more) for name, more in VARIANTS.items()}
    for run in runs.values():
        finish(run)
    patched.undo()
    return runs


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The run of a variant by a number of ranks that compute as a Mac does, and what each rank says of it."""

    @functools.cache
    def trained(size: int) -> dict:
        folder = tmp_path_factory.mktemp("together")
        names = VARIANTS if size == 2 else BY_THREE
        with pytest.MonkeyPatch.context() as patched:
            patched.chdir(folder)
            Path("play.txt").write_text(TEXT)
            trainings = [{"folder": name, "settings": SETTINGS | VARIANTS[name], "plain": True} for name in names]
            said = trained_by_ring(size, *trainings)
        return {name: (gpt.open_run(folder / name), [each[i] for each in said]) for i, name in enumerate(names)}

    return lambda size, variant: trained(size)[variant]


def difference(run: gpt.Run, other: gpt.Run) -> float:
    """The difference between the weights of two runs, in units of how far the first has moved them."""
    start = tiny_start(run)
    a, b = (arrays(each.load_model().parameters()) for each in (run, other))
    apart, moved = (sum(np.square(a[name] - to[name]).sum() for name in a) for to in (b, start))
    return float(np.sqrt(apart / moved))


def tiny_start(run: gpt.Run) -> dict[str, np.ndarray]:
    mx.random.seed(run.train_config.seed)
    return arrays(gpt.GPT(run.gpt_config).parameters())


# ---- the same model


@each_training
def test_several_ranks_train_the_model_of_one_process(alone, together, size, variant):
    run, _ = together(size, variant)
    limit = BFLOAT_ROUNDING if variant == "bfloat16" else ROUNDING
    assert difference(alone[variant], run) < limit
    for one, several in zip(alone[variant].history(), run.history(), strict=True):
        assert one.iteration == several.iteration and one.train_tokens == several.train_tokens
        assert several.valid_loss == pytest.approx(one.valid_loss, abs=limit / 10)


@each_training
def test_all_ranks_have_the_same_bits(together, size, variant):
    _, said = together(size, variant)
    assert len(said) == size and all(each == said[0] for each in said)


def test_an_evaluation_by_several_ranks_has_the_bits_of_one(together):
    run, _ = together(2, "default")
    last, count = run.history()[-1], run.train_config.eval_iters * run.train_config.batch_size
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(hardware, "sys", SimpleNamespace(platform="darwin"))
        evaluate = gpt.make_evaluate(run.load_model(), "compiled")
        assert (last.train_loss, last.valid_loss) == (
            evaluate(DATA.train_tokens, count),
            evaluate(DATA.valid_tokens, count),
        )


def test_another_batch_would_be_noticed(alone):
    run = tiny_run("other", **SETTINGS | {"seed": 6})
    finish(run)
    assert difference(alone["default"], run) > 0.1


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_the_shares_of_all_ranks_are_the_batch(ranks):
    def batch(**share):
        return training_batch(DATA.train_tokens, 1, 2, batch_size=7, block_size=4, batches=3, **share)[0]

    whole = batch().reshape(3, 7, 4)
    for rank in range(ranks):
        assert np.array_equal(batch(share=slice(rank, None, ranks)).reshape(3, -1, 4), whole[:, rank::ranks])


# ---- going on


def test_a_training_goes_on_with_any_number_of_ranks(tmp_path):
    settings = SETTINGS | {"dropout": 0.0}
    first = {"folder": "run", "settings": settings}
    trained_by_ring(2, first)
    run = gpt.open_run(Path("run"))
    assert run.position().iteration == 8
    finish(run.extended(num_iter=12))
    said = trained_by_ring(3, first | {"settings": {"num_iter": 16}, "resume": True})
    assert all(each[0] == said[0][0] for each in said) and said[0][0]["iteration"] == 16
    never_stopped = tiny_run("alone", **settings | {"num_iter": 16})
    finish(never_stopped)
    assert difference(never_stopped, gpt.open_run(Path("run"))) < ROUNDING


# ---- a process alone


def test_without_a_launcher_nothing_is_connected(monkeypatch):
    monkeypatch.delenv("MLX_RANK", raising=False)
    monkeypatch.setattr(mx.distributed, "init", None)
    assert launched() is None and ALONE.size == 1 and ALONE.is_first
    finish(tiny_run())


def test_a_batch_has_a_row_for_each_rank():
    class Seven(type(ALONE)):
        size = 7

        def __init__(self):
            pass

    assert Seven().own_part(tiny_train(batch_size=15)).batch_size == 3
    with pytest.raises(gpt.UserError, match="batch_size 6 has no row for each of 7 ranks; give a `batch_size` of 7"):
        Seven().own_part(tiny_train(batch_size=6))


# ---- what a launcher says


@pytest.fixture
def said(tmp_path):
    def in_files(**environment):
        for name, content in environment.items():
            if name in ("MLX_HOSTFILE", "MLX_IBV_DEVICES"):
                Path(name).write_text(content)
                environment[name] = name
        return environment

    return in_files


RING = json.dumps([["10.0.0.1:5000", "10.0.0.1:5001"], ["10.0.0.2:5002"]])


@pytest.mark.parametrize(
    "environment, backend",
    [
        ({"MLX_HOSTFILE": RING}, "ring"),
        ({"MLX_HOSTFILE": json.dumps(["10.0.0.1:5000", "10.0.0.2:5000"])}, "ring"),
        ({"MLX_IBV_DEVICES": "[[null, 1], [1, null]]", "MLX_JACCL_COORDINATOR": "10.0.0.1:5000"}, "jaccl"),
        ({"NCCL_HOST_IP": "10.0.0.1", "NCCL_PORT": "5000", "MLX_WORLD_SIZE": "2"}, "nccl"),
    ],
)
def test_the_environment_of_mlx_launch_is_understood(said, environment, backend):
    found = launched(said(MLX_RANK="1", **environment))
    assert found == Launch(1, 2, backend, ("10.0.0.1", 4999), found.name)


def test_a_launch_of_one_is_no_launch(said):
    assert launched(said(MLX_RANK="0", MLX_HOSTFILE="")) is None


@pytest.mark.parametrize(
    "environment",
    [{"MLX_RANK": "0"}, {"MLX_RANK": "2", "MLX_HOSTFILE": RING}, {"MLX_RANK": "x", "MLX_HOSTFILE": RING},
     {"MLX_RANK": "0", "MLX_HOSTFILE": "{}"}, {"MLX_RANK": "0", "MLX_HOSTFILE": '["a", "b"]'}],
)  # fmt: skip
def test_half_a_launch_is_an_error(said, environment):
    with pytest.raises(gpt.UserError, match="start all ranks with mlx-gpt launch, or unset MLX_RANK"):
        launched(said(**environment))


DRIFT = """
import sys
from contextlib import nullcontext
import mlx_nanogpt as gpt
import mlx.core as mx
from mlx_nanogpt.distributed.joining import joined

with joined({}, lambda verdict: None, nullcontext()) as ranks:
    mx.random.seed(1)
    model = gpt.GPT(gpt.GPTConfig(vocab_size=5, n_embd=8, head_size=8, n_layer=1))
    for factor in (1 + 1e-6, 1 + 1e-3, float("nan")):  # by rounding, by more, and by what no number says
        if ranks.rank == 1:
            model.lm_head.weight = model.lm_head.weight * factor
        try:
            ranks.check_same(model)
            print("same")
        except gpt.UserError as error:
            print(error)
"""


def test_ranks_whose_weights_went_apart_are_noticed():
    first, other = (result.out.splitlines() for result in start_ring([[], []], DRIFT).results())
    assert first == ["same"] * 3 and other[0] == "same"
    assert other[1].startswith(
        "the weights of rank 1 differ from those of rank 0 (lm_head.weight, by 1.0e-03 of the largest)"
    )
