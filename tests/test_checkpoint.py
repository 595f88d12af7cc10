"""The promises of a run directory: it is complete, nothing overwrites it, and no accident makes it unreadable."""

import json
import os
import random
import shutil
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path

import mlx.core as mx
import pytest
from conftest import (
    CORPUS,
    DATA,
    TEXT,
    TINY,
    arrays,
    asked,
    checkpoint_arrays,
    finish,
    in_a_process,
    python,
    same,
    tiny_gpt,
)
from conftest import tiny_run, trained_run, worsened_run

import mlx_nanogpt as gpt
from mlx_nanogpt import UserError, newest_run, open_run

PARTS = ["best.safetensors", "checkpoint.safetensors", "config.json", "history.jsonl", "tokenizer.json"]


# ---- what it is


def test_a_run_directory_has_all_the_parts_and_no_others():
    run = trained_run()
    assert sorted(each.name for each in run.path.iterdir()) == PARTS


def test_a_run_says_which_text_and_which_versions_it_comes_from():
    config = json.loads((tiny_run().path / "config.json").read_text())
    assert config["corpus"] == asdict(CORPUS.identity) | {"sources": ["play.txt"]}
    assert config["corpus"]["characters"] == len(TEXT) and len(config["corpus"]["sha256"]) == 64
    assert config["versions"].keys() == {"mlx-nanogpt", "mlx"}


def test_a_run_that_is_opened_is_the_run_that_was_made():
    run = trained_run(dropout=0.1, learning_rate=0.02)
    assert open_run(run.path) == run


def test_a_loaded_model_is_the_model_that_was_trained():
    run = trained_run()
    loaded = {f"model.{name}": array for name, array in arrays(run.load_model().parameters()).items()}
    kept = checkpoint_arrays(run)
    assert same(loaded, {name: kept[name] for name in loaded})
    idx = mx.zeros((1, 8), mx.int32)
    assert mx.array_equal(run.load_model()(idx), open_run(run.path).load_model()(idx))


def test_a_run_knows_how_far_its_best_weights_were():
    assert tiny_run().position(best=True).iteration == 0
    run = worsened_run()
    best = min(run.history(), key=lambda each: each.valid_loss).iteration
    assert 0 < best < 8 and (run.position(best=True).iteration, run.position().iteration) == (best, 8)


# ---- it is never overwritten


def test_runs_are_numbered_and_a_new_one_never_overwrites_an_older_one():
    assert [tiny_run().path for _ in range(3)] == [Path("runs/1"), Path("runs/2"), Path("runs/3")]
    Path("runs/17").mkdir()
    Path("runs/notes").mkdir()
    assert tiny_run().path == Path("runs/18")


def test_a_directory_that_holds_a_run_is_refused():
    run = trained_run("mine")
    before = checkpoint_arrays(run)
    with pytest.raises(UserError, match="mine already holds a run; .*--resume mine"):
        tiny_run("mine")
    assert same(before, checkpoint_arrays(run))


def test_the_newest_run_is_the_one_whose_checkpoint_was_written_last():
    first, second = trained_run(), trained_run()
    tiny_run()  # never trained
    assert newest_run() == second
    os.utime(first.checkpoint, (time.time() + 10,) * 2)
    assert newest_run() == first


def test_without_a_run_there_is_a_hint():
    with pytest.raises(UserError, match="no trained run in .*; train one with mlx-gpt train"):
        newest_run()


@pytest.mark.parametrize("path", ["play.txt", "play.txt/run"])
def test_a_directory_that_cannot_be_made_is_refused(path):
    with pytest.raises(UserError, match=f"{path} cannot be written .*--run-dir"):
        tiny_run(path)


def test_a_file_in_the_place_of_the_runs_is_refused():
    Path("runs").write_text("a file")
    with pytest.raises(UserError, match="runs cannot be written .*--run-dir"):
        tiny_run()


# ---- accidents

FILL_THE_DISK = """
import resource, sys
from pathlib import Path
import mlx_nanogpt as gpt

run = gpt.open_run(Path(sys.argv[1]))
try:
    for event in gpt.train(run, gpt.tokenize(gpt.load_corpus("play.txt"))):
        if isinstance(event, gpt.Saved):  # from here on no file may grow beyond 4 KiB; Python ignores SIGXFSZ
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
except gpt.UserError as error:
    print(error)
"""


def test_a_disk_that_fills_up_while_saving_leaves_the_older_checkpoint():
    run, undisturbed = tiny_run(), trained_run(num_iter=4)
    message = python(FILL_THE_DISK, run.path)
    assert "could not be written at iteration 8" in message and "the checkpoint before it is untouched" in message
    assert sorted(each.name for each in run.path.iterdir()) == PARTS
    assert run.position().iteration == 4 and [each.iteration for each in run.history()] == [4]
    assert same(checkpoint_arrays(run), checkpoint_arrays(undisturbed))
    finish(run)  # there is room again
    assert same(checkpoint_arrays(run), checkpoint_arrays(trained_run()))


def test_a_kill_at_any_moment_leaves_the_last_checkpoint_readable():
    """An evaluation after every step, so that the kill is likely to fall into the writing of a file."""
    options, reached = [*TINY, "--num-iter=100000", "--eval-interval=1", "--dropout=0.1", "--run-dir=killed"], 0
    for command in (options, ["--resume=killed"], ["--resume=killed"]):
        with in_a_process("-m", "mlx_nanogpt_cli", "train", *command) as process:
            while (line := process.stdout.readline()) and line.split()[:1] != [str(reached + 1)]:
                pass  # until the first row of this process
            time.sleep(random.uniform(0.1, 0.3))
            process.kill()
            errors = process.communicate()[1]
        assert process.returncode == -signal.SIGKILL, errors
        run = open_run(Path("killed"))
        reached = run.position().iteration
        assert [each.iteration for each in run.history()] == list(range(1, reached + 1))
        run.load_model()
    finish(run.extended(num_iter=reached + 1))
    whole = trained_run(n_layer=1, num_iter=reached + 1, eval_interval=1000, eval_iters=1, seed=1337, dropout=0.1)
    assert same(checkpoint_arrays(run), checkpoint_arrays(whole))


