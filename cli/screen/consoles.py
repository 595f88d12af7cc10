"""Where text is shown: two consoles that print foreign names safely, a progress display, and the header of a command."""

import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from mlx_nanogpt import UserError
from mlx_nanogpt.errors import CONTROLS, printable
from rich.console import Console, RenderableType
from rich.progress import Progress, ProgressColumn
from rich.text import Text

from .. import CLOSED

# What `printable` escapes, but for tabs and line ends.
ESCAPES = {code: escape for code, escape in CONTROLS.items() if code not in {*b"\t\n\r"}}


class _SafeConsole(Console):
    """A console that escapes the control characters of names and texts, so that they cannot command the terminal."""

    def render_str(self, text: str, **more) -> Text:
        return super().render_str(text.translate(ESCAPES), **more)


# Names of files and corpora may hold brackets, so there is no markup. A pipe gets long lines as they are.
PLAIN = {"highlight": False, "markup": False, "emoji": False}
console = _SafeConsole(**PLAIN, soft_wrap=not sys.stdout.isatty())
errors = _SafeConsole(**PLAIN, stderr=True, soft_wrap=not sys.stderr.isatty())


def check_output() -> None:
    """Raise `UserError` if standard output is closed. A command whose output is a text needs it."""
    if "stdout" in CLOSED:
        raise UserError("standard output is closed, and the text would go there", "leave out what closes it (>&-)")


def progress(*columns: ProgressColumn, below: Callable[[], Text] = Text) -> Progress:
    """A progress display that disappears when it ends, with the text of `below` under it. It shows nothing if standard output is
    no terminal."""
    return _Progress(*columns, below=below, console=console, transient=True, disable=not console.is_terminal)


class _Progress(Progress):
    def __init__(self, *columns: ProgressColumn, below: Callable[[], Text], **more: Any):
        self.below = below
        super().__init__(*columns, **more)

    def get_renderables(self) -> Iterator[RenderableType]:
        yield from super().get_renderables()
        if text := self.below():
            yield text


def header(title: str, lines: dict[str, str]) -> None:
    """Print `title`, and below it the values of `lines`, each after its name."""
    console.print(title, style="bold")
    print_lines(lines)


def print_lines(lines: dict[str, str]) -> None:
    """Print the values of `lines`, each after its name, and folded below itself."""
    for name, value in lines.items():
        first = f"  {name:<9} "
        text = folded(value, first, " " * len(first))
        text.stylize("dim", 0, len(first))
        console.print(text)


def folded(value: str, first: str, rest: str) -> Text:
    """`value` folded to the width of the terminal, its first line after `first` and the others after `rest`."""
    return Text(
        textwrap.fill(
            printable(value),
            console.width if console.is_terminal else sys.maxsize,
            initial_indent=first,
            subsequent_indent=rest,
            replace_whitespace=False,
            break_on_hyphens=False,
        )
    )
