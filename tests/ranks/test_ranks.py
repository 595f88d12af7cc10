"""The promise of several ranks: whatever their number, they train the model that one process would train."""

from pathlib import Path
from types import SimpleNamespace

import mlx_nanogpt as gpt
import mlx.core as mx
import numpy as np
import pytest
from mlx_nanogpt import machine as hardware
from conftest import DATA, arrays, finish, tiny_run, tiny_train
from mlx_nanogpt.ranks import ALONE, Ranks, is_rank, join
from mlx_nanogpt.text.batches import training_batch
from ring import start_ring, train_by_ring

# Two sums of the same numbers in another order differ by their rounding. Adam divides a gradient by its own size. So where a
# gradient is little more than rounding, so is its sign, and a step may go the other way. There are few such weights: the
# differences of all weights together are less than a thousandth of what the training changed. A wrong row in a batch, a sum in
# place of a mean or another mask changes more than a tenth. bfloat16 keeps 8 bits of a number, float32 24.
ROUNDING, BFLOAT_ROUNDING = 1e-3, 0.1

SETTINGS = {
    "block_size": 8, "n_layer": 1, "n_embd": 16, "head_size": 8, "num_iter": 4, "batch_size": 12, "eval_interval": 4,
    "eval_iters": 12, "seed": 5,
}  # fmt: skip
VARIANTS = {
    "stopped at a target": {"target_loss": 2.8, "num_iter": 100, "learning_rate": 0.02, "eval_interval": 2},
    "accumulated": {
        "batch_size": 7, "gradient_accumulation_steps": 3, "grad_clip": 0.05, "dropout": 0.3,
        "backend": "eager", "weight_decay": 0.1, "lr_decay_iters": 4, "warmup_iters": 2,
    },
    "modern": {
        "norm": "rmsnorm", "position": "rope", "activation": "swiglu", "init": "zero", "optimizer": "muon", "dropout": 0.3,
    },
    "bfloat16": {"dtype": "bfloat16"},
}  # fmt: skip


@pytest.fixture
def as_a_mac(monkeypatch):
    """This process computes as a Mac does, and evaluates small batches, so that ranks can share them."""
    monkeypatch.setattr(hardware.Machine, "eval_tokens", 512)
    monkeypatch.setattr(hardware, "sys", SimpleNamespace(platform="darwin"))


def difference(run: gpt.Run, other: gpt.Run) -> float:
    """Return the difference between the weights of two runs, in units of how far the first has moved them."""
    mx.random.seed(run.train_config.seed)
    start = arrays(gpt.GPT(run.gpt_config).parameters())
    a, b = (arrays(trained.load_model(last=True).parameters()) for trained in (run, other))
    apart, moved = (sum(np.square(a[name] - to[name]).sum() for name in a) for to in (b, start))
    return float(np.sqrt(apart / moved))


# ---- the same model


def test_several_ranks_train_the_model_of_one_process_and_continue_its_run(as_a_mac):
    alone = {name: tiny_run(f"alone/{name}", **SETTINGS | more) for name, more in VARIANTS.items()}
    continued = tiny_run("continued", **SETTINGS | VARIANTS["modern"])
    for run in (*alone.values(), continued):
        finish(run)
    runs = [{"folder": name, "settings": SETTINGS | more} for name, more in VARIANTS.items()]
    longer = {"folder": "continued", "settings": {"num_iter": 6}, "resume": True}
    stopped = {"folder": "stopped", "settings": SETTINGS | {"num_iter": 100}, "stopped_by": 1}
    for *_, more, stop in equal_records(train_by_ring(2, *runs, longer, stopped)):
        assert more["iteration"] == 6
        assert stop["end"] == "interrupted" and 0 < stop["iteration"] < 100  # one rank stops all
    for name, one in alone.items():
        check_equal(one, gpt.open_run(Path(name)), BFLOAT_ROUNDING if name == "bfloat16" else ROUNDING)
    several = gpt.open_run(Path("stopped at a target"))  # an evaluation by several ranks has the bits of one
    assert 2 < several.position().iteration < 100
    last, count = several.history()[-1], SETTINGS["eval_iters"] * several.train_config.batch_size
    for loss, tokens in ((last.train_loss, DATA.train_tokens), (last.valid_loss, DATA.valid_tokens)):
        assert loss == gpt.estimate_loss(several.load_model(), tokens, count)

    finish(gpt.open_run(continued.path).extended(num_iter=8))  # by one process again
    never_stopped = tiny_run("never-stopped", **SETTINGS | VARIANTS["modern"] | {"num_iter": 8})
    finish(never_stopped)
    assert difference(never_stopped, gpt.open_run(continued.path)) < ROUNDING


def equal_records(printed: list[list[dict]]) -> list[list[dict]]:
    """Return the records that every rank printed; assert that they have the same bits."""
    assert all(records == printed[0] for records in printed)
    return printed


def check_equal(one: gpt.Run, several: gpt.Run, limit: float = ROUNDING) -> None:
    """Assert that two runs are equal but for the rounding of sums."""
    assert difference(one, several) < limit, several.path
    for a, b in zip(one.history(), several.history(), strict=True):
        assert a.iteration == b.iteration and a.train_tokens == b.train_tokens
        assert b.valid_loss == pytest.approx(a.valid_loss, abs=limit / 10), several.path


