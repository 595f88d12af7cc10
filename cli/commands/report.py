"""`mlx-gpt report`: writes one HTML file on runs, which needs no network."""

from pathlib import Path

from mlx_nanogpt import Run
from mlx_nanogpt.config import tokens_per_step
from mlx_nanogpt.pages.report import Entry, report_page
from mlx_nanogpt.runs.find import find_run

from ..options.shared import RunsArgument
from ..screen.consoles import console
from ..screen.describe import describe_model, describe_packages, describe_training, list_settings
from ..screen.output_file import ForceOption, OutOption, check_replaceable, write_file


def report(runs: RunsArgument = None, out: OutOption = Path("report.html"), force: ForceOption = False) -> None:
    """Write a page on a run, or on several beside each other: losses, samples and settings."""
    check_replaceable(out, "out", force)
    opened = [find_run(path) for path in runs or [None]]
    entries = [Entry(run, _list_facts(run)) for run in opened]
    write_file(out, report_page(entries))
    names = ", ".join(str(run.path) for run in opened)
    console.print(
        f"The report on {names} is {out} ({out.stat().st_size / 1e6:.1f} MB): open it in a browser.", soft_wrap=True
    )


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
