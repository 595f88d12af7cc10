"""The promises of a run directory: it is complete, nothing overwrites it, and no accident makes it unreadable."""

import errno
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import time
import tracemalloc
import warnings
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import combinations, islice
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import mlx_nanogpt as gpt
import mlx.core as mx
import pytest
from mlx_nanogpt import UserError, newest_run, open_run
from conftest import (
    CORPUS,
    DATA,
    TEXT,
    TINY,
    WAIT,
    arrays,
    asked,
    checkpoint_arrays,
    files_in,
    finish,
    fully_prepared,
    in_a_process,
    python,
    same,
    tiny_run,
    trained_run,
    worsened_run,
)
from mlx_nanogpt.records import State
from mlx_nanogpt.runs import checkpoint as checkpoint_module
from mlx_nanogpt.runs import recorder as recorder_module
from mlx_nanogpt.runs import run as run_module
from mlx_nanogpt.runs.find import named_run
from mlx_nanogpt.runs.recorder import Recorder, load_checkpoint

PARTS = ["best.safetensors", "checkpoint.safetensors", "config.json", "history.jsonl", "log.jsonl", "tokenizer.json"]


def contents(path: Path) -> dict[str, bytes]:
    return {name: (path / name).read_bytes() for name in files_in(path)}


def iterations(run: gpt.Run) -> list[int]:
    return [evaluation.iteration for evaluation in run.history()]


# ---- what it is


def test_a_run_directory_has_all_the_parts_and_no_others(run):
    assert sorted(contents(run.path)) == PARTS


def test_a_run_holds_the_identity_of_its_text_and_the_versions():
    config = json.loads((tiny_run().path / "config.json").read_text())
    assert config["corpus"] == asdict(CORPUS.identity) | {"sources": ["play.txt"], "valid": []}
    assert config["corpus"]["characters"] == len(TEXT) and len(config["corpus"]["sha256"]) == 64
    assert config["versions"].keys() == {"mlx-nanogpt", "mlx"}


def test_a_run_that_is_opened_is_the_run_that_was_made():
    run = tiny_run(dropout=0.1, learning_rate=0.02)
    finish(run)
    assert open_run(run.path) == run


def test_a_loaded_model_is_the_model_that_was_trained(run):
    loaded = {f"model.{name}": array for name, array in arrays(run.load_model().parameters()).items()}
    kept = checkpoint_arrays(run)
    assert same(loaded, {name: kept[name] for name in loaded})
    idx = mx.zeros((1, 8), mx.int32)
    assert mx.array_equal(run.load_model()(idx), open_run(run.path).load_model()(idx))


def test_a_run_knows_the_iteration_of_its_best_weights():
    assert tiny_run().position(best=True).iteration == 0
    run = worsened_run()
    best = min(run.history(), key=lambda evaluation: evaluation.valid_loss).iteration
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
    with pytest.raises(UserError, match="mine already holds a run; .*`resume` mine"):
        tiny_run("mine")
    assert same(before, checkpoint_arrays(run))


def test_the_newest_run_is_the_one_whose_checkpoint_was_written_last():
    runs = trained_run(), trained_run()
    tiny_run()  # never trained
    for seconds, run in enumerate((*runs, *runs), start=1):
        os.utime(run.checkpoint, (time.time() + seconds,) * 2)
        assert newest_run() == run


def test_without_a_run_there_is_a_hint():
    with pytest.raises(UserError, match="no trained run in .*; train one first"):
        newest_run()


@pytest.mark.parametrize("path", ["play.txt", "play.txt/run", None])
def test_a_directory_that_cannot_be_made_is_refused(path):
    Path("runs").write_text("a file")
    with pytest.raises(UserError, match=f"{path or 'runs'} cannot be written .*`run_dir`"):
        tiny_run(path)


def train_until_saved(run: gpt.Run):
    """The records after the checkpoint of the first evaluation."""
    records = gpt.train(run, DATA)
    while not isinstance(next(records), gpt.Evaluation):
        pass
    assert isinstance(next(records), gpt.Saved)
    return records


