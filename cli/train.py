"""`mlx-gpt train`: a text in, a run directory out."""

import math
import os
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import mlx_nanogpt as gpt
import typer
from mlx_nanogpt import Dataset, GPTConfig, Run, TrainConfig, UserError
from mlx_nanogpt.benchmark import nanolux_differences, nanolux_metrics
from mlx_nanogpt.config import Activation, Backend, Bias, Dtype
from mlx_nanogpt.config_file import preset_settings, read_config_file
from mlx_nanogpt.errors import printable
from mlx_nanogpt.model import adapted
from mlx_nanogpt.run import MAY_CHANGE
from mlx_nanogpt.text.corpus import TINYSHAKESPEARE
from mlx_nanogpt.text.identity import STANDARD_INPUT
from mlx_nanogpt.text.tokenizer import Tokenizer
from mlx_nanogpt.training import check_fits, start_from
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from .forecast import Forecast
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
    nanolux_table,
    own_dataset,
    progress,
    read_data,
    tokens_per_step,
    use_device,
)

SAMPLE_TOKENS = 200  # as many as NanoLux prints
SHORT_SAMPLE_TOKENS = 60  # less than a context, where tokens are cheap, and than a line of characters
INDENT = " " * 11  # of a short sample: below the losses of its row
UNTRAINED = 1.0  # nats above a uniform guess; a model of random weights is less, one that was thrown out more
CLEAR_LINE = "\r\x1b[K"  # of the progress bar
ROW = "{:>9}  {:>10}  {:>10}  {:>10}  {:>10}  {:>10}"
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPING = "Stopping after what is under way, and saving (Ctrl-C again stops at once, unsaved).\n"
# A run that departs from NanoLux's benchmark in these alone stands beside its table.
HOW_LONG = {"num_iter", "eval_iters"}
OF_A_MODEL = {field.name for field in fields(GPTConfig)} - {"dropout"} | {"tokenizer"}
MAY_CHANGE_ON_RESUME = {*MAY_CHANGE, "resume", "data", "device"}


def _option(panel: str, help: str, **more) -> typer.models.OptionInfo:
    return typer.Option(help=help, rich_help_panel=panel, **more)


def train(
    ctx: typer.Context,
    data: Annotated[
        list[str],
        _option("Text", f"{TEXTS} Or one folder of tokens, from mlx-gpt prepare or from nanoGPT.", **NAME),
    ] = [TINYSHAKESPEARE],
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
        Bias,
        _option(
            "Model",
            "Which layers have biases: all (GPT-2), none (nanoGPT), or all but queries, keys and values (lecture).",
        ),
    ] = GPTConfig.bias,
    tied: Annotated[
        bool, _option("Model", "Let the output layer be the token embedding, as in GPT-2.")
    ] = GPTConfig.tied,
    activation: Annotated[
        Activation, _option("Model", "Nonlinearity of the MLPs; GPT-2 has gelu.")
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
        Backend, _option("Machine", "compiled: through mx.compile. eager: one operation at a time.")
    ] = TrainConfig.backend,
    dtype: Annotated[
        Dtype, _option("Machine", "What training computes in; the weights themselves stay float32.")
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
        check_fits(gpt_config, train_config, dataset)
        run = gpt.create_run(gpt_config, train_config, dataset, run_dir, values["init_from"])
        if start:
            start_from(run, start)
    origin = "".join(f" --{name} {shlex.quote(str(given[name]))}" for name in ("preset", "config") if name in given)
    header(f"mlx-gpt train{origin}", describe_run(run, dataset))
    try:
        done = _follow(run, dataset)
    except KeyboardInterrupt:
        if not run.checkpoint.exists():
            errors.print(f"Stopped at once; {run.path} has no checkpoint, so --resume begins it anew.", soft_wrap=True)
        raise
    if done.path != run.path:
        console.print(f"\n{run.path} was moved while it was trained; the run is now {done.path}.", soft_wrap=True)
        run = replace(run, path=done.path)
    if done.end == "interrupted":
        piped = ", the same text piped into it" if STANDARD_INPUT in run.corpus.sources else ""
        console.print(f"\nStopped at iteration {done.iteration}; everything is kept in {run.path}. Go on with{piped}:")
        console.print(f"  mlx-gpt train --resume {shlex.quote(str(run.path))}", soft_wrap=True)
        raise typer.Exit(INTERRUPTED)
    if done.end == "impatient":
        console.print(
            f"\nStopped at iteration {done.iteration}: no better validation loss in {run.train_config.patience} evaluations."
        )
    _conclude(run, dataset)


def _chosen(given: dict) -> dict:
    """What the user chose: what is given on the command line, and for the rest the preset or the file that it names."""
    if "preset" in given and "config" in given:
        raise UserError("--preset and --config exclude each other; leave out one of them")
    start = {}
    if "preset" in given:
        start = preset_settings(given["preset"])
    if "config" in given:
        start = read_config_file(given["config"], given)
    if "init_from" in given:  # the model is there: a preset or a file only says how to train it
        start = {name: value for name, value in start.items() if name not in OF_A_MODEL}
    return start | given


def _starting_point(init_from: str | None, chosen: dict) -> tuple[gpt.GPT | None, Tokenizer | None]:
    """The model that the training starts from, with what was asked of it, and its tokenizer; None for a new one."""
    if init_from is None:
        return None, None
    if "tokenizer" in chosen:
        raise UserError(
            "--tokenizer and --init-from exclude each other, for the model has a tokenizer; leave out one of them"
        )
    model, tokenizer = gpt.load_pretrained(init_from)
    changes = {field.name: chosen[field.name] for field in fields(GPTConfig) if field.name in chosen}
    return adapted(model, **changes), tokenizer


def _dataset(values: dict, given: dict, chosen: dict, known: Tokenizer | None) -> Dataset:
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
    own = asdict(run.gpt_config) | asdict(run.train_config)
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
    num_iter = given.get("num_iter", run.train_config.num_iter)
    finished = any(evaluation.iteration == num_iter for evaluation in run.history())
    if finished or num_iter < done:
        raise UserError(f"the run {run.path} is at iteration {done} already; give a larger --num-iter than {done}")
    return run.extended(num_iter=num_iter, patience=given.get("patience", run.train_config.patience)), dataset


def _follow(run: Run, dataset: Dataset) -> gpt.Done:
    """Train, showing what happens; return how it ended."""
    titles = ROW.format("iteration", "train loss", "valid loss", "training", "evaluation", "tokens/s")
    console.print(f"\n{titles}", style="bold")
    history = run.history()
    for evaluation in history:
        console.print(_row(evaluation))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
        TimeLeftColumn(),
    )
    since, position = history[-1].iteration if history else 0, run.position()
    forecast = Forecast(run.gpt_config, run.train_config, history, position.iteration)
    seconds_before = sum(each.train_seconds + each.eval_seconds for each in history) + position.train_seconds
    with _stop_request() as should_stop, progress(*columns) as bar:
        task = bar.add_task("Starting", total=None, status="", end=None)
        started = before = time.monotonic()
        for event in gpt.train(run, dataset, should_stop, SHORT_SAMPLE_TOKENS):
            now = time.monotonic()
            forecast.note(event, now - before)
            before = now
            match event:
                case gpt.Progress():
                    speed = (
                        (event.iteration - since)
                        * tokens_per_step(run.gpt_config, run.train_config)
                        / event.train_seconds
                    )
                    step = f"Step {event.iteration:,}/{run.train_config.num_iter:,}"
                    bar.update(task, description=step, status=f"loss {event.loss:.3f}, {speed:,.0f} tokens/s")
                case gpt.Evaluating():
                    status = f"evaluating: {event.windows / event.total:.0%}"
                    bar.update(
                        task, description=f"Step {event.iteration:,}/{run.train_config.num_iter:,}", status=status
                    )
                case gpt.Evaluation():
                    since = event.iteration
                    console.print(_row(event))
                case gpt.Sample():
                    console.print(_short(run.tokenizer.stream(event.tokens)))
                case gpt.Done():
                    return event
            if (remaining := forecast.remaining()) is not None:
                elapsed = seconds_before + now - started
                bar.update(task, completed=elapsed, total=elapsed + remaining, end=now + remaining)
    raise AssertionError("training ends with Done")


