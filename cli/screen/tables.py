"""NanoLux's table: the metrics measured here beside the published ones."""

from mlx_nanogpt.machine import rounds_products
from mlx_nanogpt.measure.benchmark import PUBLISHED, NanoLuxMetrics
from mlx_nanogpt.text.corpus import TINYSHAKESPEARE
from rich.table import Table

METRICS = {
    "first_epoch": "Train 1st epoch",
    "average_epoch": "Average epoch training time",
    "estimate": "Time to estimate losses",
    "total": "Total training time",
    "train_loss": "Final loss (train)",
    "valid_loss": "Final loss (valid)",
}


def nanolux_table(columns: dict[str, NanoLuxMetrics], corpus: str) -> Table:
    """NanoLux's six metrics: one column for each of `columns`, measured on `corpus`, then the published ones."""
    columns = columns | {f"{name},\nM4 Pro": metrics for name, metrics in PUBLISHED.items()}
    table = Table(title=f"NanoLux's benchmark, here on {corpus}", title_justify="left")
    table.add_column("Metric", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right")
    for field, label in METRICS.items():
        form = "{:.4f}" if field.endswith("loss") else "{:.2f} s"
        values = (getattr(metrics, field) for metrics in columns.values())
        table.add_row(label, *("-" if value is None else form.format(value) for value in values))
    return table


def loss_notes(corpus: str) -> list[str]:
    """Sentences on what keeps the losses here, on `corpus`, from being compared with the published ones."""
    notes = []
    if corpus != TINYSHAKESPEARE:
        notes.append(f"The losses here are on {corpus}, the published ones on tiny Shakespeare.")
    if rounds_products():
        notes.append("This GPU rounds float32 products to TF32; with MLX_ENABLE_TF32=0 the losses are exact.")
    return notes
