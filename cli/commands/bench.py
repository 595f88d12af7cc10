"""`mlx-gpt bench`: NanoLux's benchmark on this machine, and measurements that explain it."""

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import mlx_nanogpt as gpt
import typer
from mlx_nanogpt.machine import describe_device
from mlx_nanogpt.measure.benchmark import PUBLISHED, BenchResult
from mlx_nanogpt.measure.timing import MATRIX_SIZE, STEADY, Rounds
from mlx_nanogpt.text.corpus import TINYSHAKESPEARE
from rich.table import Table

from ..options.shared import NAME, DeviceOption, given_options, use_device
from ..options.texts import load_corpus
from ..screen.consoles import console, make_spinner, print_header, print_notes
from ..screen.describe import describe_versions
from ..screen.output_file import ForceOption, JsonOption, check_replaceable, write_json

METRICS = {
    "first_epoch": "Train 1st epoch",
    "average_epoch": "Average epoch training time",
    "estimate": "Time to estimate losses",
    "total": "Total training time",
    "train_loss": "Final loss (train)",
    "valid_loss": "Final loss (valid)",
}


def bench(
    ctx: typer.Context,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Measure a sample, extrapolate from it, and train for two minutes: about three in all."
        ),
    ] = False,
    data: Annotated[
        str, typer.Option(help="One text to train on, named as in mlx-gpt train.", **NAME)
    ] = TINYSHAKESPEARE,
    device: DeviceOption = "auto",
    json_file: JsonOption = None,
    force: ForceOption = False,
) -> None:
    """Measure this machine as NanoLux did, with both backends, beside the published figures.

    A measurement is 5,000 iterations of the default settings. After every 500, 1,000 batches of each split are evaluated.
    """
    use_device(device)
    check_replaceable(json_file, "json", force)  # before the measurement, which takes long
    corpus = load_corpus([data], "data" in given_options(ctx), documents="none")
    print_header(
        "mlx-gpt bench", {"Device": describe_device(), "Versions": describe_versions(), "Corpus": corpus.identity.name}
    )
    result = _follow(gpt.bench(corpus, quick))
    _show(result)
    write_json(json_file, asdict(result))


def _follow(events: Iterator[str | gpt.Record | BenchResult]) -> BenchResult:
    with make_spinner() as bar:
        task, stage = bar.add_task(""), ""
        for event in events:
            match event:
                case str():
                    stage = event
                    bar.update(task, description=stage)
                    if not console.is_terminal:
                        console.print(f"measuring: {stage}")
                case gpt.Progress():
                    bar.update(task, description=f"{stage}: iteration {event.iteration:,}")
    return event


def _show(result: BenchResult) -> None:
    console.print()
    console.print(_make_table(result))
    console.print(_make_explanation(result))
    console.print(
        f"Matrix product of {MATRIX_SIZE} x {MATRIX_SIZE}: {_format_rounds(result.matrix_flops, 1e-9, '.0f')} GFLOP/s\n"
        f"Generation, text within the context: {_format_rounds(result.cached_tokens_per_second, 1, ',.0f')} tokens/s\n"
        f"Generation, text beyond it: {_format_rounds(result.reread_tokens_per_second, 1, ',.0f')} tokens/s"
    )
    if race := result.race:
        console.print(
            f"Race: {race.valid_loss / math.log(2):.3f} bits a character on the validation split of {result.corpus}, after {race.steps:,} steps "
            f"of --preset minute in {race.seconds:.0f} s",
            soft_wrap=True,
        )
    print_notes(result.notes)
    if unsteady := result.unsteady():
        console.print(
            f"\nWarning: half of the rounds differ by more than {STEADY - 1:.0%} in {', '.join(unsteady)}. These figures "
            f"are unreliable; close other programs and measure again.",
            style="yellow",
        )


def _make_table(result: BenchResult) -> Table:
    """Make a table of NanoLux's six metrics: those measured here, then the published ones."""
    columns = {backend.backend: backend.metrics for backend in result.backends}
    columns |= {f"{name},\nM4 Pro": metrics for name, metrics in PUBLISHED.items()}
    extrapolated = ", extrapolated from a sample" if result.backends[0].extrapolated else ""
    table = Table(title=f"NanoLux's benchmark, here on {result.corpus}{extrapolated}", title_justify="left")
    table.add_column("Metric", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right")
    for field, label in METRICS.items():
        form = "{:.4f}" if field.endswith("loss") else "{:.2f} s"
        values = (getattr(metrics, field) for metrics in columns.values())
        table.add_row(label, *("-" if value is None else form.format(value) for value in values))
    return table


def _make_explanation(result: BenchResult) -> Table:
    """Make a table of the cost of a step, with a column for each backend."""
    table = Table(title="\nWhat explains it (median, smallest to largest round)", title_justify="left")
    table.add_column("Measurement", no_wrap=True)
    for backend in result.backends:
        table.add_column(backend.backend, justify="right")
    for label, show in ROWS.items():
        table.add_row(label, *map(show, result.backends))
    return table


def _format_rounds(rounds: Rounds, factor: float, form: str) -> str:
    """Format the median of `rounds`, the smallest and the largest, times `factor`."""
    median, least, most = (format(value * factor, form) for value in (rounds.median, rounds.min, rounds.max))
    return f"{median} ({least} to {most})"


ROWS = {
    "Training step, ms": lambda result: _format_rounds(result.step_seconds, 1e3, ".2f"),
    "Tokens/s, steady": lambda result: f"{result.tokens_per_second:,.0f}",
    "Compilation, s": lambda result: f"{result.compile_seconds:.2f}",
    "Evaluation, ms per window": lambda result: _format_rounds(result.evaluation_seconds_per_window, 1e3, ".3f"),
    "Share of the matrix rate": lambda result: f"{result.matrix_share:.0%}",
    "Peak memory, MB": lambda result: f"{result.peak_memory / 1e6:.0f}",
}
