"""`mlx-gpt train`: a text in, a run directory out."""

import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import mlx_nanogpt as gpt
from mlx_nanogpt import Dataset, GPTConfig, Run, TrainConfig, UserError

from .screen import (
    INTERRUPTED,
    NAME,
    PATH,
    TEXTS,
    DeviceOption,
    TokenizerOption,
    TrainFractionOption,
    console,
    corpus_note,
    describe_run,
    errors,
    header,
    name_run,
    named_tokenizer,
    own_dataset,
    progress,
    read_data,
    seed_table,
    tokens_per_step,
    use_device,
)

SAMPLE_TOKENS = 200  # as many as NanoLux prints
CLEAR_LINE = "\r\x1b[K"  # of the progress bar
ROW = "{:>9}  {:>10}  {:>10}  {:>10}  {:>10}  {:>10}"
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPING = "Stopping after what is under way, and saving (Ctrl-C again stops at once, unsaved).\n"
# A run that departs from NanoLux's benchmark in these alone stands beside its table.
HOW_LONG = {"num_iter", "eval_iters"}
OF_A_MODEL = {field.name for field in fields(GPTConfig)} - {"dropout"} | {"tokenizer"}
MAY_CHANGE_ON_RESUME = {"resume", "num_iter", "patience", "data", "device"}


def _option(panel: str, help: str, **more) -> typer.models.OptionInfo:
    return typer.Option(help=help, rich_help_panel=panel, **more)