def test_a_history_line_that_a_crash_left_without_its_checkpoint_is_dropped():
    run = tiny_run()
    finish(run, asked(6))
    ahead = replace(run.history()[-1], iteration=8, train_loss=0.0)
    with (run.path / "history.jsonl").open("a") as file:
        file.write(json.dumps(asdict(ahead)) + "\n")
    assert [each.iteration for each in run.history()] == [4]
    finish(run)
    assert [(each.iteration, each.train_loss > 0) for each in run.history()] == [(4, True), (8, True)]
    assert len((run.path / "history.jsonl").read_text().splitlines()) == 2


# ---- damage

DAMAGED_CHECKPOINTS = {
    "emptied": lambda raw: b"",
    "cut in its header": lambda raw: raw[:100],
    "cut in its weights": lambda raw: raw[: len(raw) // 2],
    "cut at its end": lambda raw: raw[:-1],
    "text": lambda raw: b"this is no checkpoint " * 100,
}


def refused(run: gpt.Run, match: str) -> None:
    """Neither sampling nor going on takes the checkpoint, and neither harms it."""
    before = run.checkpoint.read_bytes()
    for use in (run.load_model, lambda: finish(run)):
        with pytest.raises(UserError, match=match):
            use()
    assert run.checkpoint.read_bytes() == before


@pytest.mark.parametrize("damage", DAMAGED_CHECKPOINTS.values(), ids=DAMAGED_CHECKPOINTS)
def test_a_damaged_checkpoint_is_refused(damage):
    run = trained_run()
    run.checkpoint.write_bytes(damage(run.checkpoint.read_bytes()))
    refused(run, "checkpoint.safetensors is damaged, or was not written by this program")


@pytest.mark.parametrize("metadata", [{}, {"position": "{}"}, {"position": '{"iteration": 1}'}], ids=str)
def test_a_checkpoint_of_another_program_is_refused(metadata):
    run = trained_run()
    mx.save_safetensors(str(run.checkpoint), {"wte.weight": mx.zeros((3, 3))}, metadata)
    refused(run, "is damaged, or was not written by this program")


@pytest.mark.parametrize("other", [{"n_embd": 32}, {"n_layer": 1}, {"n_layer": 3}, {"block_size": 4}], ids=str)
def test_a_checkpoint_of_another_shape_is_refused(other):
    run, foreign = trained_run(), trained_run(**other)
    run.checkpoint.write_bytes(foreign.checkpoint.read_bytes())
    refused(run, "is damaged, or was not written by this program")


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"gpt": {"colour": 1}}', "\0"])
def test_a_run_with_a_damaged_description_is_refused(file, content):
    run = trained_run()
    (run.path / file).write_text(content)
    with pytest.raises(UserError, match="runs/1 is damaged, or was not written by this program"):
        open_run(run.path)


def test_a_run_without_its_tokenizer_is_refused():
    run = trained_run()
    (run.path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        open_run(run.path)


def test_a_tokenizer_of_another_run_is_refused():
    run = trained_run()
    (run.path / "tokenizer.json").write_text('{"symbols": "abc"}')
    with pytest.raises(UserError, match="has 3 symbols and the model"):
        open_run(run.path)


@pytest.mark.parametrize("name", ["tokenizer.json", "history.jsonl", "checkpoint.safetensors"])
def test_a_directory_that_holds_a_part_of_something_else_is_refused(name):
    Path("mine").mkdir()
    (Path("mine") / name).write_text("precious")
    with pytest.raises(UserError, match=f"mine holds a {name} of something else"):
        tiny_run("mine")
    assert (Path("mine") / name).read_text() == "precious"


def test_a_run_directory_that_vanishes_while_training_is_a_sentence():
    run = tiny_run()
    with pytest.raises(UserError, match="could not be written at iteration 4"):
        for event in gpt.train(run, DATA):
            if isinstance(event, gpt.Evaluating):
                shutil.rmtree(run.path)


def test_an_optimizer_of_another_shape_is_refused():
    run = trained_run()
    foreign = mx.load(str(run.checkpoint), return_metadata=True)
    arrays = {name: mx.zeros((3,)) if name.endswith("wte.weight.m") else array for name, array in foreign[0].items()}
    mx.save_safetensors(str(run.checkpoint), arrays, foreign[1])
    with pytest.raises(UserError, match="optimizer's state is of another shape"):
        finish(run.extended(num_iter=12))


@pytest.mark.parametrize("line", ["{", "[]", '{"iteration": 1}'])
def test_a_damaged_history_is_refused(line):
    run = trained_run()
    with (run.path / "history.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match="history.jsonl is damaged"):
        run.history()


@pytest.mark.parametrize("path", ["nowhere", "play.txt", "."])
def test_a_directory_without_a_run_is_refused(path):
    with pytest.raises(UserError, match="holds no run .*; train one with"):
        open_run(Path(path))


def test_a_run_without_a_checkpoint_says_how_to_get_one():
    with pytest.raises(UserError, match="no checkpoint yet .*--resume runs/1"):
        tiny_run().load_model()


def test_a_description_edited_to_something_impossible_is_refused():
    run = trained_run()
    config = json.loads((run.path / "config.json").read_text())
    config["gpt"]["head_size"] = 5
    (run.path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"head_size 5 does not divide n_embd {tiny_gpt().n_embd}"):
        open_run(run.path)