def test_a_run_that_is_moved_while_it_trains_continues_where_it_is_and_touches_no_new_run():
    run, undisturbed = tiny_run("mine"), trained_run()
    records = train_until_saved(run)
    run.path.rename("moved")
    other = trained_run("mine", seed=6)
    before = contents(other.path)
    *_, saved, done = records
    assert (saved, done) == (gpt.Saved(8, Path("moved").absolute()), gpt.Done(8, "finished"))
    assert contents(other.path) == before and open_run(other.path) == other
    models = (trained.load_model() for trained in (open_run(saved.path), undisturbed))
    assert same(*(arrays(model.parameters()) for model in models))


def test_a_run_that_is_deleted_while_it_trains_touches_no_new_run():
    run = tiny_run("mine")
    records = train_until_saved(run)
    shutil.rmtree(run.path)
    other = trained_run("mine", seed=6)
    before = contents(other.path)
    with pytest.raises(UserError, match="checkpoint of iteration 8 could not be written: mine was deleted"):
        list(records)
    assert contents(other.path) == before


def test_a_directory_that_holds_another_run_by_now_is_not_trained_in():
    run = tiny_run("mine")
    run.path.rename("moved")
    other = tiny_run("mine", seed=6)
    with pytest.raises(UserError, match="mine holds another run by now"):
        finish(run)
    assert not other.checkpoint.exists()


def test_a_run_that_is_being_trained_is_not_changed_by_another_process(run):
    with Recorder(run):
        before = contents(run.path)
        with pytest.raises(UserError, match="runs/1 is in use by another process"):
            finish(run.extended(num_iter=12))
        assert contents(run.path) == before


CREATE = """
import sys, time
import mlx_nanogpt as gpt
from pathlib import Path
data = gpt.tokenize(gpt.load_corpus("play.txt"))
config = gpt.GPTConfig(data.tokenizer.vocab_size)
sys.stdin.readline()
try:
    for i in range(20):
        gpt.create_run(config, gpt.TrainConfig(seed=int(sys.argv[1])), data, Path(f"new/{i}"))
        print(i)
except gpt.UserError as error:
    sys.exit(str(error))
"""


def test_of_two_processes_that_make_the_same_run_one_is_refused_and_changes_nothing():
    both = [in_a_process("-c", CREATE, seed, stdin=subprocess.PIPE) for seed in (1, 2)]
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    ended = [(*process.communicate(timeout=WAIT), process.returncode) for process in both]
    assert any(status for *_, status in ended)
    made = {seed: out.split() for seed, (out, _, _) in zip((1, 2), ended)}
    for number in {*made[1], *made[2]}:
        assert open_run(Path("new") / number).train_config.seed == (1 if number in made[1] else 2)
    assert not {*made[1]} & {*made[2]}
    for _, errors, status in ended:
        assert not status or re.search("already holds a run|in use by another process", errors)


@pytest.mark.parametrize("init_from", [None, "another"])
def test_a_run_whose_making_was_stopped_is_made_again(init_from):
    whole = tiny_run("whole")
    stopped = gpt.create_run(whole.gpt_config, whole.train_config, DATA, Path("mine"), init_from)
    if init_from is None:  # otherwise everything but the weights exists
        (stopped.path / "tokenizer.json").unlink()
    again = tiny_run("mine")
    finish(again)
    assert again.position().iteration == 8


def test_half_written_files_of_killed_processes_are_removed_by_the_next_one():
    run = tiny_run()
    for name in PARTS:
        (run.path / f".{name}.123.part").write_text("half")
    (run.path / ".notes.123.part").write_text("somebody's own")
    finish(run)
    assert sorted(contents(run.path)) == [".notes.123.part", *PARTS]


def test_rights_of_files_survive():
    run = tiny_run()
    finish(run, asked(6))
    for name in PARTS:
        (run.path / name).chmod(0o600)
    finish(run.extended(num_iter=12))
    assert {oct((run.path / name).stat().st_mode & 0o777) for name in PARTS} == {"0o600"}


# ---- accidents

