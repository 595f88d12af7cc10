"""One HTML file on one run or several: their curves, what they wrote on the way, and the inside of the first one's model.

The curves are plotly's, which carries its script inside the file.
"""

import html
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .benchmark import PUBLISHED
from .config import tokens_per_step
from .extras import import_extra
from .log import Excerpt, Measurement
from .run import Run

TEMPLATE = Path(__file__).with_name("report.html")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe & Ito: also for the colour-blind
GREY = "rgba(128, 128, 128, 0.25)"
MOST_EXCERPTS = 12  # of a run, spread over its training


@dataclass(frozen=True)
class Entry:
    """A run in a report, what is said of it, by name, and the lowest loss that its text allows, if that is known."""

    run: Run
    facts: Mapping[str, str]
    floor: float | None = None


def report_page(entries: Sequence[Entry], published: bool, inside: str) -> str:
    """The page on the runs of `entries`; the best validation loss is marked. `published` adds NanoLux's losses to the curves, and
    `inside` is the page of `inside_page`. Raises `UserError` if plotly is not installed."""
    script = import_extra("plotly.offline", "report").get_plotlyjs()
    figures = {"losses": _losses(entries, published), "steps": _steps(entries)}
    parts = {
        "PLOTLY": script,
        "FIGURES": _as_script({name: json.loads(figure.to_json()) for name, figure in figures.items()}),
        "TITLE": html.escape(", ".join(str(each.run.path) for each in entries)),
        "FACTS": _facts(entries),
        "EXCERPTS": "".join(map(_excerpts, entries)),
        "INSIDE": html.escape(inside),
    }
    page = TEMPLATE.read_text(encoding="utf-8")
    before, *rest = page.split("/*")
    return before + "".join(parts[name] + text for name, text in (each.split("*/", 1) for each in rest))


def _as_script(value: object) -> str:
    """JSON that can stand in a script, which "<" could end."""
    return json.dumps(value).replace("<", "\\u003c")


def _best(run: Run) -> float:
    return min((each.valid_loss for each in run.history()), default=float("inf"))


def _facts(entries: Sequence[Entry]) -> str:
    """A table with a row for each fact and a column for each run; the best validation loss is bold."""
    names = list(dict.fromkeys(name for each in entries for name in each.facts))
    losses = [_best(each.run) for each in entries]
    best = [loss == min(losses) and len(entries) > 1 for loss in losses]
    rows = [("", [str(each.run.path) for each in entries])] if len(entries) > 1 else []
    rows += [(name, [each.facts.get(name, "-") for each in entries]) for name in names]
    return "".join(
        f"<tr><th scope=row>{html.escape(name)}</th>"
        + "".join(
            f"<td{' class=best' if marked else ''}>{html.escape(value)}</td>" for value, marked in zip(values, best)
        )
        + "</tr>"
        for name, values in rows
    )


def _excerpts(entry: Entry) -> str:
    """What the model wrote after some evaluations, side by side."""
    texts = [line for line in entry.run.log() if isinstance(line, Excerpt)]
    if not texts:
        return f"<p>{html.escape(str(entry.run.path))} kept no samples.</p>"
    chosen = [texts[i] for i in np.unique(np.linspace(0, len(texts) - 1, MOST_EXCERPTS).round().astype(int))]
    boxes = "".join(
        f"<figure><figcaption>after {each.iteration:,} steps</figcaption><pre>{html.escape(each.text.strip())}</pre></figure>"
        for each in chosen
    )
    return f"<h3>{html.escape(str(entry.run.path))}</h3><div class=excerpts tabindex=0>{boxes}</div>"


def _axes(run: Run) -> dict[str, Callable[[Sequence[int]], list[float]]]:
    """What iterations are in other units, by the name of the axis."""
    history, tokens = run.history(), tokens_per_step(run.gpt_config, run.train_config)
    at = [0, *(each.iteration for each in history)]
    seconds = np.cumsum([0.0, *(each.train_seconds for each in history)])
    return {
        "Steps": lambda iterations: list(iterations),
        "Tokens": lambda iterations: [each * tokens for each in iterations],
        "Seconds of training": lambda iterations: np.interp(iterations, at, seconds).round(2).tolist(),
    }


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
        run, history = entry.run, entry.run.history()
        measured = [line for line in run.log() if isinstance(line, Measurement)]
        name = f"{run.path}: " if len(entries) > 1 else ""
        best = min(history, key=lambda each: each.valid_loss, default=None)
        traces: list[tuple[str, list[tuple[int, float]], dict, float, str]] = [
            ("a step", [(each.iteration, each.loss) for each in measured], {"width": 1}, 0.5, "lines"),
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
            )
            places.append((_axes(run), iterations))
        if entry.floor is not None:
            figure.add_hline(entry.floor, line={"color": colour, "dash": "dash"}, annotation_text="floor of the text")
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
        lines = [line for line in entry.run.log() if isinstance(line, Measurement)]
        for row, kind in enumerate(kinds, start=1):
            figure.add_scatter(
                x=[line.iteration for line in lines],
                y=[float(f"{getattr(line, kind):.5g}") for line in lines],
                name=str(entry.run.path),
                showlegend=row == 1 and len(entries) > 1,
                line={"color": colour, "width": 1.5},
                row=row,
                col=1,
            )
    _layout(figure, height=620)
    figure.update_xaxes(title_text="Steps", row=len(kinds), col=1)
    return figure
