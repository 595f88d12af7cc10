"""The promises of a run's snapshots: they show how a model learned, and training does not notice them."""

from itertools import islice

import mlx_nanogpt as gpt
import mlx.core as mx
import numpy as np
import pytest
from mlx_nanogpt import UserError
from conftest import DATA, arrays, asked, checkpoint_arrays, files_in, finish, same, tiny_run, tiny_train, trained_run
from mlx_nanogpt.runs import recorder as recorder_module
from mlx_nanogpt.runs.snapshots import snapshot_steps

STEPS = [0, 2, 5, 12]  # of four snapshots of twelve iterations
SETTINGS = {"num_iter": 12, "snapshots": 4}


def weights(model: gpt.GPT) -> dict[str, np.ndarray]:
    return arrays(model.parameters())


def snapshots_of(run: gpt.Run) -> dict[str, bytes]:
    return {name: (run.path / name).read_bytes() for name in files_in(run.path) if name.startswith("snapshot-")}


@pytest.mark.parametrize("num_iter, count, steps", [
    (5000, 0, []),
    (5000, 2, [0, 5000]),
    (10000, 5, [0, 10, 100, 1000, 10000]),
    (5000, 12, [0, 2, 5, 10, 22, 48, 104, 226, 490, 1063, 2305, 5000]),
    (3, 1000, [0, 1, 2, 3]),
    (1, 2, [0, 1]),
])  # fmt: skip
def test_snapshots_are_spread_evenly_over_the_logarithm_of_the_steps_and_none_is_kept_twice(num_iter, count, steps):
    assert snapshot_steps(tiny_train(num_iter=num_iter, snapshots=count)) == steps


def test_one_snapshot_is_refused():
    with pytest.raises(UserError, match="snapshots 1 is out of range; give 2 or more"):
        tiny_train(snapshots=1)


def test_the_first_is_the_untrained_model_and_the_last_the_trained_one_rounded_to_float16():
    run = trained_run(**SETTINGS)
    assert run.snapshots() == STEPS and len(snapshots_of(run)) == 4
    mx.random.seed(run.train_config.seed)
    expected = {0: gpt.GPT(run.gpt_config), 12: run.load_model(last=True)}
    for iteration, model in expected.items():
        rounded = {name: array.astype(np.float16).astype(np.float32) for name, array in weights(model).items()}
        assert same(weights(run.load_model(snapshot=iteration)), rounded)


def test_training_does_not_notice():
    run, undisturbed = trained_run(**SETTINGS, dropout=0.2), trained_run(num_iter=12, dropout=0.2)
    assert same(checkpoint_arrays(run), checkpoint_arrays(undisturbed))
    losses = [[(line.train_loss, line.valid_loss) for line in each.history()] for each in (run, undisturbed)]
    assert losses[0] == losses[1]


def test_each_is_a_record_once_it_is_on_the_disk():
    run, seen = tiny_run(**SETTINGS), []
    for record in gpt.train(run, DATA):
        if isinstance(record, gpt.Snapshot):
            seen.append(record.iteration)
            assert f"snapshot-{record.iteration:07}.safetensors" in snapshots_of(run)
    assert seen == STEPS


@pytest.mark.parametrize("calls", [1, 3, 6])
def test_a_run_that_was_stopped_and_resumed_has_the_same_snapshots(calls):
    run = tiny_run(**SETTINGS)
    finish(run, asked(calls))
    assert run.snapshots() == [step for step in STEPS if step <= run.position().iteration]
    finish(run)
    assert snapshots_of(run) == snapshots_of(trained_run(**SETTINGS))


def test_leaving_the_loop_at_a_snapshot_loses_none():
    for i in range(1, 8, 2):
        run = tiny_run(**SETTINGS)
        list(islice(gpt.train(run, DATA), i))
        finish(run)
        assert snapshots_of(run) == snapshots_of(trained_run(**SETTINGS))


def test_a_snapshot_of_a_step_that_a_kill_undid_does_not_count_and_is_written_again():
    run = trained_run(num_iter=4, snapshots=4)
    undone = run.path / "snapshot-0000012.safetensors"
    undone.write_bytes(b"of a step that is to come")
    (run.path / ".snapshot-0000005.safetensors.123.part").write_bytes(b"half")
    assert run.snapshots() == [0, 2, 3, 4]
    finish(longer := run.extended(num_iter=12))
    assert longer.snapshots() == [0, 2, 3, 4, 5, 12] and not list(run.path.glob(".snapshot*"))
    assert undone.read_bytes() == snapshots_of(trained_run(**SETTINGS))[undone.name]


def test_a_run_that_stops_early_keeps_its_end():
    run = tiny_run(num_iter=1000, eval_interval=4, target_loss=100.0, snapshots=3)
    finish(run)
    assert run.position().iteration == 4 and run.snapshots() == [0, 4]


def test_a_model_of_ones_own_has_snapshots_and_keeps_what_is_no_weight():
    def make() -> gpt.GPT:
        mx.random.seed(1)
        model = gpt.GPT(run.gpt_config)
        model.h[0].attn.counts = mx.arange(3) + 70_000
        model.h[0].attn.freeze(recurse=False, keys="counts")
        return model

    run = tiny_run(**SETTINGS)
    finish(run, model=make())
    loaded = run.load_model(into=make(), snapshot=5)
    assert loaded.h[0].attn.counts.tolist() == [70_000, 70_001, 70_002] and loaded.wte.weight.dtype == mx.float32


def test_what_is_not_there_or_damaged_is_a_sentence():
    run = trained_run(**SETTINGS)
    with pytest.raises(UserError, match="no snapshot of iteration 3; it has those of 0, 2, 5, 12"):
        run.load_model(snapshot=3)
    with pytest.raises(UserError, match="no snapshot of iteration 0; train a run with `snapshots`"):
        trained_run().load_model(snapshot=0)
    (run.path / "snapshot-3.safetensors").touch()  # another program's
    assert run.snapshots() == [0, 2, 5, 12]
    file = run.path / "snapshot-0000005.safetensors"
    raw = file.read_bytes()
    file.write_bytes(raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:])
    with pytest.raises(UserError, match=r"snapshot-0000005.safetensors is damaged.*; remove this file"):
        run.load_model(snapshot=5)
    run.load_model(snapshot=2)


def test_weights_that_are_no_numbers_are_never_kept():
    run = tiny_run(**SETTINGS, learning_rate=1.0, grad_clip=0.0)
    model = gpt.GPT(run.gpt_config)
    with pytest.raises(gpt.Diverged):
        for record in gpt.train(run, DATA, model=model):
            if record == gpt.Snapshot(2):
                model.wte.weight = mx.full(model.wte.weight.shape, mx.nan)
    assert list(snapshots_of(run)) == ["snapshot-0000000.safetensors", "snapshot-0000002.safetensors"]


def test_a_full_disk_leaves_the_checkpoint_and_says_so(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    run = tiny_run(**SETTINGS)
    finish(run, asked(3))
    monkeypatch.setattr(recorder_module, "write_snapshot", full)
    with pytest.raises(
        UserError, match=r"the snapshot of iteration 5 could not be written .*checkpoint before it is untouched"
    ):
        finish(run)
    assert run.position().iteration == 4
