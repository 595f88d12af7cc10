"""The promises of `mlx-gpt launch`: it starts all ranks of this machine, and its exit status is true."""

import socket
from pathlib import Path

import pytest
from conftest import SESSION_CACHE, TINY, Result
from mlx_nanogpt_cli.app import app
from mlx_nanogpt_cli.commands import launch as module
from mlx_nanogpt_cli.commands.launch import HERE, exit_status, free_ports
from mlx_nanogpt_cli.process.ranks import LOST, UNCONNECTED

TRAIN = ["train", *TINY, "--backend=eager"]


# a launcher leaves the pipes to its ranks to the end of its process
leaves_pipes = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def launch(monkeypatch, capfd):
    """Run mlx-gpt launch in this process, and its ranks in processes of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", SESSION_CACHE)
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")

    def run(*arguments: str) -> Result:
        with pytest.raises(SystemExit) as end:
            app(["launch", *arguments])
        return Result(end.value.code, *capfd.readouterr())

    return run


@leaves_pipes
def test_a_launch_whose_port_was_taken_starts_again_with_others(launch, monkeypatch):
    pytest.importorskip("tensorboard")
    free_ports, taken = module.free_ports, socket.create_server((HERE, 0))
    found = [taken.getsockname()[1]]
    monkeypatch.setattr(module, "free_ports", lambda n: [found.pop(), *free_ports(n - 1)] if found else free_ports(n))
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.1)  # for a rank that waits for one that could not connect
    with taken:
        result = launch("-n", "2", *TRAIN, "--report-to=tensorboard")
    assert result.status == 0, result.err
    assert result.err.startswith("Error: MLX cannot connect rank 0 to its neighbours (")
    assert result.err.endswith("Another program may have taken a port; starting all ranks again with other ports.\n")
    assert len(list(Path("runs/1").glob("events.out.tfevents.*"))) == 1  # rank 0 alone reports to a tracker


@leaves_pipes
def test_the_exit_status_is_that_of_the_rank_with_an_error(launch):
    result = launch("-n2", *TRAIN, "--data=missing.txt")
    assert result.status == 1 and "missing.txt cannot be read" in result.err
    assert "Error: rank 1" in result.err and "lost its connection: another rank ended with an error" in result.err


@pytest.mark.parametrize(
    "statuses, status",
    [
        ([0, 0], 0), ([0, -9], 0), ([1, 1], 1), ([LOST, 1], 1), ([130, 0], 130), ([1, 0], 1), ([LOST, -9], LOST),
        ([-9, LOST], LOST), ([LOST, UNCONNECTED], UNCONNECTED), ([UNCONNECTED, -9], UNCONNECTED),
    ],
)  # fmt: skip
def test_the_exit_status_distinguishes_a_lost_rank_from_an_error(statuses, status):
    assert exit_status(statuses) == status


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (["-n2", "generate"], "mlx-gpt launch starts mlx-gpt train, and not generate"),
        (["train", "-n2"], "Missing option '-n'"),
        (["-n1", "train"], "should be greater than or equal to 2"),
        (["-n2", "train", "--num-itr=3"], "No such option: --num-itr"),
        (["-n2", "train", "my.txt"], "did you mean --data my.txt?"),
    ],
)
def test_a_launch_that_makes_no_sense_is_reported_once(mlx_gpt, arguments, reason):
    result = mlx_gpt("launch", *arguments)
    assert result.status == 2 and result.err.count("Usage: ") == 1
    assert reason in " ".join(result.err.replace("│", "").split())


def test_ports_are_free_and_differ():
    with socket.create_server((HERE, 0)) as taken:
        ports = free_ports(50)
        assert len(set(ports)) == 50 and taken.getsockname()[1] not in ports
