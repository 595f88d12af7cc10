"""`mlx-gpt prepare`: turns a text of any size into a folder of tokens."""

import shlex
from contextlib import closing
from pathlib import Path
from typing import Annotated

import mlx_nanogpt as gpt
import typer
from mlx_nanogpt import TrainConfig
from mlx_nanogpt.config import SETTINGS
from mlx_nanogpt.text.corpus import TINYSHAKESPEARE
from mlx_nanogpt.text.prepare import Preparing
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..options.settings import setting_option
from ..options.shared import NAME, PATH, TEXTS, DocumentsOption, TokenizerOption, ValidDataOption, VocabSizeOption
from ..options.texts import choose_tokens
from ..screen.consoles import console, make_progress
from ..screen.describe import describe_files, describe_tests


def prepare(
    out: Annotated[Path, typer.Option(help="The folder to write train.bin, val.bin and meta.json into.", **PATH)],
    data: Annotated[list[str], typer.Option(help=TEXTS, **NAME)] = [TINYSHAKESPEARE],
    train_fraction: Annotated[float, setting_option(SETTINGS["train_fraction"])] = TrainConfig.train_fraction,
    tokenizer: TokenizerOption = "char",
    vocab_size: VocabSizeOption = None,
    documents: DocumentsOption = None,
    valid_data: ValidDataOption = [],
) -> None:
    """Turn a text of any size into tokens in nanoGPT's format; mlx-gpt train then reads them from the disk.

    The text is read in pieces, three times, and once more to learn byte pairs.

    Training on the folder is the same as training on the text with the same --train-fraction.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,} characters"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    # `closing`: Ctrl-C leaves nothing behind
    tokens = choose_tokens(tokenizer, vocab_size)
    preparing = closing(gpt.prepare(data, out, train_fraction, **tokens, valid=valid_data, documents=documents))
    with preparing as events, make_progress(*columns) as bar:
        task = bar.add_task("Counting", total=None)
        for event in events:
            if isinstance(event, Preparing):
                bar.update(task, description=event.stage, completed=event.characters, total=event.total)
    done = event
    console.print(
        f"{done.path}: {done.train_tokens:,} tokens to train on and {done.valid_tokens:,} to validate, vocabulary "
        f"{done.vocab_size:,}"
    )
    if files := describe_files(data):
        console.print(f"Files: {files}")
    for name, line in describe_tests(data).items():
        console.print(f"{name}: {line}")
    console.print(f"\nNext: mlx-gpt train --data {shlex.quote(str(done.path))}", soft_wrap=True)
