"""One HTML file on one run or several: their curves, what they wrote on the way, and the inside of the first one's model.

The curves are plotly's, which carries its script inside the file.
"""

import html
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..config import tokens_per_step
from ..errors import import_extra
from ..measure.benchmark import PUBLISHED
from ..records import Evaluation, Progress, Sample
from ..runs.log import Line
from ..runs.run import Run
from .inside import as_script, filled

TEMPLATE = Path(__file__).with_name("report.html")
# Okabe & Ito's, also for the colour-blind; the page has their light blue for the first where it is dark.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
GREY = "rgba(128, 128, 128, 0.25)"
MOST_EXCERPTS = 12  # of a run, spread over its training


@dataclass(frozen=True)
class Entry:
    """A run in a report, what is said of it, by name, and the lowest loss that its text allows, if that is known. The run's files are
    read once."""

    run: Run
    facts: Mapping[str, str]
    floor: float | None = None

    @cached_property
    def history(self) -> list[Evaluation]:
        return self.run.history()

    @cached_property
    def log(self) -> list[Line]:
        return self.run.log()

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
        return min((each.valid_loss for each in self.history), default=math.inf)


def report_page(entries: Sequence[Entry], published: bool, inside: str | None) -> str:
    """The page on the runs of `entries`; the best validation loss is marked. `published` adds NanoLux's losses to the curves, and
    `inside` is the page of `inside_page`, if there is a model yet. Raises `UserError` if plotly is not installed."""
    script = import_extra("plotly.offline", "report").get_plotlyjs()
    figures = {"losses": _losses(entries, published), "steps": _steps(entries)}
    parts = {
        "PLOTLY": script,
        "FIGURES": as_script({name: json.loads(figure.to_json()) for name, figure in figures.items()}),
        "TITLE": html.escape(f"Report on {', '.join(each.name for each in entries)}"),
        "VERDICT": html.escape(_verdict(entries)),
        "FACTS": _facts(entries),
        "EXCERPTS": "".join(map(_excerpts, entries)),
        "INSIDE": html.escape(inside or "<p>The first run has no weights yet."),
    }
    return filled(TEMPLATE, parts)


def _comparable(entries: Sequence[Entry]) -> bool:
    """Whether the losses of the runs are of the same text, cut into the same tokens and splits."""
    runs = [entry.run for entry in entries]
    return len({(run.corpus.sha256, run.tokenizer.to_json(), run.train_config.train_fraction) for run in runs}) == 1


def _verdict(entries: Sequence[Entry]) -> str:
    """What came out, in a few sentences."""
    if not _comparable(entries):
        return "The runs learned from different texts, tokens or splits, so their losses do not compare."
    first, *others = sorted(entries, key=lambda each: each.best)
    if (loss := first.best) == math.inf:
        return "No evaluation is recorded yet."
    symbols = first.run.gpt_config.vocab_size
    verdict = (
        f"{'The best is ' + first.name if others else 'At its best'}: in text that the model has never seen, a token costs it "
        f"{loss:.4f} nats, or {loss / math.log(2):.2f} bits. A blind guess among {symbols:,} costs {math.log(symbols):.2f} nats."
    )
    if not others:
        return verdict
    behind = [f"{each.name} is {each.best - loss:.4f} nats behind." for each in others if each.best < math.inf]
    settings = [asdict(each.run.gpt_config) | asdict(each.run.train_config) for each in entries]
    differing = [
        f"{name} ({', '.join(str(each[name]) for each in settings)})"
        for name in settings[0]
        if any(each[name] != settings[0][name] for each in settings)
    ]
    return " ".join(
        [verdict, *behind, f"The settings that differ, in the order of the table: {', '.join(differing) or 'none'}."]
    )


def _facts(entries: Sequence[Entry]) -> str:
    """A table with a row for each fact and a column for each run; the name of the best one is bold."""
    if len(entries) == 1:
        heads, starts = [], ["<td>"]
    else:
        best = min(entry.best for entry in entries) if _comparable(entries) else math.inf
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


def _excerpts(entry: Entry) -> str:
    """What the model wrote after some evaluations, side by side."""
    texts = [line for line in entry.log if isinstance(line, Sample)]
    if not texts:
        return f"<p>{html.escape(entry.name)} kept no samples.</p>"
    chosen = [texts[i] for i in np.unique(np.linspace(0, len(texts) - 1, MOST_EXCERPTS).round().astype(int))]
    boxes = "".join(
        f"<figure><figcaption>after {each.iteration:,} steps</figcaption><pre>{html.escape(each.text.strip())}</pre></figure>"
        for each in chosen
    )
    return f"<h3>{html.escape(entry.name)}</h3><div class=excerpts tabindex=0>{boxes}</div>"


def _axes(entry: Entry) -> dict[str, Callable[[Sequence[int]], list[float]]]:
    """What iterations are in other units, by the name of the axis."""
    tokens = tokens_per_step(entry.run.gpt_config, entry.run.train_config)
    at, seconds = np.array(_times(entry)).T
    return {
        "Steps": lambda iterations: list(iterations),
        "Tokens": lambda iterations: [each * tokens for each in iterations],
        "Seconds of training": lambda iterations: np.interp(iterations, at, seconds).round(2).tolist(),
    }