def train(
    ctx: typer.Context,
    data: Annotated[
        list[str],
        _option("Text", f"{TEXTS} Or one folder of tokens, from mlx-gpt prepare or from nanoGPT.", **NAME),
    ] = [gpt.TINYSHAKESPEARE],
    train_fraction: TrainFractionOption = TrainConfig.train_fraction,
    tokenizer: TokenizerOption = "char",
    n_embd: Annotated[
        int, _option("Model", "Width: how many numbers stand for a token between layers.")
    ] = GPTConfig.n_embd,
    head_size: Annotated[
        int, _option("Model", "Channels of one attention head; divides --n-embd, which gives the number of heads.")
    ] = GPTConfig.head_size,
    n_layer: Annotated[int, _option("Model", "Depth: how many transformer blocks.")] = GPTConfig.n_layer,
    block_size: Annotated[int, _option("Model", "Context: tokens that the model sees at once.")] = GPTConfig.block_size,
    dropout: Annotated[
        float, _option("Model", "Share of activations dropped while training, from 0 to less than 1.")
    ] = GPTConfig.dropout,
    bias: Annotated[
        gpt.Bias,
        _option(
            "Model",
            "Which layers have biases: all (GPT-2), none (nanoGPT), or all but queries, keys and values (lecture).",
        ),
    ] = GPTConfig.bias,
    tied: Annotated[
        bool, _option("Model", "Let the output layer be the token embedding, as in GPT-2.")
    ] = GPTConfig.tied,
    activation: Annotated[
        gpt.Activation, _option("Model", "Nonlinearity of the MLPs; GPT-2 has gelu.")
    ] = GPTConfig.activation,
    num_iter: Annotated[int, _option("Training", "Steps, each an update of the weights.")] = TrainConfig.num_iter,
    batch_size: Annotated[
        int, _option("Training", "Windows of --block-size tokens in a batch.")
    ] = TrainConfig.batch_size,
    gradient_accumulation_steps: Annotated[
        int, _option("Training", "Batches in a step, one after the other: a large batch in little memory.")
    ] = TrainConfig.gradient_accumulation_steps,
    seed: Annotated[
        int, _option("Training", "Of everything random: the initial weights, the batches and dropout.")
    ] = TrainConfig.seed,
    learning_rate: Annotated[
        float, _option("Optimizer", "Adam's step size, at its highest.")
    ] = TrainConfig.learning_rate,
    warmup_iters: Annotated[
        int, _option("Optimizer", "Steps in which the rate rises to --learning-rate; 0: it starts there.")
    ] = TrainConfig.warmup_iters,
    lr_decay_iters: Annotated[
        int,
        _option("Optimizer", "Step at which the rate has fallen, along a cosine, to --min-lr; 0: it does not fall."),
    ] = TrainConfig.lr_decay_iters,
    min_lr: Annotated[float, _option("Optimizer", "What the rate falls to by --lr-decay-iters.")] = TrainConfig.min_lr,
    weight_decay: Annotated[
        float, _option("Optimizer", "How much AdamW shrinks weights, matrices only; 0: plain Adam.")
    ] = TrainConfig.weight_decay,
    beta1: Annotated[
        float, _option("Optimizer", "Share of its mean gradient that Adam keeps at a step.")
    ] = TrainConfig.beta1,
    beta2: Annotated[float, _option("Optimizer", "The same for the mean of squared gradients.")] = TrainConfig.beta2,
    grad_clip: Annotated[
        float, _option("Optimizer", "Gradients are scaled down to this norm, of all together; 0: never.")
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
        gpt.Dtype, _option("Machine", "What training computes in; the weights themselves stay float32.")
    ] = TrainConfig.dtype,
    device: DeviceOption = "auto",
    preset: Annotated[
        str | None, _option("Run", "Settings to start from, by name: mlx-gpt presets lists them.")
    ] = None,
    config: Annotated[
        Path | None,
        _option("Run", "Settings to start from, as a TOML file: mlx-gpt config writes one.", **PATH),
    ] = None,
    init_from: Annotated[
        str | None,
        _option(
            "Run",
            "Start from these weights: a run, a folder in the layout of GPT-2, or a name on the Hugging Face hub. "
            "Model and tokenizer come from there; --dropout may be another and --block-size a smaller one.",
            show_default="random numbers",
            **NAME,
        ),
    ] = None,
    run_dir: Annotated[
        Path | None, _option("Run", "Where to keep the run.", show_default="the next number in runs/", **PATH)
    ] = None,
    resume: Annotated[
        Path | None,
        _option("Run", "Go on with this run; only --num-iter, --patience, --data and --device may change.", **PATH),
    ] = None,
) -> None:
    """Train a GPT on a text and keep it in a run directory.

    The defaults are the settings of NanoLux's published benchmark. Ctrl-C saves and says how to go on.

    With a --preset or a --config, what it sets holds unless the option itself is given.
    """
    use_device(device)
    given = {name: value for name, value in ctx.params.items() if ctx.get_parameter_source(name).name == "COMMANDLINE"}
    if resume:
        run, dataset = _resumed(gpt.open_run(resume), given)
    else:
        chosen = _chosen(given)
        values = ctx.params | chosen
        gpt_config, train_config = gpt.configurations(values)
        start, known = _starting_point(values["init_from"], chosen)
        dataset = _dataset(values, given, chosen, known)
        train_config = replace(train_config, train_fraction=dataset.train_fraction)
        gpt_config = start.config if start else replace(gpt_config, vocab_size=dataset.tokenizer.vocab_size)
        gpt.check_fits(gpt_config, train_config, dataset)
        run = gpt.create_run(gpt_config, train_config, dataset, run_dir, values["init_from"])
        if start:
            gpt.start_from(run, start)
    origin = "".join(f" --{name} {shlex.quote(str(given[name]))}" for name in ("preset", "config") if name in given)
    header(f"mlx-gpt train{origin}", describe_run(run, dataset))
    try:
        done = _follow(run, dataset)
    except KeyboardInterrupt:
        if not run.checkpoint.exists():
            errors.print(f"Stopped at once; {run.path} has no checkpoint, so --resume begins it anew.", soft_wrap=True)
        raise
    if done.end == "interrupted":
        piped = ", the same text piped into it" if gpt.STANDARD_INPUT in run.corpus.sources else ""
        console.print(f"\nStopped at iteration {done.iteration}; everything is kept in {run.path}. Go on with{piped}:")
        console.print(f"  mlx-gpt train --resume {shlex.quote(str(run.path))}", soft_wrap=True)
        raise typer.Exit(INTERRUPTED)
    if done.end == "impatient":
        console.print(
            f"\nStopped at iteration {done.iteration}: no better validation loss in {run.train.patience} evaluations."
        )
    _conclude(run, dataset)


def _chosen(given: dict) -> dict:
    """What the user chose: what is given on the command line, and for the rest the preset or the file that it names."""
    if "preset" in given and "config" in given:
        raise UserError("--preset and --config exclude each other; leave out one of them")
    start = {}
    if "preset" in given:
        start = gpt.preset_settings(given["preset"])
    if "config" in given:
        start = gpt.read_settings(given["config"], given)
    if "init_from" in given:  # the model is there: a preset or a file only says how to train it
        start = {name: value for name, value in start.items() if name not in OF_A_MODEL}
    return start | given


def _starting_point(init_from: str | None, chosen: dict) -> tuple[gpt.GPT | None, gpt.Tokenizer | None]:
    """The model that the training starts from, with what was asked of it, and its tokenizer; None for a new one."""
    if init_from is None:
        return None, None
    if "tokenizer" in chosen:
        raise UserError(
            "--tokenizer and --init-from exclude each other, for the model has a tokenizer; leave out one of them"
        )
    model, tokenizer = gpt.load_pretrained(init_from)
    changes = {field.name: chosen[field.name] for field in fields(GPTConfig) if field.name in chosen}
    return gpt.adapted(model, **changes), tokenizer


