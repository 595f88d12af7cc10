"""What a rank runs in a test: trainings of tiny models on `play.txt`, given as JSON in its first argument.

A training is the `folder` of its run, `settings`, and whether it goes on with a run (`resume`). Each rank prints a line of JSON for
each: the losses, and a checksum of its weights.
"""

import json
import sys
import zlib
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import mlx_nanogpt as gpt
import mlx.core as mx
import numpy as np
from mlx_nanogpt import machine, training
from mlx.utils import tree_flatten
from mlx_nanogpt.distributed.joining import joined
from mlx_nanogpt.distributed.ranks import Ranks
from mlx_nanogpt.runs.run import described_run


def trained(ranks: Ranks, folder: str, settings: dict, resume: bool = False, plain: bool = False) -> dict:
    machine.sys = SimpleNamespace(platform="darwin") if plain else sys  # as a Mac computes, or as this machine does
    data = gpt.tokenize(gpt.load_corpus("play.txt"))
    run = None
    if ranks.is_first:
        if resume:
            run = gpt.open_run(Path(folder)).extended(**settings)
        else:
            gpt_config, train_config = gpt.configurations({"vocab_size": data.tokenizer.vocab_size} | settings)
            run = gpt.create_run(gpt_config, train_config, data, Path(folder))
    run = described_run(ranks.told(run.description() if run else None))
    models = []
    real, training.GPT = training.GPT, lambda config: models.append(real(config)) or models[-1]
    *_, done = gpt.train(run, data, ranks=ranks)
    training.GPT = real
    crc = 0
    for _, array in tree_flatten(models[0].parameters()):
        crc = zlib.crc32(np.array(array).tobytes(), crc)
    return {"iteration": done.iteration, "weights": crc, "random": mx.random.state[0].tolist()}


with joined({}, lambda verdict: print(verdict, file=sys.stderr), nullcontext()) as ranks:
    for each in json.loads(sys.argv[1]):
        print(json.dumps(trained(ranks, **each)), flush=True)
