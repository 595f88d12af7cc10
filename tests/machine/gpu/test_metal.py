"""The promises of what is set before MLX starts on a Mac, and of what its errors become. Stand-ins take the place of a Mac."""

import os
import subprocess
from types import SimpleNamespace

import mlx.core as mx
import pytest
from mlx_nanogpt.machine import Machine
from mlx_nanogpt.machine.facts import ram
from mlx_nanogpt.machine.gpu import layers, metal


@pytest.fixture
def mac(monkeypatch):
    """A Mac with the given chip."""

    def arrange(chip: str) -> None:
        monkeypatch.setattr(metal, "sys", SimpleNamespace(platform="darwin"))
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=f"{chip}\n"))
        unset(monkeypatch)

    return arrange


def unset(monkeypatch) -> None:
    """Remove the variable for a test; what the test sets is removed again."""
    monkeypatch.setenv(metal.VARIABLE, "")
    monkeypatch.delenv(metal.VARIABLE)


@pytest.mark.parametrize(
    "chip, operations",
    [
        ("Apple M1", "200"),
        ("Apple M4 Pro", "200"),
        ("Apple M5", None),
        ("Apple M11 Max", None),
        ("Intel(R) Core(TM) i7", None),
    ],
)
def test_a_mac_up_to_the_m4_gets_larger_buffers(mac, chip, operations):
    mac(chip)
    metal.enlarge_buffers()
    assert os.environ.get(metal.VARIABLE) == operations


def test_the_users_own_size_of_a_buffer_stays(mac, monkeypatch):
    mac("Apple M2")
    monkeypatch.setenv(metal.VARIABLE, "30")
    metal.enlarge_buffers()
    assert os.environ[metal.VARIABLE] == "30"


def test_only_a_mac_is_asked_for_its_chip(monkeypatch):
    unset(monkeypatch)
    monkeypatch.setattr(metal, "sys", SimpleNamespace(platform="linux"))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("asked"))
    metal.enlarge_buffers()


def test_a_mac_that_does_not_tell_its_chip_stays_as_it_is(mac, monkeypatch):
    mac("Apple M1")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError()))
    metal.enlarge_buffers()
    assert metal.VARIABLE not in os.environ


def test_a_training_may_have_what_metal_recommends(monkeypatch):
    info = {"max_recommended_working_set_size": 12 * 10**9, "max_buffer_length": 9 * 10**9, "memory_size": 16 * 10**9}
    monkeypatch.setattr(mx, "device_info", lambda: info)
    assert (Machine().memory(), Machine().largest_array()) == (12 * 10**9, 9 * 10**9)
    monkeypatch.setattr(mx, "device_info", lambda: {"total_memory": 8 * 10**9, "free_memory": 7 * 10**9})
    assert Machine().memory() == 8 * 10**9  # an NVIDIA GPU's own
    monkeypatch.setattr(mx, "device_info", lambda: {"device_name": "a CPU"})
    assert Machine().memory() == Machine().largest_array() == ram()


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"),
        RuntimeError("[metal::malloc] Attempting to allocate 93 bytes which is greater than the maximum allowed buffer size of 9 bytes."),
        RuntimeError("cudaMallocAsync failed: out of memory"),
        MemoryError(),
    ],
)  # fmt: skip
def test_a_lack_of_memory_is_a_sentence_with_the_settings_to_lower(error):
    explained = Machine().explain(error)
    assert "there is not enough memory" in explained.problem and "`batch_size`" in explained.remedy


def test_another_error_of_mlx_stays_an_error():
    assert Machine().explain(RuntimeError("[matmul] shapes do not fit")) is None


def test_bfloat16_logits_reach_the_fused_loss_of_a_gpu_as_they_are(monkeypatch):
    """As float32, GPT-2's vocabulary would take gigabytes more."""
    seen = []
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    monkeypatch.setattr(mx.fast, "cross_entropy", lambda logits, targets: seen.append(logits.dtype) or logits.sum())
    layers.CrossEntropy()(mx.zeros((1, 2, 5), mx.bfloat16), mx.zeros((1, 2), mx.int32))
    assert seen == [mx.bfloat16]
