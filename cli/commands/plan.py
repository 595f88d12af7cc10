"""`mlx-gpt plan`: measures the memory and the time of a training run before it starts, or what to train in a given time."""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import typer
from mlx_nanogpt import PRESETS, GPTConfig, TrainConfig
from mlx_nanogpt.config import configurations, tokens_per_step
from mlx_nanogpt.machine import describe_device
from mlx_nanogpt.measure.plan import Plan, make_plan
from mlx_nanogpt.text.byte_pairs import GPT2_SIZE
from mlx_nanogpt.text.dataset import check_splits
from mlx_nanogpt.text.tinyshakespeare import BYTES as CHARACTERS

from ..options.settings import with_options, with_settings
from ..options.shared import (
    NAME,
    TEXTS,
    DeviceOption,
    DocumentsOption,
    TokenizerOption,
    ValidDataOption,
    VocabSizeOption,
    given_options,
    use_device,
)
from ..options.start import ConfigOption, PresetOption, starting_settings
from ..options.texts import choose_size, load_dataset, read_data
from ..screen.consoles import console, make_spinner, print_header, print_lines
from ..screen.describe import describe_model, describe_training, format_duration
from ..screen.recommendation import recommend

MinutesOption = Annotated[
    float | None,
    typer.Option(
        help="The time you have: it tries models on the text, for a tenth of that time, and recommends what to train. Besides, only the "
        "text, --tokenizer, --vocab-size and --device may be chosen.",
        show_default="the run is planned that the settings describe",
        metavar="<minutes>",
    ),
]
TextOption = Annotated[list[str] | None, typer.Option(help=TEXTS, show_default="the size of tiny Shakespeare", **NAME)]


@with_settings
def plan(
    ctx: typer.Context,
    data: TextOption = None,
    tokenizer: TokenizerOption = "char",
    vocab_size: VocabSizeOption = None,
    documents: DocumentsOption = None,
    valid_data: ValidDataOption = [],
    device: DeviceOption = "auto",
    minutes: MinutesOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    **settings: Any,
) -> None:
    """Print the memory and time of a training run on this machine, and whether it fits; a few real steps are measured.

    With --minutes, recommend what to train in that time.
    """
    use_device(device)
    given = given_options(ctx)
    if minutes is not None:
        recommend(minutes, given)
        return
    chosen = starting_settings(preset, config, given) | given
    texts = {"data": data, "valid_data": valid_data, "documents": documents}
    values = settings | texts | {"tokenizer": tokenizer} | chosen
    gpt_config, train_config, text_tokens = _make_configurations(values, chosen)
    lines = {
        "Device": describe_device(),
        "Model": describe_model(gpt_config),
        "Training": describe_training(gpt_config, train_config),
    }
    print_header("mlx-gpt plan", lines)
    with make_spinner() as bar:
        bar.add_task("measuring")
        result = make_plan(gpt_config, train_config)
    console.print()
    print_lines(_make_rows(result, text_tokens))
    if result.problem:
        console.print(f"\nIt does not fit: {with_options(result.problem)}.")
    else:
        console.print("\nIt fits in memory.")
        if result.warning:
            console.print(f"But {with_options(result.warning)}.", style="yellow")
        console.print(f"\nNext: mlx-gpt train {shlex.join(sys.argv[2:])}", soft_wrap=True)
        if config is None and given.keys() <= {"preset", "device"}:
            _print_loss(preset or "nanolux")


def _print_loss(preset: str) -> None:
    """Print the loss that a preset reached, and whether the shortest one reached a lower one."""
    loss, least = PRESETS[preset].loss, PRESETS["minute"].loss
    if loss and least:
        better = f"; minute reached {least:.2f}: mlx-gpt train --preset minute" if least < loss else ""
        console.print(
            f"This preset reached a validation loss of {loss:.2f} on tiny Shakespeare{better}", soft_wrap=True
        )


def _make_configurations(values: Mapping, chosen: Mapping) -> tuple[GPTConfig, TrainConfig, int | None]:
    """Return both configurations, and the number of tokens to train on, if that is known. `chosen` are those of `values` that
    are not defaults."""
    # the tokenizer determines vocab_size
    gpt_config, train_config = configurations({**values, "vocab_size": GPTConfig.vocab_size})
    if values["data"]:
        text = read_data(values["data"], True, values["valid_data"], values["documents"])
        dataset = load_dataset(text, train_config.train_fraction, values["tokenizer"], chosen)
        check_splits(dataset, gpt_config.block_size)
        return replace(gpt_config, vocab_size=dataset.tokenizer.vocab_size), train_config, len(dataset.train_tokens)
    size = choose_size(values["tokenizer"], values.get("vocab_size"))
    if values["tokenizer"] == "char":
        return gpt_config, train_config, round(CHARACTERS * train_config.train_fraction)
    return replace(gpt_config, vocab_size=GPT2_SIZE if size is None else size), train_config, None


def _make_rows(plan: Plan, text_tokens: int | None) -> dict[str, str]:
    """List the work, the memory and the time of a plan, by name."""
    step_tokens, source = tokens_per_step(plan.gpt, plan.train), "measured" if plan.measured else "estimated"
    memory, there = _format_bytes(plan.memory), _format_bytes(plan.memory_there)
    rows = {
        "Work": f"{plan.flops_per_token * step_tokens / 1e9:,.1f} GFLOP a step, {plan.flops_per_token / 1e6:,.1f} MFLOP a token",
        "Tokens": f"{plan.tokens:,} in {plan.train.num_iter:,} steps",
        "Memory": f"{memory} at the peak of a step ({source}); this machine has {there} for it",
    }
    if text_tokens is not None:
        rows["Tokens"] += f", {plan.tokens / text_tokens:,.1f} times the {text_tokens:,} of the training split"
    if plan.measured:
        seconds = plan.measured.step_seconds
        rows["Step"] = (
            f"{1e3 * seconds.median:,.1f} ms ({1e3 * seconds.min:,.1f} to {1e3 * seconds.max:,.1f} in {seconds.rounds} "
            f"steps), {step_tokens / seconds.median:,.0f} tokens/s"
        )
        rows["In all"] = (
            f"{format_duration(plan.total_seconds)}: {format_duration(plan.training_seconds)} of training, "
            f"{format_duration(plan.evaluation_seconds)} of evaluation, {plan.evaluations:,} times"
        )
    elif plan.problem is None:
        rows["Step"] = f"not measured: at least {format_duration(plan.least_step_seconds)}"
        rows["In all"] = f"at least {format_duration(plan.training_seconds)}, at the rate of a matrix product"
    return rows


def _format_bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