FILL_THE_DISK = """
import resource, sys
from pathlib import Path
import mlx_nanogpt as gpt
from mlx_nanogpt.runs import recorder

def write_to_a_full_disk(*arguments):  # no file may grow beyond 4 KiB, not even Metal's cache, so no sooner
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))  # Python ignores SIGXFSZ
    write(*arguments)

run, write = gpt.open_run(Path(sys.argv[1])), recorder.write_arrays
try:
    for event in gpt.train(run, gpt.tokenize(gpt.load_corpus("play.txt"))):
        if isinstance(event, gpt.Evaluation):
            recorder.write_arrays = write_to_a_full_disk
except gpt.UserError as error:
    print(error)
"""


@fully_prepared
def test_a_disk_that_fills_up_while_saving_leaves_the_older_checkpoint():
    run, undisturbed = tiny_run(), trained_run(num_iter=4)
    message = python(FILL_THE_DISK, run.path)
    assert (
        "the checkpoint of iteration 8 could not be written" in message
        and "the checkpoint before it is untouched" in message
    )
    assert sorted(contents(run.path)) == PARTS
    assert run.position().iteration == 4 and iterations(run) == [4]
    assert same(checkpoint_arrays(run), checkpoint_arrays(undisturbed))
    finish(run)  # there is room again
    assert same(checkpoint_arrays(run), checkpoint_arrays(trained_run()))


@fully_prepared
@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_the_last_checkpoint_readable():
    """An evaluation after every step, so that the kill is likely to fall into the writing of a file."""
    options, reached = [*TINY, "--num-iter=100000", "--eval-interval=1", "--dropout=0.1", "--run-dir=killed"], 0
    for command in (options, ["--resume=killed"]):
        with in_a_process("-m", "mlx_nanogpt_cli", "train", *command) as process:
            while (line := process.stdout.readline()) and line.split()[:1] != [str(reached + 1)]:
                pass  # until the first row of this process
            time.sleep(random.uniform(0, 0.1))
            process.kill()
            errors = process.communicate()[1]
        assert process.returncode == -signal.SIGKILL, errors
        run = open_run(Path("killed"))
        reached = run.position().iteration
        evaluated = iterations(run)  # the last checkpoint may come before its evaluation
        assert evaluated == list(range(1, len(evaluated) + 1)) and reached - len(evaluated) in (0, 1)
        run.load_model(last=True)
    finish(run.extended(num_iter=reached + 1))
    whole = trained_run(n_layer=1, num_iter=reached + 1, eval_interval=1000, eval_iters=1, seed=1337, dropout=0.1)
    assert same(checkpoint_arrays(run), checkpoint_arrays(whole))


def test_a_kill_in_an_evaluation_loses_no_step_and_changes_nothing():
    run = tiny_run(dropout=0.1)
    records = gpt.train(run, DATA)
    while not isinstance(next(records), gpt.Evaluating):
        pass
    records.close()  # as a kill would end it: nothing more is written
    assert run.position().iteration == 4 and iterations(run) == []
    finish(run)
    assert iterations(run) == [4, 8]
    assert same(checkpoint_arrays(run), checkpoint_arrays(trained_run(dropout=0.1)))


def test_a_history_line_that_a_crash_left_without_its_checkpoint_is_dropped():
    run = tiny_run()
    finish(run, asked(6))
    ahead = replace(run.history()[-1], iteration=8, train_loss=0.0)
    with (run.path / "history.jsonl").open("a") as file:
        file.write(json.dumps(asdict(ahead)) + "\n")
    assert iterations(run) == [4]
    finish(run)
    assert iterations(run) == [4, 8] and all(evaluation.train_loss > 0 for evaluation in run.history())
    assert len((run.path / "history.jsonl").read_text().splitlines()) == 2


# ---- damage

