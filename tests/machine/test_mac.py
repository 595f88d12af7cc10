"""The promises about a Mac: what is asked of it, what is said of it, and that nothing opens Apple's dialog. Stand-ins take its place."""

import os
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_nanogpt import machine as hardware
from conftest import SESSION_CACHE, in_a_process, only_here
from mlx_nanogpt.machine import compilation, mac
from mlx_nanogpt.measure import benchmark, notes


@pytest.fixture
def answers(monkeypatch):
    """A Mac whose commands answer as arranged, by their names and arguments; all others fail."""

    def arrange(**given) -> None:
        monkeypatch.setattr(mac, "ask_macos", lambda *command: given.get(Path(command[0]).name.replace("-", "_"), ""))

    monkeypatch.setattr(mac, "has_tools", mac.has_tools.__wrapped__)
    return arrange


# ---- Apple's command line tools


@pytest.mark.parametrize("folder, there", [("", False), ("/nowhere/CommandLineTools", False), (os.getcwd(), True)])
def test_the_tools_are_there_if_their_folder_is(answers, folder, there):
    answers(xcode_select=folder)
    assert mac.has_tools() == there


FAKED = """
import sys
import numpy, mlx.core, rich, typer, sysconfig
sysconfig.get_config_vars()
sys.platform = "darwin"
from mlx_nanogpt.machine import can_compile
assert not can_compile()
from dataclasses import replace
from mlx_nanogpt.measure import benchmark, doctor, timing
doctor.CHECKS = {name: doctor.CHECKS[name] for name in ("The device", "It computes as the CPU does", "Compiled equals eager")}
doctor.SHAPES = doctor.SHAPES[:1]
benchmark.NANOLUX_GPT = replace(benchmark.NANOLUX_GPT, n_layer=1, n_embd=16, head_size=8, block_size=8)
benchmark.EVALUATED_WINDOWS, timing.ROUNDS, timing.MATRIX_SIZE, timing.GENERATED_TOKENS = 4, 2, 16, 24
timing.ROUND_SECONDS, timing.GENERATION_ROUNDS, benchmark.fit_length = 0.001, 1, lambda *_: (4, None)
benchmark.RACE_GPT, benchmark.RACE_TRAIN = benchmark.NANOLUX_GPT, replace(benchmark.RACE_TRAIN, eval_iters=1)
from mlx_nanogpt_cli import main
tiny = "--data=play.txt --n-embd=16 --head-size=8 --n-layer=1 --block-size=8 --num-iter=2 --eval-iters=1 --retries=0"
for words in (f"train --device=cpu --activation=gelu {tiny}", "bench --quick --data=play.txt", "doctor"):
    sys.argv = ["mlx-gpt", *words.split()]
    try:
        main()
    except SystemExit as end:
        print(f"{words.split()[0]} ended with {end.code or 0}")
"""


