"""`mlx-gpt eval`: the loss of a run's model on all of a split or a text, beside what simple methods reach there."""

from typing import Annotated, Literal

import mlx_nanogpt as gpt
import numpy as np
import typer
from mlx_nanogpt import Dataset, Run, SplitLoss, UserError
from mlx_nanogpt.text.baselines import bigram, count_characters, uniform, unigram, xz_bits_per_character
from mlx_nanogpt.text.tokenizer import Tokenizer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from .screen import (
    NAME,
    BestOption,
    DeviceOption,
    InitFromOption,
    RunOption,
    chosen_model,
    console,
    describe_device,
    describe_weights,
    header,
    is_own,
    own_dataset,
    progress,
    read_data,
    use_device,
)

MODEL = "> this model"  # the row that matters: the sign shows it in a pipe, too
SPLITS = {"train": "training split", "valid": "validation split"}


def evaluate(
    ctx: typer.Context,
    run: RunOption = None,
    best: BestOption = False,
    init_from: InitFromOption = None,
    split: Annotated[
        Literal["train", "valid", "both"], typer.Option(help="Which part of the text that the run learned from.")
    ] = "valid",
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Another text, as in mlx-gpt train, and all of it; a folder of tokens, by its own splits; or the run's own, "
            "if it lies elsewhere now.",
            show_default="the run's own",
            **NAME,
        ),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Measure a trained run exactly, beside a bigram, a unigram, xz and a uniform guess.

    Every token but the first is predicted once, from windows of --block-size tokens that follow each other.

    The bigram and the unigram learn from the run's training split, and xz reads the last 64 MiB of it first.

    A folder of tokens of another text is measured by its own splits: --split chooses, and the others learn from its own.
    """
    use_device(device)
    if init_from and not data:
        raise UserError(f"{init_from} comes without a text to evaluate it on; give one with --data")
    model, tokenizer, source = chosen_model(run, best, init_from)
    if source:
        origin = {"Run": describe_weights(source, best)}
    else:
        origin = {"Model": f"{init_from}: {model.num_parameters():,} parameters"}
    other = read_data(data) if data else None
    train, no_baselines = None, None
    if source and (other is None or is_own(source, other)):
        other = own_dataset(source, other)
    if isinstance(other, Dataset):
        if other.tokenizer != tokenizer:
            raise UserError(f"{other.corpus.name} holds the tokens of another tokenizer; give a text with --data")
        chosen = list(SPLITS) if split == "both" else [split]
        parts = {f"{other.corpus.name}, {SPLITS[name]}": getattr(other, f"{name}_tokens") for name in chosen}
        train = other.train_tokens
    else:
        if ctx.get_parameter_source("split").name == "COMMANDLINE":
            raise UserError(
                f"{other.identity.name} is not the text that the model learned from, so it has no splits; leave out --split"
            )
        parts = {other.identity.name: tokenizer.encode(other.text)}
        if source:
            train, no_baselines = _training_split(source)
        else:
            no_baselines = f"{init_from} comes without it"
    header("mlx-gpt eval", {"Device": describe_device()} | origin)
    for name, tokens in parts.items():
        console.print(f"\n{name}: {len(tokens) - 1:,} tokens in windows of {model.config.block_size}", style="bold")
        console.print(_table(_measure(model, tokenizer, tokens, train)))
    if no_baselines is not None:
        console.print(
            f"No bigram, unigram and xz here, for they need the text that the model learned from: {no_baselines}."
        )


def _training_split(run: Run) -> tuple[np.ndarray | None, UserError | None]:
    """The tokens that `run` learned from; or none, and why they cannot be had."""
    try:
        return own_dataset(run).train_tokens, None
    except UserError as error:
        return None, error


def _measure(
    model: gpt.GPT, tokenizer: Tokenizer, tokens: np.ndarray, train: np.ndarray | None
) -> dict[str, tuple[SplitLoss | None, float]]:
    """What each method loses on `tokens`, and its bits per character; xz knows no tokens.

    The model's loss is shown before the others are counted: on a large text they take long.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    vocab_size = model.config.vocab_size
    with progress(*columns) as bar:
        task = bar.add_task("Evaluating", total=len(tokens) - 1)
        for so_far in gpt.evaluate_split(model, tokens):
            bar.update(task, completed=so_far.tokens)
        bar.remove_task(task)
        console.print(f"This model: {so_far.mean:.4f} nats per token, perplexity {so_far.perplexity:,.2f}")
        bar.add_task("Counting and compressing", total=None)
        losses = {MODEL: so_far}
        if train is not None:
            losses["bigram"] = bigram(train, tokens, vocab_size)
            losses["unigram"] = unigram(train, tokens, vocab_size)
        losses["uniform guess"] = uniform(tokens, vocab_size)
        characters = count_characters(tokenizer, tokens[1:])
        rows = {name: (loss, loss.bits_per_character(characters)) for name, loss in losses.items()}
        if train is not None:
            before = None if tokens is train else train
            rows["xz -9e"] = (None, xz_bits_per_character(tokenizer, tokens, before))
    return rows


def _table(rows: dict[str, tuple[SplitLoss | None, float]]) -> Table:
    table = Table()
    table.add_column("Method", no_wrap=True)
    for name in ("nats per token", "bits per character", "perplexity"):
        table.add_column(name, justify="right")
    for name, (loss, bits) in sorted(rows.items(), key=lambda row: row[1][1]):
        mean, perplexity = ("-", "-") if loss is None else (f"{loss.mean:.4f}", f"{loss.perplexity:,.2f}")
        table.add_row(name, mean, f"{bits:.4f}", perplexity, style="bold" if name == MODEL else None)
    return table