def _dataset(values: dict, given: dict, chosen: dict, known: gpt.Tokenizer | None) -> Dataset:
    """The text that is asked for, in the tokens of `known` or of the tokenizer that is asked for; or a folder of tokens."""
    source = read_data(values["data"], explicit="data" in chosen)
    if not isinstance(source, Dataset):
        return gpt.tokenize(source, known or named_tokenizer(values["tokenizer"]), values["train_fraction"])
    if "train_fraction" in given:  # one that a preset or a file has gives way
        raise UserError(
            f"{source.corpus.name} holds tokens, split already; leave out --train-fraction, or prepare the text again with "
            f"another"
        )
    kind = source.tokenizer.kind
    if chosen.get("tokenizer", kind) != kind:
        raise UserError(
            f"{source.corpus.name} holds tokens of the kind {kind}, and {chosen['tokenizer']} was chosen; prepare the text "
            f"again with --tokenizer {chosen['tokenizer']}, or choose --tokenizer {kind}"
        )
    if known and known != source.tokenizer:
        raise UserError(
            f"{source.corpus.name} holds the tokens of another tokenizer than that of {values['init_from']}; give the text "
            f"itself"
        )
    return source


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
    dataset = own_dataset(run, read_data(given["data"]) if "data" in given else None)
    done = run.position().iteration
    num_iter = given.get("num_iter", run.train.num_iter)
    finished = any(evaluation.iteration == num_iter for evaluation in run.history())
    if finished or num_iter < done:
        raise UserError(f"the run {run.path} is at iteration {done} already; give a larger --num-iter than {done}")
    return run.extended(num_iter=num_iter, patience=given.get("patience", run.train.patience)), dataset


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
    since = history[-1].iteration if history else 0
    with _stop_request() as should_stop, progress(*columns) as bar:
        task = bar.add_task("Training", total=run.train.num_iter, completed=run.position().iteration, status="")
        for event in gpt.train(run, dataset, should_stop):
            match event:
                case gpt.Progress():
                    speed = (event.iteration - since) * tokens_per_step(run.gpt, run.train) / event.train_seconds
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
    """Turn the first Ctrl-C, kill or end of the terminal into a request to stop in good order; the second Ctrl-C or
    kill stops at once. What was ignored when we were started (nohup, a background job) stays ignored."""
    request = threading.Event()
    before = {each: signal.getsignal(each) for each in STOPS}
    before = {each: handler for each, handler in before.items() if handler is not signal.SIG_IGN}

    def ask(signum: int, frame: object) -> None:
        if request.is_set():
            if signum != signal.SIGHUP:  # a terminal's end is told by the system and again by the shell
                signal.signal(signum, before[signum])
                signal.raise_signal(signum)
            return
        request.set()
        # past the streams: a handler may interrupt a print, and they cannot be entered twice
        with suppress(OSError):  # standard error may be the terminal that is gone
            os.write(2, (CLEAR_LINE if console.is_terminal else "").encode() + STOPPING.encode())

    try:
        for each in before:
            signal.signal(each, ask)
        yield request.is_set
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _conclude(run: Run, dataset: Dataset) -> None:
    history = run.history()
    console.print()
    metrics = gpt.seed_metrics(history)
    differences = gpt.seed_differences(run.gpt, run.train)
    epochs = run.train.num_iter // run.train.eval_interval
    if epochs and differences.keys() <= HOW_LONG and isinstance(run.tokenizer, gpt.CharTokenizer):
        console.print(seed_table({"This run": metrics}, run.corpus.name))
        for note in corpus_note(run.corpus.name):
            console.print(note)
        if differences:
            listed = ", ".join(f"{name} {here} (there {there})" for name, (here, there) in differences.items())
            console.print(f"This run departs from the published settings: {listed}.")
    else:
        console.print(
            f"{sum(each.train_seconds for each in history):.1f} s of training, "
            f"{sum(each.eval_seconds for each in history):.1f} s of evaluation. "
            f"Final loss {metrics.train_loss:.4f} on the training split, {metrics.valid_loss:.4f} on the validation split."
        )
    if dataset.floor is not None:
        above = history[-1].valid_loss - dataset.floor
        console.print(
            f"Nothing can do better on {run.corpus.name}'s validation split than {dataset.floor:.4f} nats per character, the "
            f"entropy of its grammar; this model is {above:.4f} above."
        )
    best = min(history, key=lambda each: each.valid_loss)
    if best is not history[-1]:
        console.print(
            f"The lowest validation loss was {best.valid_loss:.4f} at iteration {best.iteration}; its weights are kept: "
            f"mlx-gpt generate --best{name_run(run)}",
            soft_wrap=True,
        )
    model = run.load_model()
    ids = gpt.generate(model, [run.tokenizer.start_token], SAMPLE_TOKENS, run.train.seed)
    console.print(f"\nA sample of {SAMPLE_TOKENS} tokens", style="bold")
    console.print("".join(run.tokenizer.stream(ids)))
    console.print(f"\nNext: mlx-gpt generate --tokens 500{name_run(run)}", soft_wrap=True)
