"""A rank in a test: trains tiny models on `play.txt`, given as JSON in its first argument.

A run has the `folder` to keep it, `settings`, and whether it continues (`resume`). With `stopped_by` that rank alone asks for a stop
at its fourth step. Each rank prints a line of JSON for each run: how far it came, and a checksum of its weights.
"""

import itertools
import json
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import mlx_nanogpt as gpt
import mlx.core as mx
import numpy as np
from mlx_nanogpt import machine
from mlx.utils import tree_flatten
from mlx_nanogpt.config import configurations
from mlx_nanogpt.ranks import Ranks, join
from mlx_nanogpt.runs.run import run_of

machine.sys = SimpleNamespace(platform="darwin")  # it computes as a Mac does
machine.Machine.eval_tokens = 512  # so that each rank has batches of an evaluation


def train(ranks: Ranks, folder: str, settings: dict, resume: bool = False, stopped_by: int | None = None) -> dict:
    data = gpt.tokenize(gpt.load_corpus("play.txt"))
    run = None
    if ranks.is_first:
        if resume:
            run = gpt.open_run(Path(folder)).extended(**settings)
        else:
            gpt_config, train_config = configurations(settings)
            run = gpt.create_run(gpt_config, train_config, data, Path(folder))
    run = run_of(ranks.broadcast(run.description() if run else None))
    calls = itertools.count(1)
    *_, done = gpt.train(run, data, lambda: stopped_by == ranks.rank and next(calls) >= 4, ranks=ranks)
    crc = 0
    for _, array in tree_flatten(models[-1].parameters()):
        crc = zlib.crc32(np.array(array).tobytes(), crc)
    return {"iteration": done.iteration, "weights": crc, "random": mx.random.state[0].tolist(), "end": done.end}


models: list[gpt.GPT] = []  # those that were trained
with join({}, lambda lost: sys.exit(lost)) as ranks:
    real = ranks.use_own_dropout
    ranks.use_own_dropout = lambda model, batch_size: models.append(model) or real(model, batch_size)
    for run in json.loads(sys.argv[1]):
        print(json.dumps(train(ranks, **run)), flush=True)
