"""`mlx-gpt eval`: measures the loss of a model on a whole split or text, beside simple methods."""

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import mlx_nanogpt as gpt
import numpy as np
import typer
from mlx_nanogpt import Corpus, Dataset, Run, SplitLoss, UserError
from mlx_nanogpt.evaluation import evaluate_split
from mlx_nanogpt.exchange.pretrained import find_model
from mlx_nanogpt.machine import describe_device
from mlx_nanogpt.runs.find import is_own, own_dataset, read_for
from mlx_nanogpt.text.baselines import bigram, count_characters, uniform, unigram, xz_bits_per_character
from mlx_nanogpt.text.corpus import choose_texts, is_token_folder, read_corpus
from mlx_nanogpt.text.identity import Texts
from mlx_nanogpt.text.token_files import open_token_folder
from mlx_nanogpt.text.tokenizer import Tokenizer
from rich.progress import Progress
from rich.table import Table

from ..options.settings import with_options
from ..options.shared import NAME, DeviceOption, InitFromOption, LastOption, RunArgument, given_options, use_device
from ..screen.consoles import console, make_progress, print_header
from ..screen.describe import describe_weights

MODEL = "> this model"  # its row is bold; the sign marks it in a pipe, too
SPLITS = {"train": "training split", "valid": "validation split"}


def evaluate(
    ctx: typer.Context,
    run: RunArgument = None,
    last: LastOption = False,
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
    """Measure a trained run exactly, beside a bigram, a unigram, xz and a uniform guess.

    Every token but the first is predicted once, from windows of --block-size tokens that follow each other.

    The bigram and the unigram learn from the run's training split, and xz first reads its last 64 MiB.

    A folder of tokens has its own splits: --split chooses one, and the simple methods learn from its training split.
    """
    use_device(device)
    if init_from and not data:
        raise UserError(f"{init_from} comes without a text to evaluate it on", "give one with `data`")
    model, tokenizer, source = find_model(run, last, init_from)
    text = _load_text(source, tokenizer, data)
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
        origin = {"Run": describe_weights(source, last)}
    else:
        origin = {"Model": f"{init_from}: {model.num_parameters():,} parameters"}
    print_header("mlx-gpt eval", {"Device": describe_device()} | origin)
    train_tokens = text.train_tokens if isinstance(text, Dataset) else _find_training_split(source)
    for name, tokens in parts.items():
        console.print(f"\n{name}: {len(tokens) - 1:,} tokens in windows of {model.config.block_size}", style="bold")
        console.print(_make_table(_measure(model, tokenizer, tokens, train_tokens)))


def _load_text(run: Run | None, tokenizer: Tokenizer, data: Sequence[str] | None) -> Corpus | Dataset:
    """Load the text that `data` names, or that `run` learned from. If they are the same text, it has the splits of the run; another
    text is read whole, in the documents of the run or of its kind."""
    if run:
        text = read_for(run, data) if data else None
        if text is None or is_own(run, text):
            return own_dataset(run, text)
    names = tuple(data or ())
    if is_token_folder(names):
        return open_token_folder(names[0])
    documents = run.corpus.documents if run else choose_texts(names).documents if tokenizer.marks else "none"
    return read_corpus(Texts(names, documents))


def _choose_splits(dataset: Dataset, tokenizer: Tokenizer, split: str) -> dict[str, np.ndarray]:
    """Return the tokens of `split`, or of both, by their titles."""
    if dataset.tokenizer != tokenizer:
        raise UserError(f"{dataset.corpus.name} holds the tokens of another tokenizer", "give a text with `data`")
    chosen = list(SPLITS) if split == "both" else [split]
    names = {"train": dataset.corpus.name, "valid": " + ".join(dataset.corpus.valid) or dataset.corpus.name}
    return {f"{names[split]}, {SPLITS[split]}": getattr(dataset, f"{split}_tokens") for split in chosen}


def _find_training_split(run: Run | None) -> np.ndarray | None:
    """Return the tokens that `run` learned from; without them print why, and return None."""
    try:
        if run:
            return own_dataset(run).train_tokens
        problem = "an exported model comes without it"
    except UserError as error:
        problem = with_options(str(error))
    console.print(f"Bigram, unigram and xz need the training text: {problem}.", style="yellow")
    return None


class Row(NamedTuple):
    """The result of a method. xz knows no tokens, so it has no `loss`."""

    loss: SplitLoss | None
    bits_per_character: float


def _measure(
    model: gpt.GPT, tokenizer: Tokenizer, tokens: np.ndarray, train_tokens: np.ndarray | None
) -> dict[str, Row]:
    """Measure each method on `tokens`; return the results by name.

    The model's loss is printed before the other methods start, which take long on a large text.
    """
    vocab_size = model.config.vocab_size
    with make_progress(*Progress.get_default_columns()) as bar:
        task = bar.add_task("Evaluating", total=len(tokens) - 1)
        for loss in evaluate_split(model, tokens):  # of more and more tokens
            bar.update(task, completed=loss.tokens)
        bar.remove_task(task)
        console.print(f"This model: {loss.mean:.4f} nats per token, perplexity {loss.perplexity:,.2f}")
        bar.add_task("Counting and compressing", total=None)
        losses = {MODEL: loss}
        if train_tokens is not None:
            losses["bigram"] = bigram(train_tokens, tokens, vocab_size)
            losses["unigram"] = unigram(train_tokens, tokens, vocab_size)
        losses["uniform guess"] = uniform(tokens, vocab_size)
        characters = count_characters(tokenizer, tokens[1:])
        rows = {name: Row(loss, loss.bits_per_character(characters)) for name, loss in losses.items()}
        if train_tokens is not None:
            before = None if tokens is train_tokens else train_tokens
            rows["xz -9e"] = Row(None, xz_bits_per_character(tokenizer, tokens, before))
    return rows


def _make_table(rows: dict[str, Row]) -> Table:
    table = Table()
    table.add_column("Method", no_wrap=True)
    for name in ("nats per token", "bits per character", "perplexity"):
        table.add_column(name, justify="right")
    for name, row in sorted(rows.items(), key=lambda item: item[1].bits_per_character):
        mean, perplexity = ("-", "-") if row.loss is None else (f"{row.loss.mean:.4f}", f"{row.loss.perplexity:,.2f}")
        table.add_row(name, mean, f"{row.bits_per_character:.4f}", perplexity, style="bold" if name == MODEL else None)
    return table
