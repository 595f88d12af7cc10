"""One HTML file on one run or several: their curves, samples of text, and the inside of the first one's model.

The curves are plotly's, which carries its script inside the file. They need no model, only the records of the runs.
"""

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate, cycle
from pathlib import Path

import numpy as np

from ..config import tokens_per_step
from ..errors import import_extra
from ..records import Evaluation, Progress, Sample
from ..runs.log import Line
from ..runs.run import Run
from .page import as_script, fill

TEMPLATE = Path(__file__).with_name("report.html")
# Okabe & Ito's, also for the colour-blind; the page has their light blue for the first where it is dark.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
GREY = "rgba(128, 128, 128, 0.25)"
STYLES: dict[str, dict] = {
    "one batch": {"mode": "lines", "line_width": 1, "opacity": 0.6},
    "training": {"mode": "lines+markers", "line_dash": "dot", "marker_size": 5},
    "validation": {"mode": "lines+markers", "marker_size": 5},
    "best": {"mode": "markers", "marker_symbol": "star", "marker_size": 14},
}
MOST_SAMPLES = 12  # of a run, spread over its training
STEPS = {"learning_rate": "Learning rate", "grad_norm": "Norm of the gradients", "tokens_per_second": "Tokens/s"}


@dataclass(frozen=True)
class Entry:
    """A run in a report, and facts on it by name. The run's files are read once."""

    run: Run
    facts: Mapping[str, str]

    @cached_property
    def history(self) -> list[Evaluation]:
        return self.run.history()

    @cached_property
    def log(self) -> list[Line]:
        return self.run.log()

    @property
    def steps(self) -> list[Progress]:
        return [line for line in self.log if isinstance(line, Progress)]

    @property
    def name(self) -> str:
        return str(self.run.path)

    @property
    def legend(self) -> str:
        """The name for plotly, which reads tags, and shows &quot; as it is."""
        return html.escape(self.name, quote=False)

    @property
    def best(self) -> float:
        """The lowest validation loss; infinite before the first evaluation."""
        return min((evaluation.valid_loss for evaluation in self.history), default=math.inf)


def report_page(entries: Sequence[Entry]) -> str:
    """Return the page on the runs of `entries`; the best validation loss is marked. Raises `UserError` if plotly is not installed."""
    script = import_extra("plotly.offline", "report").get_plotlyjs()
    figures = {"losses": _draw_losses(entries), "steps": _draw_steps(entries)}
    parts = {
        "PLOTLY": script,
        "FIGURES": as_script({name: json.loads(figure.to_json()) for name, figure in figures.items()}),
        "TITLE": html.escape(f"Report on {', '.join(entry.name for entry in entries)}"),
        "VERDICT": html.escape(_judge(entries)),
        "FACTS": _make_table(entries),
        "SAMPLES": "".join(map(_show_samples, entries)),
    }
    return fill(TEMPLATE, parts)


def _is_comparable(entries: Sequence[Entry]) -> bool:
    """Whether the losses of the runs are of the same text, cut into the same tokens and splits."""
    runs = [entry.run for entry in entries]
    return len({(run.corpus.sha256, run.tokenizer.to_json(), run.train_config.train_fraction) for run in runs}) == 1


def _judge(entries: Sequence[Entry]) -> str:
    """Return the result of the runs in a few sentences."""
    if not _is_comparable(entries):
        return "The runs learned from different texts, tokens or splits, so their losses do not compare."
    first, *others = sorted(entries, key=lambda entry: entry.best)
    if (loss := first.best) == math.inf:
        return "No evaluation is recorded yet."
    symbols = first.run.gpt_config.vocab_size
    verdict = (
        f"{'The best is ' + first.name if others else 'At its best'}: in text that the model has never seen, a token costs it "
        f"{loss:.4f} nats, or {loss / math.log(2):.2f} bits. A blind guess among {symbols:,} costs {math.log(symbols):.2f} nats."
    )
    if not others:
        return verdict
    behind = [f"{other.name} is {other.best - loss:.4f} nats behind." for other in others if other.best < math.inf]
    settings = [asdict(entry.run.gpt_config) | asdict(entry.run.train_config) for entry in entries]
    values = {name: [run[name] for run in settings] for name in settings[0]}
    differing = [f"{name} ({', '.join(map(str, of_runs))})" for name, of_runs in values.items() if len({*of_runs}) > 1]
    return " ".join(
        [verdict, *behind, f"The settings that differ, in the order of the table: {', '.join(differing) or 'none'}."]
    )


def _make_table(entries: Sequence[Entry]) -> str:
    """Make a table with a row for each fact and a column for each run; the name of the best one is bold."""
    if len(entries) == 1:
        heads, starts = [], ["<td>"]
    else:
        best = min(entry.best for entry in entries) if _is_comparable(entries) else math.inf
        marks = [" class=best" if entry.best == best < math.inf else "" for entry in entries]
        heads = [f"<td{mark}>{html.escape(entry.name)}" for mark, entry in zip(marks, entries)]
        starts = [f'<td data-run="{html.escape(entry.name)}">' for entry in entries]  # for a narrow screen
    rows = [("", heads)] if heads else []
    for name in dict.fromkeys(name for entry in entries for name in entry.facts):
        rows.append((name, [start + html.escape(entry.facts.get(name, "-")) for start, entry in zip(starts, entries)]))
    return "".join(
        f"<tr><th scope=row>{html.escape(name)}</th>{''.join(f'{cell}</td>' for cell in cells)}</tr>"
        for name, cells in rows
    )