def test_another_batch_would_be_noticed(as_a_mac):
    runs = [tiny_run(f"seed-{seed}", **SETTINGS | {"seed": seed}) for seed in (5, 6)]
    for run in runs:
        finish(run)
    assert difference(*runs) > 0.1


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_the_shares_of_all_ranks_are_the_batch(ranks):
    def batch(**share):
        return training_batch(DATA.train_tokens, 1, 2, batch_size=7, block_size=4, batches=3, **share)[0]

    whole = batch().reshape(3, 7, 4)
    for rank in range(ranks):
        assert np.array_equal(batch(share=slice(rank, None, ranks)).reshape(3, -1, 4), whole[:, rank::ranks])


# ---- a process alone


def test_without_a_launcher_nothing_is_connected(monkeypatch):
    monkeypatch.setattr(mx.distributed, "init", None)
    Path("empty").write_text("\n")  # as mlx.launch writes it for one rank
    for environment in ({}, {"MLX_RANK": "0", "MLX_HOSTFILE": "empty"}):
        assert not is_rank(environment)
    monkeypatch.delenv("MLX_RANK", raising=False)
    with join({}, lambda lost: None) as ranks:
        assert ranks is ALONE and ranks.size == 1 and ranks.is_first
    finish(tiny_run())


@pytest.mark.parametrize(
    "environment",
    [
        {"MLX_RANK": "0"},
        {"MLX_RANK": "2", "MLX_HOSTFILE": '[["127.0.0.1:1"], ["127.0.0.1:2"]]'},
        {"MLX_RANK": "x", "MLX_HOSTFILE": '[["127.0.0.1:1"], ["127.0.0.1:2"]]'},
        {"MLX_RANK": "0", "MLX_HOSTFILE": '["a", "b"]'},
    ],
)
def test_half_a_launch_is_an_error(monkeypatch, environment):
    for name, value in environment.items():
        if name == "MLX_HOSTFILE":
            Path("hosts.json").write_text(value)
        monkeypatch.setenv(name, "hosts.json" if name == "MLX_HOSTFILE" else value)
    with pytest.raises(gpt.UserError, match="start all ranks with mlx-gpt launch or mlx.launch, .* or unset MLX_RANK"):
        join({}, lambda lost: None).__enter__()


def test_a_batch_has_a_row_for_each_rank():
    seven = Ranks()
    seven.size = 7
    assert seven.own_part(tiny_train(batch_size=15)).batch_size == 3
    with pytest.raises(gpt.UserError, match="batch_size 6 has no row for each of 7 ranks; give a `batch_size` of 7"):
        seven.own_part(tiny_train(batch_size=6))


# ---- what has to be the same

COMPARE = """
import os
import mlx_nanogpt as gpt
import mlx.core as mx
from mlx_nanogpt import ranks as module
from mlx_nanogpt.ranks import join
from mlx_nanogpt.text.loss import SplitLoss

def attempt(function, *arguments):
    try:
        function(*arguments)
        print("same")
    except gpt.UserError as error:
        print(error)

is_other = os.environ["MLX_RANK"] == "1"
with join({"seed": "4"}, print) as ranks:
    mx.random.seed(1)
    model = gpt.GPT(gpt.GPTConfig(vocab_size=5, n_embd=8, head_size=8, n_layer=1))
    for factor in (1 + 1e-6, 1 + 1e-3, float("nan")):  # by rounding, by more, and by what is not a number
        if is_other:
            model.lm_head.weight = model.lm_head.weight * factor
        attempt(ranks.check_same, model)
    losses = [SplitLoss(1, 10.0 ** -i / 3) for i in range(7)]
    print(ranks.sum(losses[ranks.share]) == sum(losses, SplitLoss()))  # bit for bit
attempt(join({"seed": "4"} if is_other else {}, print).__enter__)
real = module.package_versions
module.package_versions = lambda: real() | {"mlx": "0.1" if is_other else "0.2"}
attempt(join({}, print).__enter__)
module.package_versions = real
machine = module.machine()
if is_other:
    machine.streams = lambda: (1, 2, 3)
module.machine = lambda: machine
attempt(join({}, print).__enter__)
"""


def test_what_differs_between_ranks_is_named_and_losses_are_added_in_the_order_of_one_process():
    first, other, third = (result.out.splitlines() for result in start_ring([[]] * 3, COMPARE).results())
    assert first == third
    assert first[:3] == ["same"] * 3 and other[0] == "same"
    assert "differ from those of rank 0 (lm_head.weight, by 1.0e-03 of the largest)" in other[1]
    assert "differ from those of rank 0 (lm_head.weight, by nan of the largest)" in other[2]
    assert first.pop(3) == other.pop(3) == "True"
    remedy = "start all ranks with the same options and versions, on machines of one kind"
    for lines, values in ((first, ("not given", "0.2")), (other, ("4", "0.1"))):
        for line, name, value in zip(lines[3:], ("seed", "mlx"), values):
            assert line.startswith("rank 1 (") and f") has another {name} than rank 0 (" in line
            assert line.endswith(f"(here it is {value}); {remedy}")
        assert ") has another kind of device than rank 0 (" in lines[5]
