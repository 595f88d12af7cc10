"""`mlx-gpt train`: a text in, a run directory out."""

import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

import mlx_nanogpt as gpt
from mlx_nanogpt import Dataset, GPTConfig, Run, TrainConfig, UserError

from .screen import (
    INTERRUPTED,
    DeviceOption,
    comparability,
    console,
    describe_run,
    header,
    load_corpus,
    name_run,
    seed_table,
    use_device,
)

SAMPLE_TOKENS = 200  # as many as NanoLux prints
CLEAR_LINE = "\r\x1b[K"  # of the progress bar
ROW = "{:>9}  {:>10}  {:>10}  {:>10}  {:>10}  {:>10}"
STOPPING = "Stopping after what is under way, and saving (Ctrl-C again stops at once, unsaved).\n"
MAY_CHANGE_ON_RESUME = {"resume", "num_iter", "patience", "data", "device"}


def _option(panel: str, help: str, **more) -> typer.models.OptionInfo:
    return typer.Option(help=help, rich_help_panel=panel, **more)


def train(
    ctx: typer.Context,
    data: Annotated[
        str,
        _option("Text", "tinyshakespeare (downloaded once), pastiche (built in), or the path of a UTF-8 text file."),
    ] = gpt.TINYSHAKESPEARE,
    train_fraction: Annotated[
        float, _option("Text", "Share of the text, from its beginning, to learn from; the rest validates.")
    ] = TrainConfig.train_fraction,
    tokenizer: Annotated[
        Literal["char", "gpt2"],
        _option("Text", "char: one token per character of the text. gpt2: GPT-2's byte pairs."),
    ] = "char",
    n_embd: Annotated[int, _option("Model", "Width: channels of the residual stream.")] = GPTConfig.n_embd,
    head_size: Annotated[
        int, _option("Model", "Channels of one attention head; divides --n-embd, which gives the number of heads.")
    ] = GPTConfig.head_size,
    n_layer: Annotated[int, _option("Model", "Depth: transformer blocks.")] = GPTConfig.n_layer,
    block_size: Annotated[int, _option("Model", "Context: tokens that the model sees at once.")] = GPTConfig.block_size,
    dropout: Annotated[
        float, _option("Model", "Share of activations dropped while training, from 0 to less than 1.")
    ] = GPTConfig.dropout,
    bias: Annotated[
        gpt.Bias, _option("Model", "Which layers have biases; lecture: all but queries, keys and values.")
    ] = GPTConfig.bias,
    tied: Annotated[bool, _option("Model", "Let the head be the token embedding, as in GPT-2.")] = GPTConfig.tied,
    activation: Annotated[gpt.Activation, _option("Model", "Between the two layers of an MLP.")] = GPTConfig.activation,
    num_iter: Annotated[int, _option("Training", "Steps, each an update of the weights.")] = TrainConfig.num_iter,
    batch_size: Annotated[
        int, _option("Training", "Windows of --block-size tokens in a batch.")
    ] = TrainConfig.batch_size,
    gradient_accumulation_steps: Annotated[
        int, _option("Training", "Batches in a step, one after the other: a large batch in little memory.")
    ] = TrainConfig.gradient_accumulation_steps,
    seed: Annotated[int, _option("Training", "Of the initial weights, the batches and dropout.")] = TrainConfig.seed,
    learning_rate: Annotated[float, _option("Optimizer", "Adam's step size, the highest.")] = TrainConfig.learning_rate,
    warmup_iters: Annotated[int, _option("Optimizer", "Steps in which the rate rises.")] = TrainConfig.warmup_iters,
    lr_decay_iters: Annotated[
        int,
        _option("Optimizer", "Step at which the rate has fallen, along a cosine, to --min-lr; 0: it does not fall."),
    ] = TrainConfig.lr_decay_iters,
    min_lr: Annotated[float, _option("Optimizer", "What the rate falls to.")] = TrainConfig.min_lr,
    weight_decay: Annotated[float, _option("Optimizer", "AdamW's, on matrices only.")] = TrainConfig.weight_decay,
    beta1: Annotated[float, _option("Optimizer", "Adam's memory of gradients.")] = TrainConfig.beta1,
    beta2: Annotated[float, _option("Optimizer", "Adam's memory of their squares.")] = TrainConfig.beta2,
    grad_clip: Annotated[
        float, _option("Optimizer", "Largest norm of all gradients together; 0: any.")
    ] = TrainConfig.grad_clip,
    eval_interval: Annotated[
        int, _option("Evaluation", "Steps between two evaluations; each is followed by a checkpoint.")
    ] = TrainConfig.eval_interval,
    eval_iters: Annotated[
        int, _option("Evaluation", "Batches of each split that an evaluation reads; NanoLux reads 1000.")
    ] = TrainConfig.eval_iters,
    patience: Annotated[
        int, _option("Evaluation", "Stop after this many evaluations without a better validation loss; 0: never.")
    ] = TrainConfig.patience,
    backend: Annotated[
        gpt.Backend, _option("Machine", "compiled: through mx.compile. eager: one operation at a time.")
    ] = TrainConfig.backend,
    dtype: Annotated[
        gpt.Dtype, _option("Machine", "What the model computes in while training; its weights are float32.")
    ] = TrainConfig.dtype,
    device: DeviceOption = "auto",
    init_from: Annotated[
        str | None,
        _option(
            "Run",
            "Start from these weights: a run, a folder in the layout of GPT-2, or a name on the Hugging Face hub. "
            "Model and tokenizer come from there; --dropout may be another and --block-size a smaller one.",
            show_default="random numbers",
        ),
    ] = None,
    run_dir: Annotated[
        Path | None, _option("Run", "Where to keep the run.", show_default="the next number in runs/")
    ] = None,
    resume: Annotated[
        Path | None,
        _option("Run", "Go on with this run; only --num-iter, --patience, --data and --device may change."),
    ] = None,
) -> None:
    """Train a GPT on a text and keep it in a run directory.

    The defaults are the settings of NanoLux's published benchmark. Ctrl-C saves and says how to go on.
    """
    use_device(device)
    given = {name: value for name, value in ctx.params.items() if ctx.get_parameter_source(name).name == "COMMANDLINE"}
    if resume:
        run, dataset = _resumed(gpt.open_run(resume), given)
    else:
        train_config = TrainConfig(**_fields(TrainConfig, ctx.params))
        start, known = _starting_point(init_from, given)
        if tokenizer == "gpt2":
            known = gpt.gpt2_tokenizer()
        dataset = gpt.tokenize(load_corpus(data, explicit="data" in given), known, train_fraction)
        if start:
            gpt_config = start.config
        else:
            gpt_config = GPTConfig(**_fields(GPTConfig, ctx.params | {"vocab_size": dataset.tokenizer.vocab_size}))
        gpt.check_fits(gpt_config, train_config, dataset)
        run = gpt.create_run(gpt_config, train_config, dataset, run_dir, init_from)
        if start:
            gpt.start_from(run, start)
    header("mlx-gpt train", describe_run(run))
    done = _follow(run, dataset)
    if done.end == "interrupted":
        console.print(f"\nStopped at iteration {done.iteration}; everything is kept in {run.path}. Go on with:")
        console.print(f"  mlx-gpt train --resume {shlex.quote(str(run.path))}", soft_wrap=True)
        raise typer.Exit(INTERRUPTED)
    if done.end == "impatient":
        console.print(
            f"\nStopped at iteration {done.iteration}: no better validation loss in {run.train.patience} evaluations."
        )
    _conclude(run, dataset)


