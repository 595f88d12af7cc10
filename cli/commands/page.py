"""`mlx-gpt page`: writes a model as one HTML file, which computes in the browser."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer
from mlx_nanogpt.pages.page import page as make_page
from mlx_nanogpt.runs.find import find_run

from ..options.shared import LastOption, RunsArgument
from ..screen.consoles import console
from ..screen.output_file import ForceOption, OutOption, check_replaceable, write_file


def page(
    runs: RunsArgument = None,
    out: OutOption = Path("model.html"),
    last: LastOption = False,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    force: ForceOption = False,
) -> None:
    """Write a model as one page to play with: it computes in the browser, and needs no network.

    Type, and see what surprises the model, what it expects, layer by layer, and where it looks; let it write, and choose another token.

    With several runs, a slider goes from one to the next.
    """
    check_replaceable(out, "out", force)
    written = make_page(*(find_run(path) for path in runs or [None]), last=last)
    write_file(out, written.html)
    size = f"{out.stat().st_size / 1e6:.1f} MB"
    console.print(f"Written: {out} ({size}). Open it in a browser, or send it: it needs nothing else.", soft_wrap=True)
    if written.left_out:
        console.print(f"It has no room for {written.left_out:,} of the snapshots.", style="yellow")
    if not written.text:
        console.print("It begins without a text, for that of the run is not where it was.", style="yellow")
    if show and not webbrowser.open(out.resolve().as_uri()):
        console.print("No browser was found to open it.", style="yellow")
