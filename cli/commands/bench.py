"""`mlx-gpt bench`: NanoLux's table measured on this machine, and the measurements that explain it."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import mlx_nanogpt as gpt
import typer
from mlx_nanogpt.machine import describe_device
from mlx_nanogpt.measure.benchmark import BackendResult, BenchResult, Stage
from mlx_nanogpt.measure.timing import MATRIX_SIZE, STEADY, Rounds
from mlx_nanogpt.text.corpus import TINYSHAKESPEARE
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..options.shared import NAME, DeviceOption, given_options, use_device
from ..options.texts import load_corpus
from ..screen.consoles import console, header, progress
from ..screen.describe import versions
from ..screen.output_file import JsonOption, check_replaceable, write_json
from ..screen.tables import loss_notes, nanolux_table


def bench(
    ctx: typer.Context,
    quick: Annotated[
        bool, typer.Option("--quick", help="Measure a sample, in about a minute, and extrapolate from it; no losses.")
    ] = False,
    data: Annotated[
        str, typer.Option(help="One text to train on, named as in mlx-gpt train.", **NAME)
    ] = TINYSHAKESPEARE,
    device: DeviceOption = "auto",
    json_file: JsonOption = None,
) -> None:
    """Measure this machine as NanoLux did, with both backends, and show the published table beside it.

    A measurement is 5,000 iterations of the default settings. After every 500, 1,000 batches of each split are evaluated.
    """
    use_device(device)
    check_replaceable(json_file, "json")  # before the measurement, which takes long
    corpus = load_corpus([data], explicit="data" in given_options(ctx))
    header("mlx-gpt bench", {"Device": describe_device(), "Versions": versions(), "Corpus": corpus.identity.name})
    result = _follow(gpt.bench(corpus, quick))
    _show(result)
    write_json(json_file, asdict(result))


def _follow(events: Iterator[Stage | gpt.Record | BenchResult]) -> BenchResult:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with progress(*columns) as bar:
        task, stage = bar.add_task(""), ""
        for event in events:
            match event:
                case Stage():
                    stage = event.description
                    bar.update(task, description=stage)
                    if not console.is_terminal:
                        console.print(f"measuring: {stage}")
                case gpt.Progress():
                    bar.update(task, description=f"{stage}: iteration {event.iteration:,}")
                case BenchResult():
                    return event
    raise AssertionError("a benchmark ends with its result")


def _show(result: BenchResult) -> None:
    console.print()
    console.print(nanolux_table({_title(each): each.metrics for each in result.backends}, result.corpus))
    _print_extrapolation(result)
    for note in loss_notes(result.corpus):
        console.print(note)
    console.print(_explanation(result))
    console.print(
        f"Matrix product of {MATRIX_SIZE} x {MATRIX_SIZE}: {_rounds(result.matrix_flops, 1e-9, '.0f')} GFLOP/s\n"
        f"Generation, text within the context: {_rounds(result.cached_tokens_per_second, 1, ',.0f')} tokens/s\n"
        f"Generation, text beyond it: {_rounds(result.reread_tokens_per_second, 1, ',.0f')} tokens/s"
    )
    if unsteady := result.unsteady():
        console.print(
            f"\nWarning: half of the rounds differ by more than {STEADY - 1:.0%} in {', '.join(unsteady)}. These figures "
            f"say little; close other programs and measure again.",
            style="yellow",
        )


def _title(result: BackendResult) -> str:
    return f"{result.backend},\nextrapolated" if result.extrapolated else result.backend


def _print_extrapolation(result: BenchResult) -> None:
    protocol = result.train
    if any(each.extrapolated for each in result.backends):
        console.print(
            f"Extrapolated from the sample below: an epoch is {protocol.eval_interval} median steps (the first with "
            f"compilation), an estimate {2 * protocol.eval_iters * protocol.batch_size:,} median windows, the total "
            f"{protocol.num_iter // protocol.eval_interval} of each. Losses take the whole benchmark, without --quick."
        )


def _explanation(result: BenchResult) -> Table:
    """What a step costs, and where the time goes: a column for each backend."""
    table = Table(title="\nWhat explains it (median, smallest to largest round)", title_justify="left")
    table.add_column("Measurement", no_wrap=True)
    for each in result.backends:
        table.add_column(each.backend, justify="right")
    for label, show in ROWS.items():
        table.add_row(label, *map(show, result.backends))
    return table


def _rounds(rounds: Rounds, factor: float, form: str) -> str:
    """The median of `rounds`, and the smallest and largest, each times `factor`."""
    median, least, most = (format(value * factor, form) for value in (rounds.median, rounds.min, rounds.max))
    return f"{median} ({least} to {most})"


ROWS = {
    "Training step, ms": lambda each: _rounds(each.step_seconds, 1e3, ".2f"),
    "Tokens/s, steady": lambda each: f"{each.tokens_per_second:,.0f}",
    "Compilation, s": lambda each: f"{each.compile_seconds:.2f}",
    "Evaluation, ms per window": lambda each: _rounds(each.evaluation_seconds_per_window, 1e3, ".3f"),
    "Share of the matrix rate": lambda each: f"{each.matrix_share:.0%}",
    "Operations in a step's graph": lambda each: f"{each.operations} (and {each.views} views)",
    "Host building a step's graph": lambda each: f"{each.host_seconds / each.step_seconds.median:.1%} of a step",
    "Peak memory, MB": lambda each: f"{each.peak_memory / 1e6:.0f}",
}
