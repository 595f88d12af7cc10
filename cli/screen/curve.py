"""A curve of losses in block characters."""

from collections.abc import Sequence

import numpy as np
from rich.text import Text

HEIGHT = 5  # rows
BLOCKS = " ▁▂▃▄▅▆▇█"
LABEL = 6  # characters of a loss and a space
NARROW = 40  # columns: with fewer there is no curve


def draw_curve(losses: Sequence[tuple[int, float]], last: int, width: int) -> Text:
    """Draw `losses`, pairs of an iteration and a loss in order, in `width` characters; iterations to come, up to `last`, stay empty.
    A column is the mean of the losses in it. Empty without losses, or on a narrow screen."""
    columns = width - LABEL
    if not losses or columns < NARROW:
        return Text()
    iterations, values = np.array(losses, np.float64).T
    column = np.minimum((iterations * columns / last).astype(int), columns - 1)
    counts = np.bincount(column, minlength=columns)
    centres = (np.arange(columns) + 0.5) * last / columns
    means = np.where(
        counts, np.bincount(column, values, columns) / np.maximum(counts, 1), np.interp(centres, iterations, values)
    )[: column[-1] + 1]
    lowest, highest = means.min(), means.max()
    shares = (means - lowest) / max(highest - lowest, 1e-9)
    levels = 1 + np.round(shares * (8 * HEIGHT - 1)).astype(int)  # eighths of a row
    rows = ["".join(BLOCKS[level] for level in np.clip(levels - 8 * (HEIGHT - 1 - row), 0, 8)) for row in range(HEIGHT)]
    labels = [_label(highest), *[""] * (HEIGHT - 2), _label(lowest)]
    lines = [f"{label:>{LABEL - 1}} {row}" for label, row in zip(labels, rows)]
    axis = f"{'':{LABEL}}0{f'training loss, to iteration {last:,}':>{columns - 1}}"
    return Text("\n".join([*(line.rstrip() for line in lines), axis]), style="cyan", no_wrap=True)


def _label(loss: float) -> str:
    """A loss in `LABEL - 1` characters at most."""
    return f"{loss:.2f}" if loss < 99 else f"{loss:.0e}"
