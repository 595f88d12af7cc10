"""Pictures of the pages on a run (of `mlx-gpt page` and `mlx-gpt report`), wide and narrow, light and dark, and of the
terminal while another one trains, and while someone plays with the run.

    python benchmarks/screenshots.py runs/1 [FOLDER]

Takes Chromium, tmux and the extra `report`.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "pages"))
from browser import Browser, browser

HERE = Path(__file__).parent
PAGES = {"page": 1170, "report": 2400}  # the height of a picture, in pixels
WIDE, NARROW = 1280, 390
PLACE = "#186"  # of the cursor on the page
SETTLED = 2  # seconds until a page is drawn
MLX_GPT = [sys.executable, "-m", "mlx_nanogpt_cli"]
COLUMNS, LINES = 100, 34  # of the terminal
FONT, WIDTH, HEIGHT = "14px/17px monospace", 8.43, 17  # and the pixels of a character
TRAINED_SECONDS = 45  # when its picture is taken
TYPED, TYPED_SECONDS = ["ROMEO:", "/top", "/temperature 0.3", "/retry"], 5  # and what is typed while someone plays


def shot(chromium: Browser, page: Path, picture: Path, width: int, height: int, dark: bool) -> None:
    chromium.show_as(width, height, dark)
    chromium.open(page, PLACE)
    time.sleep(SETTLED)
    chromium.picture(picture)


def screen(work: Path, arguments: list[str], seconds: float, typed: Sequence[str] = ()) -> str:
    """Return the terminal `seconds` after mlx-gpt started with `arguments`, and after each line that is typed, with the sequences of
    its colours."""
    command = shlex.join([*MLX_GPT, *arguments])
    tmux = ["tmux", "-L", f"pictures-{os.getpid()}"]
    size = ["-x", str(COLUMNS), "-y", str(LINES)]
    subprocess.run(
        [*tmux, "new-session", "-d", *size, "-c", work.absolute(), f"COLORTERM=truecolor {command}"], check=True
    )
    time.sleep(seconds)
    for line in typed:
        subprocess.run([*tmux, "send-keys", line, "Enter"], check=True)
        time.sleep(seconds)
    shown = subprocess.run([*tmux, "capture-pane", "-p", "-e"], check=True, capture_output=True, text=True).stdout
    subprocess.run([*tmux, "kill-server"], check=True)
    return shown.rstrip()


def terminal_page(shown: str) -> str:
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere)
        console.print(Text.from_ansi(shown), soft_wrap=True)
    style = "margin:0; padding:16px; background:{background}; color:{foreground}"
    code_format = f'<meta charset="utf-8"><body style="{style}"><pre style="margin:0; font:{FONT}">{{code}}</pre>'
    return console.export_html(theme=MONOKAI, inline_styles=True, code_format=code_format)


def main(run: str, folder: Path) -> None:
    with TemporaryDirectory() as work, browser() as chromium:
        pages = {name: Path(work, f"{name}.html") for name in PAGES}
        for name, page in pages.items():
            subprocess.run([*MLX_GPT, name, run, "--out", page], check=True)
        for name, height in PAGES.items():
            for width in (WIDE, NARROW):
                for dark in (False, True):
                    picture = folder / f"{name}-{width}-{'dark' if dark else 'light'}.png"
                    shot(chromium, pages[name], picture, width, height, dark)
                    print(picture)
        play = ["play", run, "--seed", "7", "--tokens", "150"]
        training = screen(Path(work), ["train", "--preset", "minute"], TRAINED_SECONDS)
        shoot_terminal(chromium, training, folder / "terminal.png")
        shoot_terminal(chromium, screen(Path(), play, TYPED_SECONDS, TYPED), folder / "play.png")


def shoot_terminal(chromium: Browser, shown: str, picture: Path) -> None:
    with TemporaryDirectory() as work:
        page = Path(work, "terminal.html")
        page.write_text(terminal_page(shown), encoding="utf-8")
        shot(chromium, page, picture, int(COLUMNS * WIDTH) + 32, (shown.count("\n") + 1) * HEIGHT + 32, dark=True)
    print(picture)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else HERE / "results")
