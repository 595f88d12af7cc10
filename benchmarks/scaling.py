"""Measure how the cost of a training step grows with the model and the batch, one thing varied at a time.

    pip install -e ".[benchmarks]"
    python benchmarks/scaling.py

From the default shape it goes along four axes: width, context, batch and depth. The shapes of an axis are all in memory
and take turns, a round of a few steps each, so that a machine that grows hot or busy slows all of them alike. The token
ids are random, because time does not depend on them.

Results go to benchmarks/results/ as <machine>-scaling.json, .md, with a table for each axis, and .png.
"""

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import mlx_nanogpt as gpt  # before mlx.core: it loads the BLAS
import mlx.core as mx
import numpy as np
import typer
from mlx_nanogpt import GPTConfig, TrainConfig, UserError
from mlx_nanogpt.measure import timing
from mlx_nanogpt.measure.timing import Rounds
from peers import record
from rich.console import Console
from rich.markdown import Markdown

SCRIPT = "benchmarks/scaling.py"
AXES = {  # a field of GPTConfig or TrainConfig -> its name in words, its values in rising order
    "n_embd": ("Width", (64, 128, 256, 512)),
    "block_size": ("Context", (64, 128, 256, 512)),
    "batch_size": ("Batch", (8, 16, 32, 64, 128)),
    "n_layer": ("Depth", (2, 4, 6, 8, 12)),
}
SPEED_COLOUR, MEMORY_COLOUR = "#1f6f8b", "#c8553d"

console = Console(highlight=False)


@dataclass(frozen=True)
class Cost:
    """The cost of a step at one value of an axis. The peak memory, in bytes, is this shape's alone, over all rounds."""

    value: int
    parameters: int
    step_seconds: Rounds
    tokens_per_second: Rounds
    peak_memory: int


@dataclass(frozen=True)
class Exponent:
    """The k of cost ~ value^k: by least squares in the logarithms of all points, and between the two largest alone.

    A constant part hides the law at small values; the two largest are nearest to it.
    """

    fit: float
    largest: float

    @classmethod
    def of(cls, values: Sequence[float], costs: Sequence[float]) -> "Exponent":
        x, y = np.log(values), np.log(costs)
        return cls(float(np.polyfit(x, y, 1)[0]), float((y[-1] - y[-2]) / (x[-1] - x[-2])))


@dataclass(frozen=True)
class Axis:
    """The costs along one axis, and how they grow."""

    costs: list[Cost]
    time: Exponent
    memory: Exponent


class Shape:
    """A model of one shape in training, its compiled step warm, and the seconds of its rounds."""

    def __init__(self, name: str, value: int, round_seconds: float):
        shape, train = (
            replace(default, **{name: value}) if hasattr(default, name) else default
            for default in (GPTConfig(), TrainConfig(backend="compiled"))
        )
        others = mx.get_active_memory()
        self.value, self.batch_shape, self.model = value, (train.batch_size, shape.block_size), gpt.GPT(shape)
        tokens = np.random.default_rng(0).integers(shape.vocab_size, size=100 * shape.block_size).astype(np.uint16)
        self.trial = timing.Trial(self.model, train, tokens)
        self.at_rest = mx.get_active_memory() - others
        self.rounds: list[float] = []
        self.peak_memory = 0

        self.count = 1
        self.work()  # compiles
        self.work()
        self.count = max(1, round(round_seconds / self.rounds[-1]))
        self.rounds.clear()

    def work(self) -> None:
        """Do a round of steps."""
        others = mx.get_active_memory() - self.at_rest
        mx.reset_peak_memory()
        started = time.perf_counter()
        self.trial.work(self.count)
        self.rounds.append((time.perf_counter() - started) / self.count)
        self.peak_memory = max(self.peak_memory, mx.get_peak_memory() - others)

    def cost(self) -> Cost:
        """Return the summary of the rounds."""
        speed = Rounds.of([math.prod(self.batch_shape) / seconds for seconds in self.rounds])
        return Cost(self.value, self.model.num_parameters(), Rounds.of(self.rounds), speed, self.peak_memory)


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often each shape has its turn.")] = 7,
    seconds: Annotated[float, typer.Option(min=0, help="Length of a turn, which is one step at least.")] = 0.5,
    axes: Annotated[
        str | None, typer.Option(help=f"Some of {','.join(AXES)}, with commas between.", show_default="all")
    ] = None,
) -> None:
    """Measure how the cost of a training step grows with width, context, batch and depth."""
    names = list(AXES) if axes is None else list(dict.fromkeys(name.strip() for name in axes.split(",")))
    if unknown := [name for name in names if name not in AXES]:
        raise UserError(f"--axes {', '.join(unknown)} is not known", f"choose from {', '.join(AXES)}")
    if find_spec("matplotlib") is None:
        raise UserError("matplotlib, which draws, is not installed", 'install it with pip install -e ".[benchmarks]"')

    measured = {}
    for name in names:
        measured[name] = _measure(name, rounds, seconds)
        console.print(Markdown(_section(name, measured[name])))
    result = record.circumstances(SCRIPT) | {
        "default": asdict(GPTConfig()) | {"batch_size": TrainConfig().batch_size},
        "protocol": {"rounds": rounds, "seconds_per_round": seconds},
        "axes": {name: asdict(axis) for name, axis in measured.items()},
    }
    result["machine"]["versions"]["matplotlib"] = version("matplotlib")
    path = record.write_json("scaling", result)
    report, figure = path.with_suffix(".md"), path.with_suffix(".png")
    report.write_text(_report(result, measured, figure.name), encoding="utf-8")
    _draw(measured, result["machine"], figure)
    console.print(f"\nWritten to {path}, {report.name} and {figure.name}", soft_wrap=True)


