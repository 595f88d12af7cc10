"""The promise of a Mac's graph: no change adds a kernel unseen. `mac_graph.py` builds it on Linux."""

import json
from pathlib import Path

import mlx.core as mx
import pytest
from conftest import in_a_process, only_here
from mac_graph import OTHER_MACHINE, count_operations
from mlx_nanogpt.measure.roofline import MAC_OPERATIONS

# Nodes that compute. Fewer are welcome: then lower the number here.
MOST = {
    "default step": MAC_OPERATIONS["step"],
    "student's step": 316,
    "baby step": 274,
    "bfloat16 step": 453,
    "step of 8 tokens": 310,
    "evaluation": MAC_OPERATIONS["evaluation"],
    "decode": MAC_OPERATIONS["token"],
    "reread": 80,
    "modern step": 438,
    "baby-modern step": 443,
    "modern evaluation": 107,
    "modern decode": 122,
    "decode of 8 texts": 118,
    "modern reread": 109,
}


@pytest.fixture(scope="module")
def sizes():
    with in_a_process(Path(__file__).with_name("mac_graph.py")) as process:
        out, err = process.communicate(timeout=60)
    if process.returncode == OTHER_MACHINE:
        pytest.skip("only MLX 0.32.4 on Linux and x86-64, with nm of the binutils, shows a Mac's graph")
    assert process.returncode == 0, err
    return json.loads(out)


@only_here
@pytest.mark.parametrize("name", MOST)
def test_a_macs_graph_does_not_grow(sizes, name):
    assert sizes[name] <= MOST[name]


def test_a_graphs_operations_are_counted_without_its_views():
    x = mx.array([[1.0, 2.0], [3.0, 4.0]])
    assert count_operations((x.T @ x).reshape(4) + mx.exp(x).reshape(4)) == 3