def _show_samples(entry: Entry) -> str:
    """Show some texts that the model wrote, side by side."""
    samples = [line for line in entry.log if isinstance(line, Sample)]
    if not samples:
        return f"<p>{html.escape(entry.name)} kept no samples.</p>"
    chosen = np.unique(np.linspace(0, len(samples) - 1, MOST_SAMPLES).round().astype(int))
    boxes = "".join(
        f"<figure><figcaption>after {samples[i].iteration:,} steps</figcaption><pre>{html.escape(samples[i].text.strip())}</pre></figure>"
        for i in chosen
    )
    return f"<h3>{html.escape(entry.name)}</h3><div class=samples tabindex=0>{boxes}</div>"


# ---- the figures


def _draw_losses(entries: Sequence[Entry]):
    """Draw the losses of all runs; the buttons choose the unit of the horizontal axis."""
    figure = import_extra("plotly.graph_objects", "report").Figure()
    units: list[dict[str, list[float]]] = []  # of each trace: its places in each unit
    for entry, colour in zip(entries, cycle(COLOURS)):
        for kind, (iterations, losses) in _read_curves(entry).items():
            figure.add_scatter(
                x=iterations,
                y=[round(loss, 5) for loss in losses],
                name=f"{entry.legend}: {kind}" if len(entries) > 1 else kind,
                line_color=colour,
                marker_color=colour,
                legendgroup=entry.name if len(entries) > 1 else None,
                showlegend=kind == "validation" or len(entries) == 1,
                **STYLES[kind],
            )
            units.append(_convert(entry, iterations))
    buttons = [
        {
            "label": unit,
            "method": "update",
            "args": [{"x": [trace[unit] for trace in units]}, {"xaxis.title.text": unit}],
        }
        for unit in units[0]
    ]
    menu = {"buttons": buttons, "type": "buttons", "direction": "right", "x": 0, "y": 1.12, "xanchor": "left"}
    _lay_out(figure, updatemenus=[menu], xaxis_title="Steps", yaxis_title="Loss, nats a token", height=480)
    return figure


def _read_curves(entry: Entry) -> dict[str, tuple[list[int], list[float]]]:
    """Return the iterations and the losses of each curve of a run."""
    evaluated = [evaluation.iteration for evaluation in entry.history]
    losses = [evaluation.valid_loss for evaluation in entry.history]
    return {
        "one batch": ([step.iteration for step in entry.steps], [step.loss for step in entry.steps]),
        "training": (evaluated, [evaluation.train_loss for evaluation in entry.history]),
        "validation": (evaluated, losses),
        "best": ([evaluated[losses.index(entry.best)]], [entry.best]) if losses else ([], []),
    }


def _convert(entry: Entry, iterations: list[int]) -> dict[str, list[float]]:
    """Convert `iterations` to other units, by their names. Between two evaluations time passes evenly."""
    tokens = tokens_per_step(entry.run.gpt_config, entry.run.train_config)
    measured = [0, *(evaluation.iteration for evaluation in entry.history)]
    seconds = [0.0, *accumulate(evaluation.train_seconds for evaluation in entry.history)]
    return {
        "Steps": [*iterations],
        "Tokens": [iteration * tokens for iteration in iterations],
        "Seconds of training": np.interp(iterations, measured, seconds).round(2).tolist(),
    }


def _draw_steps(entries: Sequence[Entry]):
    """Draw the rate, the norm of the gradients and the speed of all runs, one below the other."""
    figure = import_extra("plotly.subplots", "report").make_subplots(
        rows=len(STEPS), cols=1, shared_xaxes=True, vertical_spacing=0.07, subplot_titles=[*STEPS.values()]
    )
    for entry, colour in zip(entries, cycle(COLOURS)):
        for row, name in enumerate(STEPS, start=1):
            figure.add_scatter(
                x=[step.iteration for step in entry.steps],
                y=[float(f"{getattr(step, name):.5g}") for step in entry.steps],
                name=entry.legend,
                showlegend=row == 1 and len(entries) > 1,
                line={"color": colour, "width": 1.5},
                row=row,
                col=1,
            )
    _lay_out(figure, height=620)
    rates = [step.learning_rate for entry in entries for step in entry.steps]
    figure.update_yaxes(range=[0, 1.1 * max(rates, default=1)], row=1, col=1)  # plotly would draw one rate as 0
    figure.update_xaxes(title_text="Steps", row=len(STEPS), col=1)
    return figure


def _lay_out(figure, **more) -> None:
    figure.update_layout(
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "color": "#888"},
        margin={"l": 55, "r": 15, "t": 50, "b": 45},
        legend={"orientation": "h", "y": -0.15},
        hovermode="x unified",
        **more,
    )
    figure.update_xaxes(gridcolor=GREY, zerolinecolor=GREY)
    figure.update_yaxes(gridcolor=GREY, zerolinecolor=GREY)
