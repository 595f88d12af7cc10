"""The promises of what is set before MLX starts on a Mac, and of what its errors become. Stand-ins take the place of a Mac."""

import os
from types import SimpleNamespace

import mlx.core as mx
import pytest
from mlx_nanogpt.errors import DeviceFailed
from mlx_nanogpt.machine import Machine, mac
from mlx_nanogpt.machine.facts import ram
from mlx_nanogpt.machine.gpu import layers, metal


@pytest.fixture
def a_mac(monkeypatch):
    """A Mac with the given chip."""

    def arrange(chip: str) -> None:
        monkeypatch.setattr(metal, "sys", SimpleNamespace(platform="darwin"))
        monkeypatch.setattr(mac, "ask_macos", lambda *_: chip)
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
def test_a_mac_up_to_the_m4_gets_larger_buffers(a_mac, chip, operations):
    a_mac(chip)
    metal.enlarge_buffers()
    assert os.environ.get(metal.VARIABLE) == operations


def test_the_users_own_size_of_a_buffer_stays(a_mac, monkeypatch):
    a_mac("Apple M2")
    monkeypatch.setenv(metal.VARIABLE, "30")
    metal.enlarge_buffers()
    assert os.environ[metal.VARIABLE] == "30"


def test_after_a_failure_buffers_are_short_unless_the_user_has_set_their_size(a_mac, monkeypatch):
    a_mac("Apple M2")
    metal.enlarge_buffers()
    metal.shorten_buffers()
    metal.enlarge_buffers()  # of the next process
    assert os.environ[metal.VARIABLE] == "40"
    monkeypatch.setenv(metal.VARIABLE, "200")
    metal.enlarge_buffers()
    metal.shorten_buffers()
    assert os.environ[metal.VARIABLE] == "200"


def test_only_a_mac_is_asked_for_its_chip(monkeypatch):
    unset(monkeypatch)
    monkeypatch.setattr(metal, "sys", SimpleNamespace(platform="linux"))
    monkeypatch.setattr(mac, "ask_macos", lambda *_: pytest.fail("asked"))
    metal.enlarge_buffers()


def test_a_mac_that_does_not_tell_its_chip_stays_as_it_is(a_mac):
    a_mac(mac.ask_macos("/nowhere/sysctl"))
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


@pytest.mark.parametrize("words", ["can't start new thread", "Resource temporarily unavailable"])
def test_a_thread_that_cannot_start_is_a_sentence_with_the_limits(words):
    assert "ulimit -u" in Machine().explain(RuntimeError(words)).remedy


INTERACTIVITY = "Impacting Interactivity (0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)"
TIMEOUT = "Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)"
INTERNAL = "Internal Error (0000000e:Internal Error)"


@pytest.mark.parametrize(
    "error, sentence",
    [
        (f"[METAL] Command buffer execution failed: {INTERACTIVITY}.", "for the sake of the display"),
        (f"[METAL] Command buffer execution failed: {TIMEOUT}.", "because a part took too long"),
        (f"[METAL] Command buffer execution failed: {INTERNAL}.", "the GPU failed ([METAL]"),
    ],
)
def test_a_failure_of_the_gpu_is_a_sentence_with_what_helped_others(error, sentence):
    explained = Machine().explain(RuntimeError(error))
    assert isinstance(explained, DeviceFailed) and sentence in explained.problem
    for remedy in ("pmset displaysleepnow", "AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1", "smaller `batch_size`"):
        assert remedy in explained.remedy


def test_too_many_arrays_have_a_remedy_of_their_own():
    explained = Machine().explain(RuntimeError("[metal::malloc] Resource limit (499000) exceeded."))
    assert (
        isinstance(explained, DeviceFailed)
        and "too many arrays" in explained.problem
        and "`n_layer`" in explained.remedy
    )


def test_a_session_without_a_gpu_and_kernels_of_another_mlx_are_sentences_that_no_retry_helps():
    missing = Machine().explain(RuntimeError("[metal::load_device] No Metal device available. This typically occurs"))
    old = Machine().explain(RuntimeError("[metal::Device] Unable to load kernel rope_float32\nno such function"))
    assert "finds no GPU" in missing.problem and "Terminal" in missing.remedy
    assert "rope_float32 no such function)" in old.problem and "--force-reinstall" in old.remedy
    assert not any(isinstance(explained, DeviceFailed) for explained in (missing, old))


def test_another_error_of_mlx_stays_an_error():
    assert Machine().explain(RuntimeError("[matmul] shapes do not fit")) is None


def test_bfloat16_logits_reach_the_fused_loss_of_a_gpu_as_they_are(monkeypatch):
    """As float32, GPT-2's vocabulary would take gigabytes more."""
    seen = []
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    monkeypatch.setattr(mx.fast, "cross_entropy", lambda logits, targets: seen.append(logits.dtype) or logits.sum())
    layers.CrossEntropy()(mx.zeros((1, 2, 5), mx.bfloat16), mx.zeros((1, 2), mx.int32))
    assert seen == [mx.bfloat16]
