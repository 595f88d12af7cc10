"""`mlx-gpt page`: writes a model as one HTML file, which computes in the browser."""

import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from mlx_nanogpt import Run, UserError
from mlx_nanogpt.pages.page import Stop, model_page
from mlx_nanogpt.runs.find import find_run, own_dataset
from mlx_nanogpt.text.characters import MARK

from ..options.shared import PATH, RUN_PATH, LastOption
from ..screen.consoles import console
from ..screen.describe import describe_iteration
from ..screen.output_file import ForceOption, check_replaceable, write_file
from .inspect import EXCERPT


def page(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Numbers of runs in runs/, or folders of runs: a slider goes from one to the next.",
            show_default="the newest in runs/",
            **RUN_PATH,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The file to write.", **PATH)] = Path("model.html"),
    last: LastOption = False,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    force: ForceOption = False,
) -> None:
    """Write a model as one page to play with: it computes in the browser, and needs no network.

    Type, and see what surprises the model, what it expects, layer by layer, and where it looks; let it write, and take another way.
    """
    check_replaceable(out, "out", force)
    opened = [find_run(path) for path in runs or [None]]
    write_file(out, model_page([stop for run in opened for stop in _make_stops(run, last)], _find_text(opened[-1])))
    size = f"{out.stat().st_size / 1e6:.1f} MB"
    console.print(f"Written: {out} ({size}). Open it in a browser, or send it: it needs nothing else.", soft_wrap=True)
    if show and not webbrowser.open(out.resolve().as_uri()):
        console.print("No browser was found to open it.", style="yellow")


def _make_stops(run: Run, last: bool) -> Iterator[Stop]:
    """Yield the snapshots of the run, and then its best or last weights. Others may read the page: so the folders of the text, and most
    of the run's own, are not named."""
    name, texts = "/".join(run.path.parts[-2:]), " + ".join(Path(source).name for source in run.corpus.sources)
    about = f"A GPT that learned from {texts}"
    for step in run.snapshots():
        yield Stop(run.load_model(snapshot=step), run.tokenizer, f"{name}: iteration {step:,}, a snapshot", about)
    yield Stop(run.load_model(last), run.tokenizer, f"{name}: {describe_iteration(run, last)}", about)


def _find_text(run: Run) -> str:
    """The beginning of the run's validation text, or of its first document; empty if the text is not there."""
    try:
        ids = own_dataset(run).valid_tokens[:EXCERPT]
    except UserError:
        return ""
    return run.tokenizer.decode(ids).removeprefix(MARK).partition(MARK)[0]