DAMAGED_CHECKPOINTS = {
    "emptied": lambda raw: b"",
    "cut in its header": lambda raw: raw[:100],
    "cut in its weights": lambda raw: raw[: len(raw) // 2],
    "cut at its end": lambda raw: raw[:-1],
    "text": lambda raw: b"this is not a checkpoint " * 100,
}


def check_refused(run: gpt.Run, match: str) -> None:
    """Assert that generating and resuming refuse the checkpoint and leave it as it is."""
    before = run.checkpoint.read_bytes()
    for use in (lambda: run.load_model(last=True), lambda: finish(run)):
        with pytest.raises(UserError, match=match):
            use()
    assert run.checkpoint.read_bytes() == before


@pytest.mark.parametrize("damage", DAMAGED_CHECKPOINTS.values(), ids=DAMAGED_CHECKPOINTS)
def test_a_damaged_checkpoint_is_refused(run, damage):
    run.checkpoint.write_bytes(damage(run.checkpoint.read_bytes()))
    check_refused(run, "checkpoint.safetensors is damaged, or was not written by this program")


def test_too_little_memory_for_a_checkpoint_is_not_damage(run, monkeypatch):
    monkeypatch.setattr(checkpoint_module, "np", SimpleNamespace(empty=Mock(side_effect=MemoryError), uint8=None))
    with pytest.raises(MemoryError):  # MLX would say "[read] Unable to read from file."
        run.load_model()


@pytest.mark.parametrize("metadata", [{}, {"position": "{}"}, {"position": '{"iteration": 1}'}], ids=str)
def test_a_checkpoint_of_another_program_is_refused(run, metadata):
    mx.save_safetensors(str(run.checkpoint), {"wte.weight": mx.zeros((3, 3))}, metadata)
    check_refused(run, "is damaged, or was not written by this program")


@pytest.mark.parametrize("other", [{"n_embd": 32}, {"n_layer": 1}, {"n_layer": 3}, {"block_size": 4}], ids=str)
def test_a_checkpoint_of_another_shape_is_refused(other):
    run = trained_run(n_layer=2)
    shutil.copy(trained_run(**other).checkpoint, run.checkpoint)
    reason = "its model is of another shape, beginning with model.*; use the model that the run was trained"
    check_refused(run, f"does not fit: {reason}")


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"gpt": {"colour": 1}}', "\0"])
def test_a_run_with_a_damaged_description_is_refused(run, file, content):
    (run.path / file).write_text(content)
    with pytest.raises(UserError, match="runs/1 is damaged, or was not written by this program"):
        open_run(run.path)


def test_a_run_without_its_tokenizer_or_with_anothers_is_refused(run):
    file = run.path / "tokenizer.json"
    file.write_text('{"symbols": "abc"}')
    with pytest.raises(UserError, match="tokenizer.json is not as it was written"):
        open_run(run.path)
    file.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        open_run(run.path)


@pytest.mark.parametrize("name", ["tokenizer.json", "history.jsonl", "checkpoint.safetensors"])
def test_a_directory_that_holds_a_part_of_something_else_is_refused(name):
    Path("mine").mkdir()
    (Path("mine") / name).write_text("precious")
    with pytest.raises(UserError, match=f"mine holds a {name} of something else"):
        tiny_run("mine")
    assert (Path("mine") / name).read_text() == "precious"


def test_an_optimizer_of_another_shape_is_refused(run):
    foreign = mx.load(str(run.checkpoint), return_metadata=True)
    arrays = {name: mx.zeros((3,)) if name.endswith("wte.weight.m") else array for name, array in foreign[0].items()}
    mx.save_safetensors(str(run.checkpoint), arrays, foreign[1])
    with pytest.raises(UserError, match="its optimizer is of another shape"):
        finish(run.extended(num_iter=12))