@only_here  # a real Mac has its own answers
@pytest.mark.slow
def test_a_mac_without_the_tools_is_never_asked_for_gpp_git_or_clang(tmp_path):
    """Each of them would open Apple's dialog. A fresh process, because MLX asks for g++ once."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("g++", "clang++", "clang", "cc", "git"):
        (tools / name).write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/opened\nexit 1\n")
        (tools / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "XDG_CACHE_HOME": SESSION_CACHE}
    with in_a_process("-c", FAKED, env=environment) as process:
        out, err = process.communicate()
    assert not (tmp_path / "opened").exists() and "Traceback" not in err
    assert "train ended with 0\n" in out and "bench ended with 0\n" in out, err
    assert "run uncompiled: on the CPU MLX needs g++ for it; xcode-select --install brings it" in out
    assert "✓ It computes as the CPU does" in out and "Note: on the CPU nothing is compiled" in out


def test_a_checkout_on_a_mac_without_the_tools_has_no_commit(monkeypatch):
    monkeypatch.setattr(benchmark, "has_tools", lambda: False)
    monkeypatch.setattr(benchmark.subprocess, "run", lambda *_, **__: pytest.fail("git was run"))
    assert benchmark._commit() is None


def test_compilation_is_back_when_the_gpu_is_and_a_users_own_choice_stays(monkeypatch):
    monkeypatch.setattr(compilation.sys, "platform", "darwin")
    monkeypatch.setattr(mac, "has_tools", lambda: False)
    calls = []
    for name in ("enable_compile", "disable_compile"):
        monkeypatch.setattr(compilation.mx, name, lambda name=name: calls.append(name))
    for device in (mx.gpu, mx.cpu, mx.cpu, mx.gpu, mx.gpu):
        monkeypatch.setattr(compilation.mx, "default_device", lambda device=device: device)
        hardware.machine()
    assert calls == ["disable_compile", "enable_compile"]  # each once, at a change


def test_the_reference_of_the_doctor_is_not_compiled(monkeypatch):
    calls = []
    double = mx.compile(lambda x: calls.append(1) or 2 * x)
    with compilation.uncompiled_on_cpu():
        mx.eval([double(mx.ones(())) for _ in range(3)])
    assert len(calls) == 3
    mx.eval([double(mx.ones(())) for _ in range(3)])
    assert len(calls) == (4 if compilation.can_compile() else 6)


# ---- the installation


@pytest.mark.parametrize(
    "architecture, translated, versions, sentence",
    [
        ("arm64", "0", ("0.32.4", "0.32.4"), None),
        ("arm64", "0", ("0.32.4", "0.31.0"), "mlx 0.32.4 and mlx-metal 0.31.0 do not belong together; run pip install"),
        ("x86_64", "1", (), "this Python runs as x86_64, under Rosetta; install Python for Apple silicon"),
        ("x86_64", "", (), "this Python runs as x86_64; MLX needs a Mac with Apple silicon"),
    ],
)
def test_a_wrong_installation_is_a_sentence(answers, monkeypatch, architecture, translated, versions, sentence):
    answers(sysctl=translated)
    monkeypatch.setattr(mac.platform, "machine", lambda: architecture)
    monkeypatch.setattr(mac, "version", lambda name: versions[name == "mlx-metal"])
    found = mac.wrong_installation()
    assert found is None if sentence is None else found.startswith(sentence)


BROKEN = """
import sys
sys.platform = "darwin"
sys.modules["mlx.core"] = None
import platform
platform.machine = lambda: "x86_64"
from mlx_nanogpt_cli import main
main()
"""


def test_a_python_under_rosetta_is_a_sentence_and_no_traceback():
    with in_a_process("-c", BROKEN) as process:
        _, err = process.communicate()
    assert process.returncode == 1
    assert err == "Error: this Python runs as x86_64; MLX needs a Mac with Apple silicon\n"


# ---- notes


BATTERY = "Now drawing from 'Battery Power'\n -InternalBattery-0 (id=1)\t80%; discharging"
LOW_ON_A_PRO = "Currently in use:\n standby 1\n powermode            1\n"
LOW = "System-wide power settings:\nCurrently in use:\n standby 1\n lowpowermode         1\n Sleep On Power Button 1"


def test_a_mac_with_power_has_no_notes(answers, monkeypatch):
    monkeypatch.setattr(notes.sys, "platform", "darwin")
    answers(xcode_select=os.getcwd(), pmset="Now drawing from 'AC Power'\n lowpowermode 0")
    assert notes.make_notes() == []


@pytest.mark.parametrize("settings", [LOW, LOW_ON_A_PRO])
def test_power_tools_and_network_are_noted(answers, monkeypatch, settings):
    monkeypatch.setattr(notes.sys, "platform", "darwin")
    monkeypatch.setattr(notes, "network_type", lambda _: "smbfs")
    answers(pmset=BATTERY + settings)
    network, tools, battery, low = notes.make_notes()
    assert network.startswith("this folder is on a network volume (smbfs)") and "xcode-select --install" in tools
    assert "battery" in battery and low.startswith("Low Power Mode is on")


@pytest.mark.parametrize("attribute", ["com.apple.icloud.desktop\t0", "com.apple.file-provider-domain-id#PN\t64"])
def test_a_folder_in_a_cloud_is_noted(answers, attribute):
    answers(ls=f"drwx------@ 5 me staff 160 Documents\n\t{attribute}")
    clouds = {
        "Library/Mobile Documents/com~apple~CloudDocs/runs": "iCloud Drive",
        "Library/CloudStorage/Box/runs": "a cloud service",
        "Documents/code/runs": "iCloud Drive",
        "code/runs": None,
    }
    assert [mac.cloud(Path.home() / path) for path in clouds] == list(clouds.values())
    answers(ls="drwx------ 5 me staff 160 Documents")
    assert mac.cloud(Path.home() / "Documents/code") is None