def _fields(config: type, values: dict) -> dict:
    return {field.name: values[field.name] for field in fields(config)}


def _starting_point(init_from: str | None, given: dict) -> tuple[gpt.GPT | None, gpt.Tokenizer | None]:
    """The model that the training starts from, with what was asked of it, and its tokenizer; None for a new one."""
    if init_from is None:
        return None, None
    if "tokenizer" in given:
        raise UserError(
            "--tokenizer and --init-from exclude each other, for the model has a tokenizer; leave out one of them"
        )
    model, tokenizer = gpt.load_pretrained(init_from)
    changes = {field.name: given[field.name] for field in fields(GPTConfig) if field.name in given}
    return gpt.adapted(model, **changes), tokenizer


def _resumed(run: Run, given: dict) -> tuple[Run, Dataset]:
    own = asdict(run.gpt) | asdict(run.train)
    for name in given.keys() - MAY_CHANGE_ON_RESUME:
        if name not in own:
            raise UserError(f"--{name.replace('_', '-')} and --resume exclude each other; leave out one of them")
        if given[name] != own[name]:
            raise UserError(
                f"the run {run.path} has {name} {own[name]} and cannot go on with {given[name]}; leave the option out, or "
                f"start a new run without --resume"
            )
    corpus = gpt.load_corpus(given.get("data", run.corpus.sources[0]))
    if corpus.identity.sha256 != run.corpus.sha256:
        raise UserError(
            f"the run {run.path} learned from another text than {corpus.identity.name} holds now; give the file that it learned "
            f"from with --data, or start a new run without --resume"
        )
    done = run.position().iteration
    num_iter = given.get("num_iter", run.train.num_iter)
    finished = any(evaluation.iteration == num_iter for evaluation in run.history())
    if finished or num_iter < done:
        raise UserError(f"the run {run.path} is at iteration {done} already; give a larger --num-iter than {done}")
    run = run.extended(num_iter=num_iter, patience=given.get("patience", run.train.patience))
    return run, gpt.tokenize(corpus, run.tokenizer, run.train.train_fraction)


