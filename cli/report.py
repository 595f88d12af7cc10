"""`mlx-gpt report`: one HTML file on runs, which needs no network."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from mlx_nanogpt import Dataset, Run, UserError
from mlx_nanogpt.config import tokens_per_step
from mlx_nanogpt.page import inside_page
from mlx_nanogpt.report import Entry, report_page
from mlx_nanogpt.sources import chosen_run, own_dataset
from mlx_nanogpt.text.corpus import TINYSHAKESPEARE

from .conclusion import is_comparable
from .consoles import console
from .describe import chosen_settings, describe_model, describe_packages, describe_training
from .inspect import EXCERPT, write_page
from .options import PATH, DeviceOption, use_device


def report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Run directories; the first one's model is shown from inside.", show_default="the newest"),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(help="The text on which the inside is shown.", show_default="of the validation split"),
    ] = None,
    out: Annotated[Path, typer.Option(help="The file to write.", **PATH)] = Path("report.html"),
    device: DeviceOption = "auto",
) -> None:
    """Write a page on a run, or on several beside each other: losses, what they wrote, and the inside of the model."""
    use_device(device)
    opened = [chosen_run(path) for path in runs or [None]]
    first = opened[0]
    datasets = [_dataset(run) for run in opened]
    if text is not None:
        ids = first.tokenizer.encode(text)
    elif datasets[0]:
        ids = datasets[0].valid_tokens[:EXCERPT]
    else:
        raise UserError(f"the text of the run {first.path} is not where it was", "give another with `text`")
    model = first.load_model(best=True)
    shown = "this text" if text is not None else f"the beginning of the validation text of {first.corpus.name}"
    inside = inside_page(
        model, first.tokenizer, ids, f"{first.path}, weights of the lowest validation loss, on {shown}."
    )
    entries = [Entry(run, _facts(run), data.floor if data else None) for run, data in zip(opened, datasets)]
    published = all(run.corpus.sources == (TINYSHAKESPEARE,) and is_comparable(run) for run in opened)
    write_page(out, report_page(entries, published, inside), "out")
    console.print(f"The report is {out} ({out.stat().st_size / 1e6:.1f} MB): open it in a browser.", soft_wrap=True)


def _dataset(run: Run) -> Dataset | None:
    """The text of `run`, or None if it cannot be read: a report is written without it."""
    try:
        return own_dataset(run)
    except UserError:
        return None


def _facts(run: Run) -> dict[str, str]:
    history, steps = run.history(), run.position().iteration
    facts = {
        "Text": run.corpus.name,
        "Model": describe_model(run.gpt_config),
        "Training": describe_training(run.gpt_config, run.train_config),
        "Settings": ", ".join(chosen_settings(run)) or "the defaults",
        "Versions": describe_packages(run.versions()),
        "Steps done": f"{steps:,}, {steps * tokens_per_step(run.gpt_config, run.train_config):,} tokens",
    }
    if history:
        best, seconds = min(history, key=lambda each: each.valid_loss), sum(each.train_seconds for each in history)
        facts |= {
            "Best validation loss": f"{best.valid_loss:.4f} after {best.iteration:,} steps",
            "Last losses": f"{history[-1].train_loss:.4f} training, {history[-1].valid_loss:.4f} validation",
            "Time": f"{seconds:,.0f} s of training, {sum(each.eval_seconds for each in history):,.0f} s of evaluation, on a "
            f"{history[-1].device.upper()}",
            "Speed": f"{np.sum([each.train_tokens for each in history]) / seconds:,.0f} tokens/s on average",
        }
    return facts
