"""Two consoles that print foreign names safely, a progress display, and the header of a command."""

import math
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

from mlx_nanogpt.errors import CONTROLS, printable
from mlx_nanogpt.text.characters import MARK
from rich.console import Console, RenderableType
from rich.progress import Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

# The escapes of `printable`, but for tabs and line ends. The mark of documents is shown as the end of one.
ESCAPES = {code: escape for code, escape in CONTROLS.items() if code not in {*b"\t\n\r"}} | {ord(MARK): "∎"}


class _SafeConsole(Console):
    """A console that escapes the control characters of names and texts, so that they cannot command the terminal."""

    def render_str(self, text: str, **more) -> Text:
        return super().render_str(text.translate(ESCAPES), **more)


# Names of files and corpora may hold brackets, so there is no markup. A pipe gets long lines as they are.
PLAIN = {"highlight": False, "markup": False, "emoji": False}
console = _SafeConsole(**PLAIN, soft_wrap=not sys.stdout.isatty())
errors = _SafeConsole(**PLAIN, stderr=True, soft_wrap=not sys.stderr.isatty())


def make_progress(*columns: ProgressColumn, below: Callable[[], Text] = Text) -> Progress:
    """A progress display that disappears when it ends, with the text of `below` under it. It shows nothing in a pipe."""
    disable = not console.is_terminal
    return _Progress(
        *columns, below=below, console=console, transient=True, disable=disable, speed_estimate_period=math.inf
    )


def make_spinner() -> Progress:
    """A spinner, the description of a task, and the time since it began."""
    return make_progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())


class _Progress(Progress):
    def __init__(self, *columns: ProgressColumn, below: Callable[[], Text], **more: Any):
        self.below = below
        super().__init__(*columns, **more)

    def get_renderables(self) -> Iterator[RenderableType]:
        yield from super().get_renderables()
        if text := self.below():
            yield text


def print_header(title: str, lines: dict[str, str]) -> None:
    """Print `title`, and below it `lines`."""
    console.print(title, style="bold")
    print_lines(lines)


def print_lines(lines: dict[str, str]) -> None:
    """Print names and values, a pair a line; a long value is folded below itself."""
    for name, value in lines.items():
        first = f"  {name:<9} "
        text = fold(value, first, " " * len(first))
        text.stylize("dim", 0, len(first))
        console.print(text)


def fold(value: str, first: str, rest: str) -> Text:
    """Fold `value` to the width of the terminal, the first line after `first` and the others after `rest`."""
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


def show_text(texts: Iterable[str]) -> int:
    """Write `texts` to standard output as they come, and a line end; return the number of lines."""
    # a terminal would obey control characters; a file gets them as they are
    shown = (lambda text: text.translate(ESCAPES)) if sys.stdout.isatty() else str
    lines = 0
    for text in chain(texts, ["\n"]):
        sys.stdout.write(shown(text))
        sys.stdout.flush()
        lines += text.count("\n")
    return lines


def quote_token(token: str) -> str:
    """Put a token in quotation marks, so that a space can be seen."""
    return f"“{one_line(token)}”"


def one_line(text: str) -> str:
    return printable(text.replace("\n", "⏎").translate(ESCAPES))


def print_notes(notes: Iterable[str]) -> None:
    for note in notes:
        console.print(f"Note: {note}.", style="yellow", soft_wrap=True)


def print_error(sentence: str) -> None:
    errors.print(Text.assemble(("Error: ", "bold red"), printable(sentence)))