def _follow(run: Run, dataset: Dataset) -> gpt.Done:
    """Train, showing what happens; return how it ended."""
    titles = ROW.format("iteration", "train loss", "valid loss", "training", "evaluation", "tokens/s")
    console.print(f"\n{titles}", style="bold")
    history = run.history()
    for evaluation in history:
        console.print(_row(evaluation))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    tokens_per_step = run.train.gradient_accumulation_steps * run.train.batch_size * run.gpt.block_size
    since = history[-1].iteration if history else 0
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with _stop_request() as should_stop, progress as bar:
        task = bar.add_task("Training", total=run.train.num_iter, completed=run.position().iteration, status="")
        for event in gpt.train(run, dataset, should_stop):
            match event:
                case gpt.Progress():
                    speed = (event.iteration - since) * tokens_per_step / event.train_seconds
                    status = f"loss {event.loss:.3f}, {speed:,.0f} tokens/s"
                    bar.update(task, description="Training", completed=event.iteration, status=status)
                case gpt.Evaluating():
                    batches = f"2 x {run.train.eval_iters:,} batches"
                    bar.update(task, description="Evaluating", completed=event.iteration, status=batches)
                case gpt.Evaluation():
                    since = event.iteration
                    console.print(_row(event))
                case gpt.Done():
                    return event
    raise AssertionError("training ends with Done")


def _row(evaluation: gpt.Evaluation) -> str:
    return ROW.format(
        evaluation.iteration,
        f"{evaluation.train_loss:.4f}",
        f"{evaluation.valid_loss:.4f}",
        f"{evaluation.train_seconds:.2f} s",
        f"{evaluation.eval_seconds:.2f} s",
        f"{evaluation.train_tokens / evaluation.train_seconds:,.0f}",
    )


@contextmanager
def _stop_request() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a request to stop in good order; the second stops at once."""
    request = threading.Event()

    def ask(signum: int, frame: object) -> None:
        request.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # past the streams: a handler may interrupt a print, and they cannot be entered twice
        os.write(2, (CLEAR_LINE if console.is_terminal else "").encode() + STOPPING.encode())

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield request.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _conclude(run: Run, dataset: Dataset) -> None:
    history = run.history()
    console.print()
    console.print(seed_table({"This run": gpt.seed_metrics(history)}, run.corpus.name))
    for note in comparability(run):
        console.print(note)
    if dataset.floor is not None:
        above = history[-1].valid_loss - dataset.floor
        console.print(
            f"Nothing can do better on {run.corpus.name}'s validation split than {dataset.floor:.4f} nats per character, the "
            f"entropy of its grammar; this model is {above:.4f} above."
        )
    model = run.load_model()
    ids = gpt.generate(model, [run.tokenizer.start_token], SAMPLE_TOKENS, run.train.seed)
    console.print(f"\nA sample of {SAMPLE_TOKENS} tokens", style="bold")
    console.print(Text("".join(run.tokenizer.stream(ids))))
    console.print(f"\nNext: mlx-gpt generate --tokens 500{name_run(run)}", soft_wrap=True)