class TimeLeftColumn(ProgressColumn):
    """Counts down to the task's field `end`, in seconds of the monotonic clock."""

    def render(self, task: Task) -> Text:
        end = task.fields["end"]
        left = "-:--:--" if end is None else timedelta(seconds=round(max(end - time.monotonic(), 0)))
        return Text(f"{left} left", style="progress.remaining")


def _short(pieces: Iterable[str]) -> Text:
    """A sample as one line that fits the screen."""
    line = Text(INDENT + printable(" / ".join("".join(pieces).split("\n"))), style="dim")
    line.truncate(console.width, overflow="ellipsis")
    return line


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
    """Turn the first Ctrl-C, kill or end of the terminal into a request to stop in good order; the second Ctrl-C or kill
    stops at once. What was ignored when we were started (nohup, a background job) stays ignored."""
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


def _went_wrong(run: Run, loss: float) -> str | None:
    """What is to be said of a last validation loss that is above that of a uniform guess."""
    guess = math.log(run.gpt_config.vocab_size)
    if loss <= guess:
        return None
    above = f"The validation loss, {loss:.3g}, is above that of a uniform guess, {guess:.3g}"
    lower = f"a lower --learning-rate than {run.train_config.learning_rate:g}"
    if loss - guess < UNTRAINED:
        return (
            f"{above}: the model has learned nothing; try more --num-iter than {run.train_config.num_iter}, or {lower}."
        )
    return f"{above}: the training went wrong; try {lower}."


def _conclude(run: Run, dataset: Dataset) -> None:
    history = run.history()
    console.print()
    metrics = nanolux_metrics(history)
    differences = nanolux_differences(run.gpt_config, run.train_config)
    epochs = run.train_config.num_iter // run.train_config.eval_interval
    if epochs and differences.keys() <= HOW_LONG and isinstance(run.tokenizer, gpt.CharTokenizer):
        console.print(nanolux_table({"This run": metrics}, run.corpus.name))
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
    if why := _went_wrong(run, history[-1].valid_loss):
        console.print(why, style="yellow")
    best = min(history, key=lambda each: each.valid_loss)
    if best is not history[-1]:
        console.print(
            f"The lowest validation loss was {best.valid_loss:.4f} at iteration {best.iteration}; its weights are kept: "
            f"mlx-gpt generate --best{name_run(run)}",
            soft_wrap=True,
        )
    model = run.load_model()
    ids = gpt.generate(model, [run.tokenizer.start_token], SAMPLE_TOKENS, run.train_config.seed)
    console.print(f"\nA sample of {SAMPLE_TOKENS} tokens", style="bold")
    console.print("".join(run.tokenizer.stream(ids)))
    console.print(f"\nNext: mlx-gpt generate --tokens 500{name_run(run)}", soft_wrap=True)
