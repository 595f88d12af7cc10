"""The model card of an exported run."""

import os
import shlex
from pathlib import Path

from ..errors import printable
from ..model import GPT
from ..runs.run import Run
from ..text.characters import CharTokenizer
from .layouts import WEIGHTS, Layout


def model_card(run: Run, layout: Layout, model: GPT, name: str, last: bool, checksum: str) -> str:
    """Return the card of `model`, exported from `run` under `name`, with the `checksum` of its weights."""
    shape, corpus = run.gpt_config, run.corpus
    windows = run.train_config.batch_size * run.train_config.gradient_accumulation_steps
    iteration = run.position(run.takes_best(last)).iteration
    losses = [
        f"| Loss at iteration {evaluation.iteration:,}, nats per token | {evaluation.train_loss:.4f} in training, "
        f"{evaluation.valid_loss:.4f} in validation |\n"
        for evaluation in run.history()
        if evaluation.iteration <= iteration
    ]
    # the user's folders are private; the owner of a model on the hub is not
    origin = Path(run.init_from).name if run.init_from and os.path.isabs(run.init_from) else run.init_from
    start = f" It started from the weights of {printable(origin)}." if origin else ""
    texts = printable(" + ".join(Path(source).name for source in corpus.sources))
    name = printable(name)
    by_character = isinstance(run.tokenizer, CharTokenizer)
    tokens = "one per character" if by_character else "byte pairs"
    limits = f"It continues a text; it does not answer questions. {layout.beyond_context.format(shape.block_size)}"
    if by_character:
        limits += " It does not know characters that were not in its text, and writes worse after them."
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [{layout.model_type}, mlx]
---

# {name}

A GPT in the layout of {layout.name}, trained with mlx-nanogpt for {iteration:,} iterations of {windows} windows.{start}

{limits}

| | |
|---|---|
| Parameters | {model.num_parameters():,} |
| Layers, width, heads | {shape.n_layer}, {shape.n_embd}, {shape.n_head} |
| Context | {shape.block_size} tokens |
| Tokens | {shape.vocab_size:,}, {tokens} |
| Text | {texts} |
| sha256 of the text | {corpus.sha256} |
| sha256 of {WEIGHTS} | {checksum} |
{"".join(losses[-1:])}
```sh
mlx-gpt generate --init-from {shlex.quote(name)}
mlx-gpt train --init-from {shlex.quote(name)} --data my.txt
```
"""
