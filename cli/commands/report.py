"""`mlx-gpt report`: writes one HTML file on runs, which needs no network."""

from pathlib import Path
from typing import Annotated

import typer
from mlx_nanogpt import CharTokenizer, Dataset, Run, UserError
from mlx_nanogpt.config import tokens_per_step
from mlx_nanogpt.measure.benchmark import nanolux_differences
from mlx_nanogpt.pages.inside import inside_page
from mlx_nanogpt.pages.report import Entry, report_page
from mlx_nanogpt.runs.find import find_run, own_dataset
from mlx_nanogpt.text.corpus import TINYSHAKESPEARE

from ..options.shared import PATH, DeviceOption, use_device
from ..screen.consoles import console
from ..screen.describe import describe_model, describe_packages, describe_training, describe_weights, list_settings
from ..screen.output_file import check_replaceable, write_file
from .inspect import EXCERPT


def report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Run directories; the first one's model is shown from inside.", show_default="the newest"),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(help="The text that the inside of the model is shown on.", show_default="of the validation split"),
    ] = None,
    out: Annotated[Path, typer.Option(help="The file to write.", **PATH)] = Path("report.html"),
    device: DeviceOption = "auto",
) -> None:
    """Write a page on a run, or on several beside each other: losses, samples, and the inside of the model."""
    use_device(device)
    check_replaceable(out, "out")
    opened = [find_run(path) for path in runs or [None]]
    datasets = [_load_dataset(run) for run in opened]
    inside = _make_inside(opened[0], datasets[0], text)
    entries = [Entry(run, _list_facts(run), data.floor if data else None) for run, data in zip(opened, datasets)]
    write_file(out, report_page(entries, all(map(_is_comparable, opened)), inside))
    names = ", ".join(str(run.path) for run in opened)
    console.print(
        f"The report on {names} is {out} ({out.stat().st_size / 1e6:.1f} MB): open it in a browser.", soft_wrap=True
    )


def _is_comparable(run: Run) -> bool:
    """Whether NanoLux's published losses are those of the run's text, model and number of steps."""
    same = nanolux_differences(run.gpt_config, run.train_config).keys() <= {"eval_iters"}
    return same and run.corpus.sources == (TINYSHAKESPEARE,) and isinstance(run.tokenizer, CharTokenizer)


def _make_inside(run: Run, data: Dataset | None, text: str | None) -> str | None:
    """Make the page on the inside of the run's model; None if it has no weights yet, or is the user's own."""
    if not run.checkpoint.exists() or run.model_class():
        return None
    if text is not None:
        ids, shown = run.tokenizer.encode(text), "a text of your choice"
    elif data:
        ids, shown = data.valid_tokens[:EXCERPT], f"the beginning of the validation text of {run.corpus.name}"
    else:
        raise UserError(f"the text of the run {run.path} was moved or deleted", "give another with `text`")
    best = bool(run.history())
    return inside_page(run.load_model(best), run.tokenizer, ids, f"{describe_weights(run, best)}, on {shown}.")


def _load_dataset(run: Run) -> Dataset | None:
    """Load the text of `run`; None if it cannot be read, since a report needs none."""
    try:
        return own_dataset(run)
    except UserError:
        return None


def _list_facts(run: Run) -> dict[str, str]:
    history, steps = run.history(), run.position().iteration
    facts = {
        "Text": run.corpus.name,
        "Model": describe_model(run.gpt_config),
        "Training": describe_training(run.gpt_config, run.train_config),
        "Settings": ", ".join(list_settings(run)) or "the defaults",
        "Versions": describe_packages(run.versions()),
        "Steps done": f"{steps:,}, {steps * tokens_per_step(run.gpt_config, run.train_config):,} tokens",
    }
    if history:
        best, seconds = min(history, key=lambda line: line.valid_loss), sum(line.train_seconds for line in history)
        facts |= {
            "Best validation loss": f"{best.valid_loss:.4f} after {best.iteration:,} steps",
            "Last losses": f"{history[-1].train_loss:.4f} training, {history[-1].valid_loss:.4f} validation",
            "Time": f"{seconds:,.0f} s of training, {sum(line.eval_seconds for line in history):,.0f} s of evaluation, on a "
            f"{history[-1].device.upper()}",
            "Speed": f"{sum(line.train_tokens for line in history) / seconds:,.0f} tokens/s on average",
        }
    return facts
