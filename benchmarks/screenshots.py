"""Pictures of the pages on a run, wide and narrow, light and dark: what `mlx-gpt inspect --html` and `mlx-gpt report` write.

    python benchmarks/screenshots.py runs/1 [FOLDER]

Takes Chromium, and the extra `report`. A narrow picture is that of a frame, for a window of Chromium is 500 pixels wide or more.
"""

import html
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or "chromium"
PAGES = {"inside": 1000, "report": 3330}  # the height of a picture, in pixels
WIDE, NARROW = 1280, 390
CHOSEN = "#255"  # the token that is chosen on the page


def shot(page: Path, picture: Path, width: int, height: int, dark: bool) -> None:
    if width < 500:
        frame = f'<body style="margin:0"><iframe style="border:0" width={width} height={height} srcdoc="{html.escape(page.read_text())}">'
        page = page.with_name(f"narrow-{page.name}")
        page.write_text(frame)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=5000"]
    options += [f"--window-size={max(width, 500)},{height}", f"--screenshot={picture}"]
    options += ["--blink-settings=preferredColorScheme=0"] if dark else []
    subprocess.run([CHROMIUM, *options, page.absolute().as_uri() + CHOSEN], check=True, stderr=subprocess.DEVNULL)


def main(run: str, folder: Path) -> None:
    with TemporaryDirectory() as work:
        pages = {name: Path(work, f"{name}.html") for name in PAGES}
        mlx_gpt = [sys.executable, "-m", "mlx_nanogpt_cli"]
        inspect = [*mlx_gpt, "inspect", "--best", "--run", run, "--html", pages["inside"]]
        subprocess.run(inspect, check=True, stdout=subprocess.DEVNULL)
        subprocess.run([*mlx_gpt, "report", run, "--out", pages["report"]], check=True)
        for name, height in PAGES.items():
            for width in (WIDE, NARROW):
                for dark in (False, True):
                    picture = folder / f"{name}-{width}-{'dark' if dark else 'light'}.png"
                    shot(pages[name], picture, width, height, dark)
                    print(picture)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else HERE / "results")
