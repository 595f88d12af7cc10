"""Draw the picture of the README: the losses of a run as they fell, and a text that its model writes.

    pip install -e ".[benchmarks]"
    mlx-gpt train --eval-interval 250 --eval-iters 100
    python benchmarks/picture.py runs/1

Draw it on the machine that trained the run, because the caption names this machine. The picture goes to
benchmarks/results/training.svg.
"""

import shlex
import sys
import textwrap
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import mlx_nanogpt as gpt  # before mlx.core: it loads the BLAS
import typer
from mlx_nanogpt import GPTConfig, Run, TrainConfig, UserError
from mlx_nanogpt.machine import describe_machine
from peers.record import RESULTS

TRAIN_COLOUR, VALID_COLOUR, TEXT_COLOUR, CAPTION_COLOUR = "#1f6f8b", "#c8553d", "#222222", "#666666"
SAMPLE_TOKENS = 900  # more than the panel shows, which ends with a whole line
LINES, COLUMNS = 20, 62  # of the text in the panel


def main(run: Annotated[Path, typer.Argument(help="The run directory.")]) -> None:
    """Draw the losses of a run, and a text that its model writes."""
    if find_spec("matplotlib") is None:
        raise UserError("matplotlib, which draws, is not installed", 'install it with pip install -e ".[benchmarks]"')
    trained = gpt.open_run(run)
    if not trained.history():
        raise UserError(f"{run} has no evaluation to draw", "train the run further, or name another")
    path = RESULTS / "training.svg"
    _draw(trained, path)
    print(f"Written: {path}")


def _write_text(run: Run) -> str:
    """Let the model write the first lines from an empty prompt."""
    tokens = gpt.generate(run.load_model(), [run.tokenizer.start_token], SAMPLE_TOKENS, run.train_config.seed)
    lines = run.tokenizer.decode(tokens).strip().splitlines()
    return "\n".join([part for line in lines for part in textwrap.wrap(line, COLUMNS) or [""]][:LINES])


def _caption(run: Run) -> str:
    """Return the command of such a run, this machine, and the versions."""
    machine, settings = describe_machine(), asdict(run.gpt_config) | asdict(run.train_config)
    defaults = asdict(GPTConfig(vocab_size=run.gpt_config.vocab_size)) | asdict(TrainConfig())
    changed = [f"--{name.replace('_', '-')} {settings[name]}" for name in settings if settings[name] != defaults[name]]
    command = " ".join(["mlx-gpt train --data", shlex.quote(run.corpus.name), *changed])
    where = f"{machine['chip']}, {machine['cores']} cores, {machine['device']}; Python {machine['python']}"
    return f"{command}\n{where}, {', '.join(f'{name} {number}' for name, number in run.versions().items())}"


def _draw(run: Run, path: Path) -> None:
    """Draw the losses on the left, the text on the right, the caption below."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    # Text stays text, so the file is small; the same run gives the same file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "training", "text.color": TEXT_COLOUR})
    history = run.history()
    iterations = [evaluation.iteration for evaluation in history]
    figure = Figure(figsize=(10, 4.3), facecolor="white")
    losses = figure.add_axes((0.055, 0.245, 0.41, 0.66))
    for name, colour, values in (
        ("validation", VALID_COLOUR, [evaluation.valid_loss for evaluation in history]),
        ("training", TRAIN_COLOUR, [evaluation.train_loss for evaluation in history]),
    ):
        losses.plot(iterations, values, "o-", color=colour, markersize=3.5, linewidth=1.8)
        last, above = (iterations[-1], values[-1]), (0, 15)
        label = {"color": colour, "fontsize": 10.5, "fontweight": "bold", "ha": "right"}
        losses.annotate(f"{name} {values[-1]:.2f}", last, above, textcoords="offset points", **label)
    losses.set_title("Loss, nats per token", loc="left", fontsize=11)
    losses.set_xlabel("iteration", color=TEXT_COLOUR)
    losses.set_xlim(left=0)
    losses.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    losses.grid(alpha=0.25)
    losses.spines[["top", "right"]].set_visible(False)
    losses.tick_params(colors=TEXT_COLOUR)

    figure.text(0.5, 0.928, f"What the model writes after {iterations[-1]:,} iterations", fontsize=11)
    text = {"family": "monospace", "va": "top", "linespacing": 1.3}
    figure.text(0.5, 0.885, _write_text(run), fontsize=8.5, **text)
    figure.text(0.012, 0.095, _caption(run), fontsize=8, color=CAPTION_COLOUR, **text)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        sys.exit(f"Error: {error}")