def _measure(name: str, rounds: int, seconds: float) -> Axis:
    """Measure every shape of an axis once in every round."""
    title, values = AXES[name]
    mx.clear_cache()  # of the axis before
    with console.status("") as status:
        shapes = []
        for value in values:
            status.update(f"{title}: first steps at {name} {value}")
            shapes.append(Shape(name, value, seconds))
        for i in range(rounds):
            for shape in shapes:
                status.update(f"{title}, round {i + 1} of {rounds}: {name} {shape.value}")
                shape.work()
    costs = [shape.cost() for shape in shapes]
    time_exponent = Exponent.of(values, [cost.step_seconds.median for cost in costs])
    return Axis(costs, time_exponent, Exponent.of(values, [cost.peak_memory for cost in costs]))


def _section(name: str, axis: Axis) -> str:
    """Return an axis as Markdown."""
    rows = [(f"`{name}`", "Parameters", "Time, ms per step", "Tokens/s", "Peak memory, MiB"), ["---:"] * 5]
    for cost in axis.costs:
        median, least, greatest = (f"{1e3 * getattr(cost.step_seconds, key):,.1f}" for key in ("median", "min", "max"))
        rows.append(
            (
                f"{cost.value}",
                f"{cost.parameters:,}",
                f"{median} ({least}–{greatest})",
                f"{cost.tokens_per_second.median:,.0f}",
                f"{cost.peak_memory / 2**20:,.0f}",
            )
        )
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"""## {AXES[name][0]}

{table}

Exponent of time: {axis.time.fit:.2f}, between the two largest {axis.time.largest:.2f}. \
Exponent of peak memory: {axis.memory.fit:.2f}, between the two largest {axis.memory.largest:.2f}.
"""


def _report(result: dict, measured: dict[str, Axis], figure: str) -> str:
    """Return the result as Markdown, with tables that can be quoted."""
    machine, default, protocol = result["machine"], result["default"], result["protocol"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items() if number)
    sections = "\n".join(_section(name, axis) for name, axis in measured.items())
    return f"""# How the cost of a training step grows

{machine["chip"]}, {machine["cores"]} cores, {machine["device"]}, {machine["os"]}, {machine["date"]}; \
Python {machine["python"]}, {versions}; BLAS of MLX: {machine["blas"]}; commit {machine["commit"]}.

    {result["command"]}

One thing is varied at a time from the default shape: batches of {default["batch_size"]} windows of \
{default["block_size"]} tokens, {default["n_layer"]} layers, {default["n_embd"]} wide, heads of \
{default["head_size"]}. The compiled step, in float32, on random tokens; the shapes of an axis take turns, \
{protocol["rounds"]} rounds of about {protocol["seconds_per_round"]:g} s each, of one step at least. A time is the \
median of the rounds (least to greatest). Peak memory is the most that MLX's arrays take at once. An exponent is the k \
of cost ~ value^k, by least squares in the logarithms of all points; between the two largest alone, a constant part \
hides the law least.

![Tokens per second and peak memory along each axis]({figure})

{sections}"""


def _draw(measured: dict[str, Axis], machine: dict, path: Path) -> None:
    """Draw a panel for each axis, all on the same scales: tokens per second on the left, peak memory on the right."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    columns = min(2, len(measured))
    rows = math.ceil(len(measured) / columns)
    figure = Figure(figsize=(0.8 + 3.7 * columns, 0.4 + 2.9 * rows), dpi=160, layout="constrained")
    figure.suptitle(f"{machine['chip']}, {machine['cores']} cores, {machine['device']}", fontsize=9, color="gray")
    panels = []
    for i, (name, axis) in enumerate(measured.items()):
        first = panels[0] if panels else (None, None)
        left = figure.add_subplot(rows, columns, i + 1, sharey=first[0])
        right = left.twinx()
        if first[1]:
            right.sharey(first[1])
        panels.append((left, right))
        values = [cost.value for cost in axis.costs]
        speeds = [cost.tokens_per_second for cost in axis.costs]
        spread = [[speed.median - speed.min for speed in speeds], [speed.max - speed.median for speed in speeds]]
        left.errorbar(values, [speed.median for speed in speeds], spread, fmt="o-", capsize=3, color=SPEED_COLOUR)
        right.plot(values, [cost.peak_memory / 2**20 for cost in axis.costs], "s--", color=MEMORY_COLOUR)
        left.set_title(
            f"{AXES[name][0]}: time ~ n$^{{{axis.time.fit:.2f}}}$, memory ~ n$^{{{axis.memory.fit:.2f}}}$", fontsize=11
        )
        left.set_xscale("log")
        left.set_xticks(values, [str(value) for value in values])
        left.xaxis.set_minor_locator(NullLocator())
        left.set_xlabel(f"n = {name}")
        left.grid(alpha=0.3)
        outer = (i % columns == 0, i % columns == columns - 1 or i == len(measured) - 1)
        scales = (
            (left, "labelleft", "tokens/s", SPEED_COLOUR),
            (right, "labelright", "peak memory, MiB", MEMORY_COLOUR),
        )
        for shown, (side, tick_labels, label, colour) in zip(outer, scales):
            side.set_yscale("log")
            side.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            side.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            side.yaxis.set_minor_locator(NullLocator())
            side.tick_params(axis="y", colors=colour, **{tick_labels: shown})
            side.set_ylabel(label if shown else "", color=colour)
            side.spines[["top"]].set_visible(False)
    figure.savefig(path)


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        sys.exit(f"Error: {error}")