def _times(entry: Entry) -> list[tuple[int, float]]:
    """Iterations, and the seconds of training up to each: measured at evaluations, and in between as the speeds of the log say."""
    measured = [line for line in entry.log if isinstance(line, Progress) and line.tokens_per_second > 0]
    found = [(0, 0.0)]
    for each in entry.history:
        start, total = found[-1]
        lines = [line for line in measured if start < line.iteration < each.iteration]
        steps = np.diff([start, *(line.iteration for line in lines), each.iteration])
        speeds = [line.tokens_per_second for line in lines]
        times = np.cumsum(steps / [*speeds, np.mean(speeds or 1)])
        found += zip((line.iteration for line in lines), total + times[:-1] / times[-1] * each.train_seconds)
        found.append((each.iteration, total + each.train_seconds))
    return found


def _layout(figure, **more) -> None:
    axis = {"gridcolor": GREY, "zerolinecolor": GREY}
    figure.update_layout(
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "color": "#888"},
        margin={"l": 55, "r": 15, "t": 50, "b": 45},
        legend={"orientation": "h", "y": -0.15},
        hovermode="x unified",
        **more,
    )
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)


def _losses(entries: Sequence[Entry], published: bool):
    """The losses of all runs; the buttons choose what they are shown against."""
    figure = import_extra("plotly.graph_objects", "report").Figure()
    places: list[tuple[dict, list[int]]] = []  # the axes and the iterations of each trace
    for entry, colour in zip(entries, [*COLOURS] * len(entries)):
        history, measured, axes = (
            entry.history,
            [line for line in entry.log if isinstance(line, Progress)],
            _axes(entry),
        )
        name = f"{entry.legend}: " if len(entries) > 1 else ""
        best = min(history, key=lambda each: each.valid_loss, default=None)
        traces: list[tuple[str, list[tuple[int, float]], dict, float, str]] = [
            ("one batch", [(each.iteration, each.loss) for each in measured], {"width": 1}, 0.6, "lines"),
            ("training", [(each.iteration, each.train_loss) for each in history], {"dash": "dot"}, 1, "lines+markers"),
            ("validation", [(each.iteration, each.valid_loss) for each in history], {}, 1, "lines+markers"),
            ("best", [(best.iteration, best.valid_loss)] if best else [], {}, 1, "markers"),
        ]
        for kind, points, line, opacity, mode in traces:
            iterations = [iteration for iteration, _ in points]
            marker: dict = {"symbol": "star", "size": 14} if kind == "best" else {"size": 5}
            figure.add_scatter(
                x=iterations,
                y=[round(loss, 5) for _, loss in points],
                name=name + kind,
                mode=mode,
                opacity=opacity,
                line=line | {"color": colour},
                marker=marker | {"color": colour},
                legendgroup=entry.name if len(entries) > 1 else None,
                showlegend=kind == "validation" or len(entries) == 1,
            )
            places.append((axes, iterations))
    floors = {entry.run.corpus.name: entry.floor for entry in entries if entry.floor is not None}
    for text, floor in floors.items():
        label = f"floor of {html.escape(text, quote=False)}"
        figure.add_hline(floor, line={"color": "#888", "dash": "dash"}, annotation_text=label)
    if published:
        for name, metrics in PUBLISHED.items():
            figure.add_hline(
                metrics.valid_loss, line={"color": "#888", "dash": "dash"}, annotation_text=f"NanoLux, {name}: valid"
            )
    buttons = [
        {
            "label": label,
            "method": "update",
            "args": [{"x": [axes[label](iterations) for axes, iterations in places]}, {"xaxis.title.text": label}],
        }
        for label in places[0][0]
    ]
    menu = {"buttons": buttons, "type": "buttons", "direction": "right", "x": 0, "y": 1.12, "xanchor": "left"}
    _layout(figure, updatemenus=[menu], xaxis_title="Steps", yaxis_title="Loss, nats a token", height=480)
    return figure


def _steps(entries: Sequence[Entry]):
    """The rate, the norm of the gradients and the speed of all runs, one below the other."""
    kinds = {"learning_rate": "Learning rate", "grad_norm": "Norm of the gradients", "tokens_per_second": "Tokens/s"}
    figure = import_extra("plotly.subplots", "report").make_subplots(
        rows=len(kinds), cols=1, shared_xaxes=True, vertical_spacing=0.07, subplot_titles=[*kinds.values()]
    )
    for entry, colour in zip(entries, [*COLOURS] * len(entries)):
        lines = [line for line in entry.log if isinstance(line, Progress)]
        for row, kind in enumerate(kinds, start=1):
            figure.add_scatter(
                x=[line.iteration for line in lines],
                y=[float(f"{getattr(line, kind):.5g}") for line in lines],
                name=entry.legend,
                showlegend=row == 1 and len(entries) > 1,
                line={"color": colour, "width": 1.5},
                row=row,
                col=1,
            )
    _layout(figure, height=620)
    rates = [rate for trace in figure.data if trace.yaxis == "y" for rate in trace.y]
    figure.update_yaxes(range=[0, 1.1 * max(rates, default=1)], row=1, col=1)  # plotly would draw one rate as 0
    figure.update_xaxes(title_text="Steps", row=len(kinds), col=1)
    return figure