@pytest.mark.parametrize("line", ["{", "[]", '{"iteration": 1}'])
def test_a_damaged_history_is_refused(run, line):
    with (run.path / "history.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match="history.jsonl is damaged"):
        run.history()


@pytest.mark.parametrize("path", ["nowhere", "play.txt", "."])
def test_a_directory_without_a_run_is_refused(path):
    with pytest.raises(UserError, match="holds no run .*; train one first"):
        open_run(Path(path))


def test_a_run_that_does_not_exist_is_answered_with_those_that_do():
    tiny_run(), tiny_run()
    with pytest.raises(UserError, match="runs/7 holds no run .*; name one that does: runs/2, runs/1"):
        open_run(Path("runs/7"))


def test_a_number_names_a_run_in_runs_unless_a_folder_of_that_name_is_one(run):
    Path("2").mkdir()
    assert [named_run(name) for name in ("1", "2", "3", "mine", "./1")] == ["runs/1", "runs/2", "runs/3", "mine", "./1"]
    shutil.copytree("runs/1", "1")
    assert named_run("1") == "1"


def test_a_run_that_chose_no_best_weights_yet_has_its_last():
    run = tiny_run()
    finish(run, asked(3))
    assert not run.takes_best() and iterations(run) == []
    assert same(arrays(run.load_model().parameters()), arrays(run.load_model(last=True).parameters()))


def test_a_run_without_a_checkpoint_is_a_sentence_with_the_way_to_get_one():
    with pytest.raises(UserError, match="no checkpoint: none was written yet, .*`resume` runs/1"):
        tiny_run().load_model()


def test_a_run_that_is_older_than_a_setting_resumes_with_its_default(run):
    never_stopped = trained_run(num_iter=12)
    file = run.path / "config.json"
    config = json.loads(file.read_text())
    del config["checksum"], config["train"]["grad_clip"], config["gpt"]["activation"]
    file.write_text(json.dumps(config | {"checksum": run_module._seal(config)}))
    finish(open_run(run.path).extended(num_iter=12))
    assert same(checkpoint_arrays(run), checkpoint_arrays(never_stopped))
    assert json.loads(file.read_text())["train"]["grad_clip"] == 0


def test_a_description_that_was_edited_is_refused(run):
    """A resumed run would continue with other settings."""
    file = run.path / "config.json"
    file.write_text(file.read_text().replace('"learning_rate": 0.001', '"learning_rate": 0.002'))
    with pytest.raises(UserError, match="config.json is not as it was written"):
        open_run(run.path)


def test_a_source_that_no_file_can_be_called_is_damage(run):
    file = run.path / "config.json"
    config = json.loads(file.read_text())
    config["corpus"]["sources"] = ["play.txt", "\ud800"]
    del config["checksum"]
    file.write_text(json.dumps(config | {"checksum": run_module._seal(config)}))
    with pytest.raises(UserError, match="runs/1 is damaged, .* surrogates not allowed"):
        open_run(run.path)


SOMETHING_ELSE = [None, True, -1, 0.5, 10**30, "", "x", "\0", [], [1], {}, {"x": 1}]


def with_other_values(values):
    """Yield `values`, the content of a JSON file, with one at a time replaced by a value of another type."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        for other in (*SOMETHING_ELSE, *with_other_values(value)):
            yield (values | {key: other}) if isinstance(values, dict) else [*values[:key], other, *values[key + 1 :]]


def test_a_description_of_other_values_is_a_sentence_even_with_the_right_checksum(run):
    file = run.path / "config.json"
    config = json.loads(file.read_text())
    del config["checksum"]
    for other in with_other_values(config):
        file.write_text(json.dumps(other | {"checksum": run_module._seal(other)}))
        with suppress(UserError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # another checksum of the model's code
            found = open_run(run.path)
            assert f"{found.corpus.name} {found.init_from} {found.history()}", other  # it can be shown
            found.load_model(), found.versions()


def test_a_history_of_other_values_is_a_sentence(run):
    file = run.path / "history.jsonl"
    first, *rest = file.read_text().splitlines()
    for other in with_other_values(json.loads(first)):
        file.write_text("\n".join((json.dumps(other), *rest)) + "\n")
        with pytest.raises(UserError):
            run.history()


@pytest.mark.parametrize(
    "cut", [lambda lines: None, lambda lines: [], lambda lines: lines[:1], lambda lines: lines[1:]]
)
def test_a_history_that_lost_lines_is_not_continued(run, cut):
    """Otherwise the next evaluation would count as the best, and replace better weights."""
    file, best = run.path / "history.jsonl", (run.path / "best.safetensors").read_bytes()
    lines = cut(file.read_text().splitlines(keepends=True))
    file.unlink() if lines is None else file.write_text("".join(lines))
    with pytest.raises(UserError, match="history.jsonl is damaged: the checkpoint counts 2 evaluations"):
        finish(run.extended(num_iter=12))
    assert (run.path / "best.safetensors").read_bytes() == best and run.position().iteration == 8
    run.load_model()  # the weights are there, and a new run may start from them


def damages(raw: bytes, rng: random.Random):
    """Yield damaged versions of a file, as a disk or a program may leave them, without end."""
    while True:
        at, size = rng.randrange(len(raw)), rng.choice((1, 7, 512))
        yield raw[:at] + bytes([raw[at] ^ 1 << rng.randrange(8)]) + raw[at + 1 :]
        yield raw[:at]
        yield raw[:at] + bytes(len(raw[at : at + size])) + raw[at + size :]
        yield raw[:at] + rng.randbytes(size) + raw[at:]
        yield raw[:at] + raw[at + size :]
        yield raw[:at] + raw[at : at + size] + raw[at:]


def everything(run: gpt.Run) -> tuple:
    """The content of all files of a run."""
    found = open_run(run.path)
    models = found.load_model(last=True), found.load_model()
    state = State(models[0], gpt.make_optimizer(run.train_config))
    state.optimizer.init(models[0].trainable_parameters())
    load_checkpoint(found, state)
    content = [
        array.tobytes() for array in arrays([*(model.parameters() for model in models), state.optimizer.state]).values()
    ]
    position = state.iteration, state.train_seconds
    return found, found.position(), found.position(best=True), position, found.history(), found.versions(), content


@pytest.mark.parametrize("name", [name for name in PARTS if name != "log.jsonl"])  # whose damage stops nothing
def test_damage_is_a_sentence_and_never_another_run(run, name):
    file, whole = run.path / name, everything(run)
    raw = file.read_bytes()
    for damaged in islice(damages(raw, random.Random(1)), 24):
        file.write_bytes(damaged)
        with suppress(UserError):
            assert everything(run) == whole, "what is not noticed must do no harm"
    file.write_bytes(raw)
    assert everything(run) == whole


@pytest.mark.parametrize("evaluations", [1, 2])
def test_a_run_that_lost_files_never_begins_again_over_what_is_left(evaluations):
    whole, run = (trained_run(num_iter=4 * evaluations) for _ in range(2))
    for missing in (gone for count in range(1, 5) for gone in combinations(PARTS, count)):
        shutil.rmtree(run.path)
        shutil.copytree(whole.path, run.path, ignore=lambda *_: missing)
        left = contents(run.path)
        try:
            finish(open_run(run.path).extended(num_iter=4 * evaluations + 1))
        except UserError:
            assert contents(run.path) == left, missing
        else:
            gone = {"checkpoint.safetensors", "best.safetensors"}
            assert gone.isdisjoint(left) or {"checkpoint.safetensors", "history.jsonl"} <= left.keys(), missing


def test_lost_best_weights_are_not_reported_as_still_to_come(run):
    (run.path / "best.safetensors").unlink()
    for use in (run.load_model, lambda: run.position(best=True)):
        with pytest.raises(UserError, match="best.safetensors is missing, and other files of the run show"):
            use()


def test_a_crash_before_the_first_checkpoint_loses_nothing():
    """The history is written before it."""
    run, whole = trained_run(num_iter=4), trained_run(num_iter=4)
    for name in ("checkpoint.safetensors", "best.safetensors"):
        (run.path / name).unlink()
    finish(open_run(run.path))
    assert same(checkpoint_arrays(run), checkpoint_arrays(whole))


@pytest.mark.parametrize("older", [None, 4])
def test_a_crash_between_the_checkpoint_and_the_best_weights_loses_nothing(run, older):
    best = run.path / "best.safetensors"
    assert run.position(best=True).iteration == 8
    whole = best.read_bytes()
    best.unlink() if older is None else shutil.copy(trained_run(num_iter=older).path / best.name, best)
    finish(open_run(run.path))
    assert best.read_bytes() == whole


def test_a_failure_to_write_the_best_weights_mentions_that_the_checkpoint_has_them(monkeypatch):
    run, right = tiny_run(), recorder_module.write_arrays

    def full(folder, name, *more):
        if name == "best.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        right(folder, name, *more)

    monkeypatch.setattr(recorder_module, "write_arrays", full)
    with pytest.raises(
        UserError, match="the best weights, of iteration 4, could not be written .*the checkpoint has them"
    ):
        finish(run)
    assert open_run(run.path).position().iteration == 4


def test_a_run_that_was_stopped_keeps_the_best_weights_of_an_evaluation():
    run = tiny_run()
    finish(run, asked(7))  # in the middle of an interval; the last evaluation was the best
    assert (run.position(best=True).iteration, 4 < run.position().iteration < 8) == (4, True)


def test_a_run_that_started_from_weights_notices_that_they_are_lost():
    whole = trained_run()
    run = gpt.create_run(whole.gpt_config, whole.train_config, DATA, None, "runs/1")
    gpt.start_from(run, whole.load_model())
    finish(run.extended(num_iter=4))
    for name in ("checkpoint.safetensors", "best.safetensors"):
        (run.path / name).unlink()
    with pytest.raises(UserError, match="checkpoint.safetensors is missing, and other files"):
        finish(open_run(run.path))
    with pytest.raises(UserError, match="already holds a run"):
        gpt.create_run(whole.gpt_config, whole.train_config, DATA, run.path, "runs/1")


def test_weights_to_start_from_never_replace_those_of_a_run(run):
    before = contents(run.path)
    with pytest.raises(UserError, match="the run runs/1 has weights already; start a new run"):
        gpt.start_from(run, run.load_model())
    assert contents(run.path) == before


def test_an_older_view_of_a_run_does_not_shorten_it(run):
    finish(run.extended(num_iter=12))
    before = contents(run.path)
    with pytest.raises(UserError, match="is at iteration 12 already; give a larger `num_iter` than 8"):
        finish(run)
    assert contents(run.path) == before


def test_only_what_may_change_is_extended():
    with pytest.raises(UserError, match="learning_rate of the run runs/1 cannot change; start a new run"):
        tiny_run().extended(learning_rate=0.5)


def test_a_run_whose_making_was_killed_says_how_to_make_it():
    (tiny_run("mine").path / "tokenizer.json").unlink()
    with pytest.raises(
        UserError, match="mine holds a run that was not finished .*; start it again with the same `run_dir`"
    ):
        open_run("mine")
    finish(tiny_run("mine"))


def test_a_run_that_is_made_again_has_no_half_written_files():
    Path("mine").mkdir()
    Path("mine/.config.json.123.part").write_text("half")
    assert sorted(contents(tiny_run("mine").path)) == ["config.json", "tokenizer.json"]


def test_weights_that_are_not_numbers_are_refused():
    run = tiny_run()
    model, optimizer = gpt.GPT(run.gpt_config), gpt.make_optimizer(run.train_config)
    model.wpe.weight[0, 0] = math.nan
    optimizer.init(model.trainable_parameters())
    with Recorder(run) as recorder:
        recorder.save(State(model, optimizer))
    check_refused(run, "its weights are not all numbers")


def test_a_tensor_of_a_huge_name_takes_no_memory(run):
    """Its number would become the length of a list."""
    found, metadata = mx.load(str(run.checkpoint), return_metadata=True)
    mx.save_safetensors(str(run.checkpoint), found | {"model.h.99999999.x": mx.zeros(1)}, metadata)
    tracemalloc.start()
    with pytest.raises(UserError, match="its model is of another shape"):
        run.load_model(last=True)
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()


def test_a_checkpoint_that_cannot_be_read_is_not_called_damaged(run):
    run.checkpoint.unlink()
    run.checkpoint.mkdir()
    with pytest.raises(UserError, match="checkpoint.safetensors cannot be read"):
        run.load_model(last=True)
