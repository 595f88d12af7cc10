"""The losses of a run as a small picture in SVG, which a cell of a notebook shows. It takes no package and no script."""

from collections.abc import Iterable

from ..records import Evaluation, Progress, Record

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 230, 44, 10, 30, 24  # of the picture, and the margins of its curves
MOST_POINTS = 400  # of a curve: more than that are not told apart
STYLES = {
    "validation": 'stroke-width="2"',
    "training": 'stroke-width="2" stroke-dasharray="2 4"',
    "one batch": 'stroke-width="1" opacity="0.7"',
}


def draw_losses(records: Iterable[Record], last: int) -> str:
    """Draw the losses of `records`, in nats per token, up to the iteration `last`; empty if there are none."""
    records = list(records)
    evaluations = [record for record in records if isinstance(record, Evaluation)]
    steps = [record for record in records if isinstance(record, Progress)]
    curves = {
        "validation": [(record.iteration, record.valid_loss) for record in evaluations],
        "training": [(record.iteration, record.train_loss) for record in evaluations],
        "one batch": [(step.iteration, step.loss) for step in steps[:: 1 + len(steps) // MOST_POINTS]],
    }
    losses = [loss for curve in curves.values() for _, loss in curve]
    if not losses:
        return ""
    low, high = min(losses), max(losses)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def height(loss: float) -> float:
        return TOP + (bottom - TOP) * (high - loss) / ((high - low) or 1)

    parts = [_text(right, HEIGHT - 6, f"step {last:,}", "end"), _text(LEFT, HEIGHT - 6, "0")]
    for loss in (high, (low + high) / 2, low):
        parts.append(f'<path d="M{LEFT} {height(loss):.0f}H{right}" stroke="currentColor" opacity="0.2"/>')
        parts.append(_text(LEFT - 6, height(loss) + 4, f"{loss:.2f}", "end"))
    parts.append(_text(LEFT, 14, "Loss, nats a token:"))
    for i, (name, style) in enumerate(STYLES.items()):
        points = [(LEFT + (right - LEFT) * iteration / last, height(loss)) for iteration, loss in curves[name]]
        lines = [" ".join(f"{x:.1f},{y:.1f}" for x, y in points), f"{180 + 120 * i},10 {204 + 120 * i},10"]
        parts += [f'<polyline points="{line}" fill="none" stroke="#2f86c6" {style}/>' for line in lines]
        parts.append(_text(210 + 120 * i, 14, name))
        if name == "validation":
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#2f86c6"/>' for x, y in points]
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" style="max-width: {WIDTH}px; width: 100%"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="Losses" {size}>{"".join(parts)}</svg>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    style = 'font-family="system-ui, sans-serif" font-size="12" fill="currentColor"'
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" {style}>{text}</text>'
