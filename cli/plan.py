"""`mlx-gpt plan`: what a training takes on this machine, before it is started."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any

import mlx_nanogpt as gpt
import typer
from mlx_nanogpt import Dataset, GPTConfig, TrainConfig
from mlx_nanogpt.benchmark import Stage
from mlx_nanogpt.config import SETTINGS, TEXT, tokens_per_step
from mlx_nanogpt.machine import describe_device
from mlx_nanogpt.plan import FEW_EPOCHS, MANY_EPOCHS, Plan, accumulated, make_plan
from mlx_nanogpt.text.tinyshakespeare import BYTES as CHARACTERS
from mlx_nanogpt.text.tokenizer import TokenizerName
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from .consoles import console, header, progress
from .describe import describe_model, describe_training
from .options import NAME, TEXTS, DeviceOption, TokenizerOption, use_device
from .setting_options import with_settings
from .start import ConfigOption, PresetOption, given_options, starting_settings
from .texts import named_tokenizer, read_data

LONG = 3600  # seconds; a first training should not take longer
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
    if chosen.keys() & {*SETTINGS, "preset", "config"}:
        values = settings | {"data": data, "tokenizer": tokenizer} | chosen
        _print_plan(*_configurations(values))
    else:
        _print_presets({"data": data, "tokenizer": tokenizer} | chosen)


def _configurations(values: Mapping) -> tuple[GPTConfig, TrainConfig, int | None]:
    """Both configurations, and how many tokens there are to train on, if that is known."""
    gpt_config, train_config = gpt.configurations(values)
    if values["data"]:
        dataset = _dataset(values["data"], values["tokenizer"], train_config)
        return replace(gpt_config, vocab_size=dataset.tokenizer.vocab_size), train_config, len(dataset.train_tokens)
    if values["tokenizer"] != "char":
        return replace(gpt_config, vocab_size=gpt.PRESETS["gpt2"].settings["vocab_size"]), train_config, None
    return gpt_config, train_config, round(CHARACTERS * train_config.train_fraction)


def _dataset(names: list[str], tokenizer: TokenizerName, train_config: TrainConfig) -> Dataset:
    data = read_data(names)
    if isinstance(data, Dataset):
        return data
    return gpt.tokenize(data, named_tokenizer(tokenizer), train_config.train_fraction)


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
        "Arithmetic": f"{flops / 1e9:,.1f} GFLOP a step, {plan.flops_per_token / 1e6:,.1f} MFLOP a token",
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
    for name, text in rows.items():
        console.print(f"  {name:<10} {text}", soft_wrap=True)
    console.print()
    for sentence in _verdict(plan, text_tokens):
        console.print(sentence)


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
        smaller = accumulated(plan)
        yield "It does not fit." + (
            f" With --batch-size {smaller.batch_size} --gradient-accumulation-steps {smaller.gradient_accumulation_steps} "
            "it fits, and computes the same."
            if smaller
            else " Choose a smaller --n-embd, --n-layer or --block-size."
        )
    else:
        yield "It fits."
    if text_tokens is None:
        return
    epochs = plan.tokens / text_tokens
    if epochs <= FEW_EPOCHS:
        yield f"Every part of the text is read {epochs:.1f} times: it will hardly overfit."
    elif epochs <= MANY_EPOCHS:
        yield f"Every part of the text is read {epochs:.0f} times: it will overfit somewhat. The best weights are kept."
    else:
        helps = "more text" if plan.gpt.dropout else "more text or --dropout 0.2"
        yield (
            f"Every part of the text is read {epochs:,.0f} times: it will overfit. --patience 5 stops in time, and the best "
            f"weights are kept; {helps} helps."
        )


def _print_presets(values: Mapping) -> None:
    """A row for each preset, and which one to begin with."""
    header("mlx-gpt plan", {"Device": describe_device()})
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("Preset", no_wrap=True)
    for title in ("Parameters", "Memory", "Fits", "A step", "In all", "Times through\nthe text"):
        table.add_column(title, justify="right", no_wrap=True)
    plans = {}
    for name, preset in gpt.PRESETS.items():
        gpt_config, train_config, text_tokens = _configurations(values | preset.settings)
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
        console.print(f"The largest that takes less than an hour: mlx-gpt train --preset {best}", soft_wrap=True)
    else:
        console.print("None takes less than an hour; for a first look: mlx-gpt train --num-iter 500", soft_wrap=True)
    console.print("Memory and steps after > are estimates. More about one: mlx-gpt plan --preset NAME", soft_wrap=True)


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
