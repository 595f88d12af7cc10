"""The promises of `mlx-gpt launch`: it starts all ranks, here or by ssh, and its exit status is true."""

import json
import os
import socket
import stat
import sys
from pathlib import Path

import pytest
from mlx_nanogpt import open_run
from conftest import TINY, Result, in_a_process, until

from mlx_nanogpt_cli.commands.launch import HERE, LOST, Host, _status, free_ports, read_hostfile

TRAIN = ["train", *TINY]
SSH = f"""#!{sys.executable}
import os, sys
with open("ssh.txt", "a") as file:
    print(*sys.argv[1:-1], file=file)
os.execvp("sh", ["sh", "-c", sys.argv[-1]])  # on this machine
"""


@pytest.fixture
def hostfile():
    def written(content) -> Path:
        Path("hosts.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return Path("hosts.json")

    return written


@pytest.fixture
def ssh(monkeypatch, tmp_path):
    """An ssh that runs the command here, and notes what it was asked for."""
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(SSH)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def launched(*arguments) -> Result:
    """`mlx-gpt launch` in a process of its own: its ranks write to its streams."""
    with in_a_process("-m", "mlx_nanogpt_cli", "launch", *arguments) as process:
        out, err = process.communicate(timeout=60)
    return Result(process.returncode, out, err)


def test_other_machines_are_reached_by_ssh(hostfile, ssh):
    hosts = hostfile(
        {"backend": "ring", "envs": [], "hosts": [{"ssh": "a.local", "ips": [HERE]}, {"ssh": "b.local", "ips": [HERE]}]}
    )
    result = launched("--hostfile", hosts, *TRAIN)
    assert result.status == 0, result.err
    assert Path("ssh.txt").read_text() == "-o BatchMode=yes b.local\n"
    assert f"Ranks     2, connected by MLX's ring: {socket.gethostname()} (2)\n" in result.out
    assert result.out.count("iteration  train loss") == 1  # rank 1 is silent
    assert open_run(Path("runs/1")).position().iteration == 4 and not Path("runs/2").exists()


def test_the_first_rank_alone_reports_to_a_tracker():
    pytest.importorskip("tensorboard")
    result = launched("-n", "2", *TRAIN, "--report-to=tensorboard")
    assert result.status == 0, result.err
    assert len(list(Path("runs/1").glob("events.out.tfevents.*"))) == 1


def test_the_exit_status_is_that_of_the_training():
    result = launched("-n2", "--restarts=3", *TRAIN, "--num-iter=none")
    assert result.status == 2 and "Restart" not in result.err


@pytest.mark.parametrize(
    "statuses, status",
    [([0, 0], 0), ([0, -9], 0), ([1, 1], 1), ([LOST, 1], 1), ([130, 0], 130), ([1, 0], 1), ([LOST, -9], LOST), ([-9, LOST], LOST), ([LOST, 255], LOST)],
)  # fmt: skip
def test_a_restart_follows_a_loss_and_no_error(statuses, status):
    assert _status(statuses) == status


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (["-n2", "generate"], "mlx-gpt launch starts mlx-gpt train, and not generate"),
        (["train", "-n2"], "say before train how many processes there are"),
        (["-n2", "--hostfile=x", "train"], "-n and --hostfile exclude each other"),
        (["-n1", "train"], "should be greater than or equal to 2"),
        (["-n2", "train", "--num-itr=3"], "No such option: --num-itr"),
        (["-n2", "train", "my.txt"], "did you mean --data my.txt?"),
    ],
)
def test_a_launch_that_makes_no_sense_is_told_once(mlx_gpt, arguments, reason):
    result = mlx_gpt("launch", *arguments)
    assert result.status == 2 and result.err.count("Usage: ") == 1
    assert reason in " ".join(result.err.replace("│", "").split())


def test_a_command_that_goes_on_is_a_launch():
    process = in_a_process("-m", "mlx_nanogpt_cli", "launch", "-n2", *TRAIN, "--num-iter=1000000", "--eval-interval=20")
    until(lambda: Path("runs/1/checkpoint.safetensors").exists())
    process.kill()  # the ranks notice it, save, and end
    out, _ = process.communicate(timeout=40)
    assert out.endswith("Go on with:\n  mlx-gpt launch -n 2 train --resume runs/1\n")


# ---- hosts


def test_the_files_of_mlx_are_read(hostfile):
    hosts = [{"ssh": "a", "ips": ["10.0.0.1", "10.0.1.1"], "rdma": []}, {"ssh": "b", "ips": ["10.0.0.2"]}]
    for content in (hosts, {"backend": "ring", "hosts": hosts}, {"backend": "", "envs": [], "hosts": hosts}):
        assert read_hostfile(hostfile(content)) == ([Host(None, "10.0.0.1"), Host("b", "10.0.0.2")], {})
    _, variables = read_hostfile(hostfile({"envs": ["A=1=2"], "hosts": hosts}))
    assert variables == {"A": "1=2"}


@pytest.mark.parametrize(
    "content, reason",
    [
        ("no json", "is no list of hosts with ssh and ips"),
        ([{"ssh": "a"}], "is no list of hosts with ssh and ips"),
        ([{"ssh": "a", "ips": ["10.0.0.1"]}], "names fewer than 2 hosts"),
        ({"backend": "jaccl", "hosts": [{"ssh": "a", "ips": ["10.0.0.1"]}] * 2}, "is for the backend jaccl"),
    ],
)
def test_another_file_is_refused(mlx_gpt, hostfile, content, reason):
    result = mlx_gpt("launch", "--hostfile", hostfile(content), "train")
    assert result.status == 1 and result.err.startswith(f"Error: hosts.json {reason}")


def test_ports_are_free():
    with socket.create_server((HERE, 0)) as taken:
        first = free_ports(HERE, 5)
        assert taken.getsockname()[1] not in range(first, first + 5)


def test_an_address_of_another_machine_has_no_port(mlx_gpt, hostfile):
    hosts = [{"ssh": "a", "ips": ["192.0.2.1"]}, {"ssh": "b", "ips": ["192.0.2.2"]}]  # of nobody: RFC 5737
    result = mlx_gpt("launch", "--hostfile", hostfile(hosts), "train")
    assert result.status == 1 and result.err.startswith("Error: no port of 192.0.2.1 can be used (")
