"""`mlx-gpt plan`: what a training takes on this machine, before it is started."""

import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any

import mlx_nanogpt as gpt
import mlx.core as mx
import typer
from mlx_nanogpt import Corpus, Dataset, GPTConfig, TrainConfig, UserError
from mlx_nanogpt.config import SETTINGS, TEXT, tokens_per_step
from mlx_nanogpt.machine import describe_device
from mlx_nanogpt.measure.benchmark import Stage
from mlx_nanogpt.measure.plan import FEW_EPOCHS, MANY_EPOCHS, Plan, make_plan, split_batches
from mlx_nanogpt.text.byte_pairs import GPT2_SIZE
from mlx_nanogpt.text.dataset import check_splits
from mlx_nanogpt.text.tinyshakespeare import BYTES as CHARACTERS
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..options.settings import with_options, with_settings
from ..options.shared import (
    NAME,
    TEXTS,
    DeviceOption,
    TokenizerOption,
    VocabSizeOption,
    given_options,
    use_device,
)
from ..options.start import ConfigOption, PresetOption, starting_settings
from ..options.texts import check_tokens, read_data, wanted_size, wanted_tokens
from ..screen.consoles import console, header, print_lines, progress
from ..screen.describe import describe_model, describe_training

LONG = 3600  # seconds; a first training should not take longer
VERY_LONG = 14 * 86_400
UNITS = {"years": 31_557_600, "days": 86_400, "h": 3600, "min": 60}

TextOption = Annotated[
    list[str] | None,
    typer.Option(help=TEXTS, show_default="the size of tiny Shakespeare", rich_help_panel=TEXT, **NAME),
]


@with_settings
def plan(
    ctx: typer.Context,
    data: TextOption = None,
    tokenizer: TokenizerOption = "char",
    vocab_size: VocabSizeOption = None,
    device: DeviceOption = "auto",
    preset: PresetOption = None,
    config: ConfigOption = None,
    **settings: Any,
) -> None:
    """Say what a training takes on this machine, and whether it fits; a few real steps are measured.

    Without settings, a preset or a file: one row for each preset, and a recommendation.
    """
    use_device(device)
    given = given_options(ctx)
    chosen = starting_settings(preset, config, given) | given
    values = settings | {"data": data, "tokenizer": tokenizer} | chosen
    text = read_data(values["data"]) if values["data"] else None
    if chosen.keys() & {*SETTINGS, "preset", "config"}:
        _print_plan(*_configurations(values, chosen, text))
    else:
        _print_presets(chosen, text)


def _configurations(
    values: Mapping, chosen: Mapping, data: Corpus | Dataset | None
) -> tuple[GPTConfig, TrainConfig, int | None]:
    """Both configurations, and how many tokens there are to train on, if that is known. `chosen` are those of `values` that are
    no defaults."""
    gpt_config, train_config = gpt.configurations(
        {**values, "vocab_size": GPTConfig.vocab_size}
    )  # the tokenizer says it
    if data:
        dataset = _dataset(data, values, chosen, train_config)
        check_splits(dataset, gpt_config.block_size)
        return replace(gpt_config, vocab_size=dataset.tokenizer.vocab_size), train_config, len(dataset.train_tokens)
    size = wanted_size(values["tokenizer"], values.get("vocab_size"))
    if values["tokenizer"] == "char":
        return gpt_config, train_config, round(CHARACTERS * train_config.train_fraction)
    return replace(gpt_config, vocab_size=GPT2_SIZE if size is None else size), train_config, None


def _dataset(data: Corpus | Dataset, values: Mapping, chosen: Mapping, train_config: TrainConfig) -> Dataset:
    if isinstance(data, Dataset):
        check_tokens(data, chosen)
        return data
    wanted = wanted_tokens(values["tokenizer"], values.get("vocab_size"))
    return gpt.tokenize(data, train_fraction=train_config.train_fraction, **wanted)


def _follow(events: Iterator[Stage | Plan], name: str) -> Plan:
    """The plan at the end of `events`, with a spinner until then."""
    with progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()) as bar:
        task = bar.add_task(name)
        for event in events:
            if isinstance(event, Plan):
                return event
            bar.update(task, description=f"{name}: measuring {event.description}")
    raise AssertionError("a plan ends with its result")


def _print_plan(gpt_config: GPTConfig, train_config: TrainConfig, text_tokens: int | None) -> None:
    header(
        "mlx-gpt plan",
        {
            "Device": describe_device(),
            "Model": describe_model(gpt_config),
            "Training": describe_training(gpt_config, train_config),
        },
    )
    plan = _follow(make_plan(gpt_config, train_config), "This training")
    console.print()
    flops = plan.flops_per_token * tokens_per_step(gpt_config, train_config)
    rows = {
        "Work": f"{flops / 1e9:,.1f} GFLOP a step, {plan.flops_per_token / 1e6:,.1f} MFLOP a token",
        "Tokens": _describe_tokens(plan, text_tokens),
        "Memory": _describe_memory(plan),
    }
    if plan.measured:
        seconds = plan.measured.step_seconds
        speed = tokens_per_step(gpt_config, train_config) / seconds.median
        rows["Step"] = (
            f"{1e3 * seconds.median:,.1f} ms ({1e3 * seconds.min:,.1f} to {1e3 * seconds.max:,.1f} in {seconds.rounds} "
            f"steps), {speed:,.0f} tokens/s"
        )
        rows["In all"] = (
            f"{duration(plan.total_seconds)}: {duration(plan.training_seconds)} of training, "
            f"{duration(plan.evaluation_seconds)} of evaluation, {plan.evaluations:,} times"
        )
    elif plan.fits:
        rows["Step"] = f"not measured: at least {duration(plan.least_step_seconds)}"
        rows["In all"] = f"at least {duration(plan.training_seconds)}, at the rate of a matrix product"
    print_lines(rows)
    console.print()
    for sentence in _verdict(plan, text_tokens):
        console.print(sentence)
    if plan.fits:
        console.print(f"\nNext: mlx-gpt train {shlex.join(sys.argv[2:])}", soft_wrap=True)


