"""`mlx-gpt eval`: measures the loss of a model on a whole split or text, beside simple methods."""

from collections.abc import Sequence
from typing import Annotated, Literal

import mlx_nanogpt as gpt
import numpy as np
import typer
from mlx_nanogpt import Corpus, Dataset, Run, SplitLoss, UserError
from mlx_nanogpt.exchange.pretrained import find_model
from mlx_nanogpt.machine import describe_device
from mlx_nanogpt.runs.find import is_own, own_dataset
from mlx_nanogpt.text.baselines import bigram, count_characters, uniform, unigram
from mlx_nanogpt.text.tokenizer import Tokenizer
from rich.progress import Progress
from rich.table import Table

from ..options.settings import with_options
from ..options.shared import NAME, BestOption, DeviceOption, InitFromOption, RunOption, given_options, use_device
from ..options.texts import read_data
from ..screen.consoles import console, make_progress, print_header
from ..screen.describe import describe_weights

MODEL = "> this model"  # its row is bold; the sign marks it in a pipe, too
SPLITS = {"train": "training split", "valid": "validation split"}


def evaluate(
    ctx: typer.Context,
    run: RunOption = None,
    best: BestOption = False,
    init_from: InitFromOption = None,
    split: Annotated[
        Literal["train", "valid", "both"], typer.Option(help="The part of the run's own text to measure.")
    ] = "valid",
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure all of another text, named as in mlx-gpt train, or a folder of tokens by its own splits; or find "
            "the run's own text here, if it was moved.",
            show_default="the run's own",
            **NAME,
        ),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Measure a trained run exactly, beside a bigram, a unigram and a uniform guess.

    Every token but the first is predicted once, from windows of --block-size tokens that follow each other.

    The bigram and the unigram learn from the run's training split.

    A folder of tokens of another text has its own splits: --split chooses one, and the bigram and the unigram
    learn from its training split.
    """
    use_device(device)
    if init_from and not data:
        raise UserError(f"{init_from} comes without a text to evaluate it on", "give one with `data`")
    model, tokenizer, source = find_model(run, best, init_from)
    text = _load_text(source, data)
    if isinstance(text, Dataset):
        parts = _choose_splits(text, tokenizer, split)
    elif "split" in given_options(ctx):
        raise UserError(
            f"{text.identity.name} is not the text that the model learned from, so it has no splits",
            "leave out `split`",
        )
    else:
        parts = {text.identity.name: tokenizer.encode(text.text)}
    if source:
        origin = {"Run": describe_weights(source, best)}
    else:
        origin = {"Model": f"{init_from}: {model.num_parameters():,} parameters"}
    print_header("mlx-gpt eval", {"Device": describe_device()} | origin)
    train_tokens = text.train_tokens if isinstance(text, Dataset) else _find_training_split(source)
    for name, tokens in parts.items():
        console.print(f"\n{name}: {len(tokens) - 1:,} tokens in windows of {model.config.block_size}", style="bold")
        losses = _measure(model, tokens, train_tokens)
        console.print(_make_table(losses, count_characters(tokenizer, tokens[1:])))


def _load_text(run: Run | None, data: Sequence[str] | None) -> Corpus | Dataset:
    """Load the text that `data` names, or that `run` learned from. If they are the same text, it has the splits of the run."""
    if not data:
        return own_dataset(run)
    text = read_data(data)
    return own_dataset(run, text) if run and is_own(run, text) else text


def _choose_splits(dataset: Dataset, tokenizer: Tokenizer, split: str) -> dict[str, np.ndarray]:
    """Return the tokens of `split`, or of both, by their titles."""
    if dataset.tokenizer != tokenizer:
        raise UserError(f"{dataset.corpus.name} holds the tokens of another tokenizer", "give a text with `data`")
    chosen = list(SPLITS) if split == "both" else [split]
    return {f"{dataset.corpus.name}, {SPLITS[name]}": getattr(dataset, f"{name}_tokens") for name in chosen}


def _find_training_split(run: Run | None) -> np.ndarray | None:
    """Return the tokens that `run` learned from; without them print why, and return None."""
    try:
        if run:
            return own_dataset(run).train_tokens
        problem = "an exported model comes without it"
    except UserError as error:
        problem = with_options(str(error))
    console.print(f"Bigram and unigram need the training text: {problem}.", style="yellow")
    return None


def _measure(model: gpt.GPT, tokens: np.ndarray, train_tokens: np.ndarray | None) -> dict[str, SplitLoss]:
    """Measure each method on `tokens`; return the losses by name.

    The model's loss is printed before the other methods start, which take long on a large text.
    """
    vocab_size = model.config.vocab_size
    with make_progress(*Progress.get_default_columns()) as bar:
        task = bar.add_task("Evaluating", total=len(tokens) - 1)
        for loss in gpt.evaluate_split(model, tokens):  # of more and more tokens
            bar.update(task, completed=loss.tokens)
        bar.remove_task(task)
        console.print(f"This model: {loss.mean:.4f} nats per token, perplexity {loss.perplexity:,.2f}")
        bar.add_task("Counting", total=None)
        losses = {MODEL: loss, "uniform guess": uniform(tokens, vocab_size)}
        if train_tokens is not None:
            losses["bigram"] = bigram(train_tokens, tokens, vocab_size)
            losses["unigram"] = unigram(train_tokens, tokens, vocab_size)
    return losses


def _make_table(losses: dict[str, SplitLoss], characters: int) -> Table:
    """Make a table of the losses, the lowest first, on tokens whose text has so many `characters`."""
    table = Table()
    table.add_column("Method", no_wrap=True)
    for name in ("nats per token", "bits per character", "perplexity"):
        table.add_column(name, justify="right")
    for name, loss in sorted(losses.items(), key=lambda item: item[1].mean):
        bits = loss.bits_per_character(characters)
        style = "bold" if name == MODEL else None
        table.add_row(name, f"{loss.mean:.4f}", f"{bits:.4f}", f"{loss.perplexity:,.2f}", style=style)
    return table
