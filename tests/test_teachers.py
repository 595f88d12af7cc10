"""The promises of teachers: a run learns from what trained ones expect, keeps what it needs of them, and resumes as if it had not stopped."""

import shutil
from pathlib import Path

import mlx_nanogpt as gpt
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from conftest import (
    CORPUS,
    DATA,
    TEXT,
    TOKENIZER,
    arrays,
    asked,
    byte_pairs,
    checkpoint_arrays,
    files_in,
    finish,
    fully_prepared,
    lively_model,
    same,
    tiny_gpt,
    tiny_train,
    trained_run,
)
from mlx_nanogpt.gradients import soft_targets
from mlx_nanogpt.runs import snapshots
from mlx_nanogpt.text.batches import training_batch
from mlx_nanogpt.training import make_step

pytestmark = fully_prepared
BATCH = training_batch(DATA.train_tokens, 1, 0, 4, tiny_gpt().block_size)


def log_probabilities(model: gpt.GPT) -> np.ndarray:
    """Of each token after each of the batch, in float64: (B, T, vocab_size)."""
    logits = np.array(model(mx.array(BATCH[0])), np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def student(
    teachers: list[gpt.Run],
    path: str | None = None,
    data: gpt.Dataset = DATA,
    config: gpt.GPTConfig | None = None,
    **changes,
) -> gpt.Run:
    settings = {"seed": 9, "distill": 0.7} | changes
    return gpt.create_run(config or tiny_gpt(), tiny_train(**settings), data, path, teachers=teachers)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_few_rows_are_enough_for_several_streams(machine, rows):
    teacher, idx, targets = lively_model(tiny_gpt()), *(mx.array(part[:rows]) for part in BATCH)
    found = soft_targets([teacher], 0.5, "compiled")(idx, targets)
    expected = 0.5 * np.exp(log_probabilities(teacher))[:rows] + 0.5 * np.eye(TOKENIZER.vocab_size)[BATCH[1][:rows]]
    assert np.array(found) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("backend", ["compiled", "eager"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_loss_is_a_mean_of_the_tokens_and_of_what_the_teachers_expect(machine, backend, count):
    model, teachers = (
        lively_model(tiny_gpt()),
        [lively_model(tiny_gpt(n_layer=1, dropout=0.5), seed) for seed in range(count)],
    )
    expected = np.mean([np.exp(log_probabilities(teacher.eval())) for teacher in teachers], axis=0)
    own = log_probabilities(model)
    of_tokens = -np.take_along_axis(own, BATCH[1][..., None], axis=-1).mean()
    of_teachers = -(expected * own).sum(-1).mean()
    config = tiny_train(distill=0.7, backend=backend)
    optimizer = gpt.make_optimizer(config)
    optimizer.init(model.trainable_parameters())
    loss, _ = make_step(model, optimizer, config, teachers=teachers)(*map(mx.array, BATCH))
    assert loss.item() == pytest.approx(0.3 * of_tokens + 0.7 * of_teachers, rel=1e-5)


def test_its_gradient_is_that_of_the_loss(machine):
    teacher, models = lively_model(tiny_gpt(), 1), [lively_model(tiny_gpt()) for _ in range(2)]
    config = tiny_train(distill=1.0, gradient_accumulation_steps=2)
    optimizer = gpt.make_optimizer(config)
    optimizer.init(models[0].trainable_parameters())
    _, norm = make_step(models[0], optimizer, config, teachers=[teacher])(*map(mx.array, BATCH))
    expected = mx.softmax(teacher(mx.array(BATCH[0])), axis=-1)

    def loss(idx):
        logits = models[1](idx)
        return (mx.logsumexp(logits, axis=-1) - (expected * logits).sum(axis=-1)).mean()

    _, grads = nn.value_and_grad(models[1], loss)(mx.array(BATCH[0]))
    squares = sum(np.square(gradient.astype(np.float64)).sum() for gradient in arrays(grads).values())
    assert norm.item() == pytest.approx(np.sqrt(squares), rel=1e-4)


def test_a_run_with_teachers_needs_nothing_but_its_directory_and_resumes_bit_for_bit():
    teachers = [trained_run("first"), trained_run("second", seed=6)]
    whole, stopped = student(teachers, "whole"), student(teachers, "stopped")
    finish(whole)
    for teacher in teachers:
        shutil.rmtree(teacher.path)
    finish(stopped, asked(4))
    stopped.path.rename("moved")
    moved = gpt.open_run("moved")
    finish(moved)
    assert [teacher.path for teacher in moved.teachers] == ["first", "second"] and same(
        checkpoint_arrays(moved), checkpoint_arrays(whole)
    )
    plain = gpt.create_run(tiny_gpt(), tiny_train(seed=9), DATA, "plain")
    finish(plain)
    assert not same(arrays(plain.load_model().parameters()), arrays(whole.load_model().parameters()))


def test_a_copy_that_is_lost_damaged_or_replaced_is_a_sentence():
    run, file = student([trained_run("first")]), Path("runs/1/teacher-1.safetensors")
    other = student([trained_run("second", seed=6)], "other")
    whole = file.read_bytes()
    for content, reason in (
        (None, "cannot be read"),
        (whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:], "is damaged"),
        ((other.path / file.name).read_bytes(), "has other weights than it had"),
    ):
        file.unlink(missing_ok=True)
        if content:
            file.write_bytes(content)
        with pytest.raises(gpt.UserError, match=f"{reason}.*: it is a teacher of the run; restore it from a copy"):
            finish(run)
    file.unlink()
    file.write_bytes(whole)
    finish(run)


def test_a_full_disk_leaves_no_copy(monkeypatch):
    def full(folder, name, *_):
        if name == "teacher-2.safetensors":
            raise OSError(28, "No space left on device")
        return write(folder, name, *_)

    write = snapshots.write_arrays
    monkeypatch.setattr(snapshots, "write_arrays", full)
    with pytest.raises(gpt.UserError, match="cannot be written"):
        student([trained_run("first"), trained_run("second")], "student")
    assert files_in("student") == ["config.json"]
    monkeypatch.undo()


def test_a_file_of_the_users_own_is_no_copy():
    Path("mine").mkdir()
    Path("mine/teacher-1.safetensors").write_text("mine")
    with pytest.raises(gpt.UserError, match="mine holds a teacher-1.safetensors of something else"):
        student([trained_run("first")], "mine")
    assert Path("mine/teacher-1.safetensors").read_text() == "mine"


def test_accumulation_dropout_and_bfloat16_learn_from_teachers_too():
    teachers = [trained_run("first")]
    plain = {"gradient_accumulation_steps": 2, "dtype": "bfloat16", "optimizer": "muon"}
    config = tiny_gpt(dropout=0.2)
    for backend in ("compiled", "eager"):
        finish(student(teachers, backend, config=config, backend=backend, **plain))
    first, second = (gpt.open_run(backend).history()[-1].valid_loss for backend in ("compiled", "eager"))
    assert first == pytest.approx(second, abs=0.02)


def test_who_cannot_teach_is_refused_before_a_run_is_made():
    class OwnGPT(gpt.GPT):
        pass

    own = gpt.create_run(tiny_gpt(), tiny_train(), DATA, "own")
    finish(own, model=OwnGPT(own.gpt_config))
    first, new = trained_run("first"), gpt.create_run(tiny_gpt(), tiny_train(), DATA, "new")
    pairs = gpt.tokenize(gpt.Corpus(("play.txt",), TEXT), byte_pairs())
    for teachers, more, reason in (
        (
            [first],
            {"data": pairs, "config": tiny_gpt(vocab_size=300)},
            "the teacher first has other tokens; name a run on the same",
        ),
        (
            [first],
            {"config": tiny_gpt(block_size=9)},
            "the teacher first sees 8 tokens and cannot read 9; give `block_size` 8",
        ),
        (
            [first],
            {"data": gpt.tokenize(CORPUS, train_fraction=0.7)},
            "the teacher first has learned from a part of the text that is to validate; give `train_fraction` 0.8",
        ),
        ([], {}, "distill 0.7 is never used without a teacher; leave it out, or name trained runs with `teacher`"),
        ([new], {}, "the run new has no checkpoint"),
        ([own], {}, "the run own was trained with .*OwnGPT"),
    ):
        with pytest.raises(gpt.UserError, match=reason):
            student(teachers, "student", **more)
    assert not Path("student").exists()


def test_a_model_with_a_loss_of_its_own_has_no_teacher():
    class OwnLoss(gpt.GPT):
        def loss(self, idx, targets):
            return 2 * super().loss(idx, targets)

    class OwnLosses(gpt.GPT):
        def token_losses(self, idx, targets):
            return 2 * super().token_losses(idx, targets)

    run = student([trained_run("first")])
    for own in (OwnLoss, OwnLosses):
        with pytest.raises(gpt.UserError, match="a model with a loss of its own cannot learn from teachers"):
            finish(run, model=own(run.gpt_config))