def _describe_tokens(plan: Plan, text_tokens: int | None) -> str:
    tokens = f"{plan.tokens:,} in {plan.train.num_iter:,} steps"
    if text_tokens is None:
        return tokens
    return f"{tokens}, {plan.tokens / text_tokens:,.1f} times the {text_tokens:,} of the training split"


def _describe_memory(plan: Plan) -> str:
    how = "measured" if plan.measured else "estimated"
    return f"{_bytes(plan.memory)} at the peak of a step ({how}); this machine has {_bytes(plan.memory_there)} for it"


def _verdict(plan: Plan, text_tokens: int | None) -> Iterator[str]:
    """Whether it fits, and whether it will overfit, in sentences."""
    if not plan.fits:
        smaller = split_batches(plan)
        yield f"It does not fit: {plan.problem}."
        if smaller:
            yield (
                f"With --batch-size {smaller.batch_size} --gradient-accumulation-steps "
                f"{smaller.gradient_accumulation_steps} --eval-iters {smaller.eval_iters} it fits, and reads the same tokens "
                "in each step and each evaluation."
            )
        else:
            yield "Choose a smaller --n-embd, --n-layer or --block-size."
        return
    slow = f", but takes {duration(plan.total_seconds)} here" if plan.total_seconds > VERY_LONG else ""
    yield f"It fits in memory{slow}."
    if plan.train.dtype == "bfloat16" and mx.default_device() == mx.cpu:
        yield "bfloat16 is meant for a GPU; on a CPU float32 is faster."
    if text_tokens is None:
        return
    epochs = plan.tokens / text_tokens
    read = f"Every part of the text is read {epochs:,.1f} times"
    if epochs <= FEW_EPOCHS:
        yield f"{read}: it will hardly overfit."
    elif epochs <= MANY_EPOCHS:
        yield f"{read}: it will overfit somewhat. The best weights are kept."
    else:
        stop = "--patience 5 stops" if plan.evaluations > 5 else "--patience 5 and a smaller --eval-interval stop"
        helps = "more text" if plan.gpt.dropout else "more text or --dropout 0.2"
        yield f"{read}: it will overfit. {stop} in time, and the best weights are kept; {helps} helps."


def _print_presets(chosen: Mapping, text: Corpus | Dataset | None) -> None:
    """A row for each preset, and which one to begin with. `chosen` are options for the text."""
    header("mlx-gpt plan", {"Device": describe_device()})
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("Preset", no_wrap=True)
    for title in ("Parameters", "Memory", "Fits\nin it", "A step", "In all", "Times\nread"):
        table.add_column(title, justify="right", no_wrap=True)
    plans, problems = {}, []
    for name in gpt.PRESETS:
        try:
            values = {"tokenizer": "char", **starting_settings(name, None, chosen), **chosen}
            gpt_config, train_config, text_tokens = _configurations(values, chosen, text)
        except UserError as error:  # for example GPT-2's tokenizer, without a network
            problems.append(f"{name}: {with_options(str(error))}.")
            continue
        plan = plans[name] = _follow(make_plan(gpt_config, train_config), name)
        step = plan.measured.step_seconds.median if plan.measured else plan.least_step_seconds
        least = "" if plan.measured else "> "
        table.add_row(
            name,
            f"{plan.parameters:,}",
            _bytes(plan.memory),
            "yes" if plan.fits else "no",
            least + duration(step),
            least + duration(plan.total_seconds),
            "-" if text_tokens is None else f"{plan.tokens / text_tokens:,.1f}",
        )
    console.print()
    console.print(table)
    console.print()
    if short := [name for name, plan in plans.items() if plan.measured and plan.total_seconds <= LONG]:
        best = max(short, key=lambda name: plans[name].flops_per_token)
        again = shlex.join(["mlx-gpt", "train", "--preset", best, *sys.argv[2:]])
        console.print(f"The largest model that is trained in less than an hour: {again}", soft_wrap=True)
    else:
        console.print("None takes less than an hour; for a first look: mlx-gpt train --num-iter 500", soft_wrap=True)
    console.print("On a row with >, memory is an estimate, and times are the least that it takes.", soft_wrap=True)
    console.print("More about one: mlx-gpt plan --preset NAME", soft_wrap=True)
    for problem in problems:
        console.print(problem, style="yellow")


def duration(seconds: float) -> str:
    """A time for people, in at most two units."""
    for name, size in UNITS.items():
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {name}"
    if seconds >= 1:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{1e3 * seconds:.0f} ms"


def _bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
