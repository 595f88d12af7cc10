"""The promises of the estimate of memory: it is right for the presets, and a run that does not fit is refused."""

import gc
from dataclasses import replace

import mlx_nanogpt as gpt
import mlx.core as mx
import pytest
from mlx_nanogpt import machine as hardware
from conftest import finish, only_here, tiny_gpt, tiny_run, tiny_train
from mlx_nanogpt.machine import machine
from mlx_nanogpt.machine.memory import estimated_memory, largest_array, memory_problem, memory_warning
from mlx_nanogpt.measure.timing import Trial, random_tokens


@only_here
@pytest.mark.slow
@pytest.mark.parametrize(
    "name, changes",
    [
        ("nanolux", {}),
        ("nanolux", {"block_size": 128, "activation": "gelu"}),
        # of the large ones a part, because a step of all takes seconds
        ("laptop", {"dtype": "bfloat16", "gradient_accumulation_steps": 2, "batch_size": 4}),
        ("baby", {"batch_size": 2, "n_layer": 3}),
    ],
)
def test_the_estimate_is_within_a_quarter_of_what_a_step_takes(name, changes):
    configs = gpt.preset(name, **changes)
    estimate = estimated_memory(*configs, machine().fuses_attention(configs[0].head_size))
    gc.collect()
    others = mx.get_active_memory()  # what the tests before it keep
    Trial(gpt.GPT(configs[0]), configs[1], random_tokens(configs[0])).work(1)  # a later step takes as much
    assert 1 / 1.25 < (mx.get_peak_memory() - others) / estimate < 1.25


@only_here
@pytest.mark.slow
def test_the_estimate_counts_a_teacher_that_is_larger_than_its_student():
    student, config = gpt.preset("nanolux", n_layer=1)
    teacher = replace(student, n_layer=6, n_embd=512, head_size=32)
    estimate = estimated_memory(student, config, False, [teacher])
    assert estimate > 3 * estimated_memory(student, config, False)
    gc.collect()
    others = mx.get_active_memory()
    Trial(gpt.GPT(student), config, random_tokens(student), [gpt.GPT(teacher)]).seconds()
    assert 1 / 1.25 < (mx.get_peak_memory() - others) / estimate < 1.25


def test_teachers_that_do_not_fit_are_refused(monkeypatch):
    fused = machine().fuses_attention(8)
    monkeypatch.setattr(type(machine()), "memory", lambda _: 2 * estimated_memory(tiny_gpt(), tiny_train(), fused))
    assert memory_problem(tiny_gpt(), tiny_train()) is None
    assert str(memory_problem(tiny_gpt(), tiny_train(), [tiny_gpt(n_embd=256)])).endswith(
        "or name fewer or smaller teachers"
    )


def test_adam_alone_takes_six_times_the_weights():
    config = tiny_gpt(vocab_size=50_000)
    parameters = 4 * gpt.GPT(config).num_parameters()
    assert estimated_memory(config, tiny_train(batch_size=1), False) == pytest.approx(6 * parameters, rel=0.01)


@pytest.mark.parametrize("fused", [False, True])
def test_the_largest_array_is_that_of_the_scores_or_the_logits(fused):
    of_scores, of_logits = tiny_gpt(block_size=2048), tiny_gpt(vocab_size=5000)
    scores = 4 * 2 * (1024 if fused else 2048) ** 2  # (B, nh) = (4, 2)
    assert largest_array(of_scores, tiny_train(), fused) == 4 * scores
    assert largest_array(of_logits, tiny_train(), fused) == 4 * 4 * 8 * 5000
    assert largest_array(of_logits, tiny_train(dtype="bfloat16"), fused) == 2 * 4 * 8 * 5000


def test_an_array_that_is_too_large_for_metal_is_refused(monkeypatch):
    monkeypatch.setattr(type(machine()), "largest_array", lambda _: 10**6)
    assert memory_problem(tiny_gpt(), tiny_train()) is None
    problem = str(memory_problem(tiny_gpt(vocab_size=50_000), tiny_train()))
    assert "an array of 0.0 GB, and this machine allows 0.0 GB; lower batch_size (4)" in problem


@pytest.mark.parametrize("share, warns, refuses", [(0.59, False, False), (0.61, True, False), (0.81, True, True)])
def test_a_gpu_that_gets_tight_is_a_warning_and_then_an_error(monkeypatch, share, warns, refuses):
    needed = estimated_memory(tiny_gpt(), tiny_train(), True)
    monkeypatch.setattr(hardware.Metal, "memory", lambda _: round(needed / share))
    monkeypatch.setattr(hardware.Metal, "fuses_attention", lambda *_: True)
    monkeypatch.setattr("mlx_nanogpt.machine.memory.machine", hardware.Metal)
    assert (memory_warning(tiny_gpt(), tiny_train()) is not None, memory_problem(tiny_gpt(), tiny_train()) is not None) == (
        warns, refuses,
    )  # fmt: skip


def test_training_warns_of_tight_memory_once_and_trains(monkeypatch):
    run = tiny_run()
    monkeypatch.setattr("mlx_nanogpt.training.memory_warning", lambda *_: "training this model takes about all")
    with pytest.warns(RuntimeWarning, match="takes about all") as caught:
        finish(run)
    assert len(caught) == 1 and run.position().iteration == 8


def test_only_metal_keeps_a_margin_of_memory(monkeypatch):
    monkeypatch.setattr(hardware.mx, "default_device", lambda: mx.cpu)
    assert hardware.machine().most_memory == 1.0
    monkeypatch.setattr(hardware.mx, "default_device", lambda: mx.gpu)
    monkeypatch.setattr(hardware.mx.metal, "is_available", lambda: False)  # CUDA
    assert hardware.machine().most_memory == 1.0
    monkeypatch.setattr(hardware.mx.metal, "is_available", lambda: True)
    assert (hardware.machine().safe_memory, hardware.machine().most_memory) == (0.6, 0.8)
