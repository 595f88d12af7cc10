"""What the commands share on the screen: two consoles, the header of a run, and the seed's table."""

import os
import platform
import shlex
import shutil
import sys
from importlib.metadata import version
from typing import Annotated, Literal

import mlx.core as mx
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

import mlx_nanogpt as gpt
from mlx_nanogpt import (
    BLAS,
    PASTICHE,
    PUBLISHED,
    TINYSHAKESPEARE,
    Corpus,
    CorpusUnavailable,
    Run,
    SeedMetrics,
    UserError,
)

# No markup: names of files and of corpora may hold brackets. What is piped is not wrapped, nor is what is to be copied.
console = Console(highlight=False, markup=False, soft_wrap=not sys.stdout.isatty())
errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)

DeviceOption = Annotated[
    Literal["auto", "cpu", "gpu"], typer.Option(help="auto: the GPU if there is one.", rich_help_panel="Machine")
]
INTERRUPTED = 130  # the exit status of a program that Ctrl-C ended

METRICS = {
    "first_epoch": "Train 1st epoch",
    "average_epoch": "Average epoch training time",
    "estimate": "Time to estimate losses",
    "total": "Total training time",
    "train_loss": "Final loss (train)",
    "valid_loss": "Final loss (valid)",
}


def use_device(name: str) -> None:
    """Make `name` (auto, cpu or gpu) MLX's default device; auto leaves MLX's choice, the GPU if there is one."""
    if name == "gpu" and not mx.is_available(mx.gpu):
        raise UserError("--device gpu finds no GPU: this MLX has neither Metal nor CUDA here; leave the option out")
    if name != "auto":
        mx.set_default_device(getattr(mx, name))


def describe_device() -> str:
    """The chip, and what computes on it."""
    info = mx.device_info()
    if mx.default_device() == mx.gpu:
        return f"{info['device_name']}, GPU ({'Metal' if mx.metal.is_available() else 'CUDA'})"
    return f"{info.get('device_name') or platform.processor()}, CPU with {os.cpu_count()} cores ({BLAS})"


def describe_backend(backend: str) -> str:
    """The backend, and what keeps it from being what its name says."""
    if backend == "compiled" and mx.default_device() == mx.cpu and shutil.which("g++") is None:
        return f"{backend} (but run uncompiled: on the CPU MLX needs g++ for it, and there is none here)"
    return backend


def versions() -> str:
    packages = ", ".join(f"{package} {version(package)}" for package in ("mlx-nanogpt", "mlx"))
    return f"{packages}, Python {platform.python_version()}"


def load_corpus(data: str, explicit: bool) -> Corpus:
    """The corpus called `data`; pastiche, with a notice, if it cannot be had and was not asked for by name."""
    try:
        return gpt.load_corpus(data)
    except CorpusUnavailable as error:
        if explicit:
            raise
        notice = f"Using the built-in corpus, {PASTICHE}, instead: its losses are not Shakespeare's."
        console.print(f"No tiny Shakespeare here: {error}.\n{notice}\n", style="yellow", soft_wrap=True)
        return gpt.load_corpus(PASTICHE)


def header(title: str, lines: dict[str, str]) -> None:
    console.print(title, style="bold")
    for name, value in lines.items():
        console.print(Text.assemble((f"  {name:<9} ", "dim"), value))


def describe_run(run: Run) -> dict[str, str]:
    shape, train, corpus = run.gpt, run.train, run.corpus
    by_character = isinstance(run.tokenizer, gpt.CharTokenizer)
    tokens = train.batch_size * shape.block_size
    return {
        "Device": describe_device(),
        "Versions": versions(),
        "Backend": describe_backend(train.backend),
        "Corpus": f"{corpus.name}: {corpus.characters:,} characters, "
        + (f"{shape.vocab_size} different" if by_character else f"a vocabulary of {shape.vocab_size:,} byte pairs"),
        "Model": f"{gpt.GPT(run.gpt).num_parameters():,} parameters: {shape.n_layer} layers, {shape.n_embd} wide, "
        f"{shape.n_head} heads of {shape.head_size}, context {shape.block_size}",
        "Training": f"{train.num_iter:,} iterations of {train.batch_size} x {shape.block_size} = {tokens:,} tokens, "
        f"rate {train.learning_rate:g}, dropout {shape.dropout:g}, seed {train.seed}",
        "Export": describe_export(run),
        "Run": str(run.path),
    } | ({"Start": f"from the weights of {run.init_from}"} if run.init_from else {})


def describe_export(run: Run) -> str:
    obstacles = gpt.export_obstacles(run.gpt)
    if obstacles:
        return f"not as GPT-2: {', '.join(obstacles)} ({' '.join(obstacles.values())})"
    return "as GPT-2, with mlx-gpt export"


def name_run(run: Run) -> str:
    """How `mlx-gpt generate` is told to use `run`: not at all if it takes it anyway, being the newest in `runs/`."""
    return "" if run.path.parent == gpt.RUNS else f" --run {shlex.quote(str(run.path))}"


def seed_table(columns: dict[str, SeedMetrics], corpus: str) -> Table:
    """The seed's six metrics, one column for each of `columns`, measured on `corpus`, beside the published ones."""
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


def corpus_note(corpus: str) -> list[str]:
    """The sentence that losses on another corpus than the published ones need."""
    return (
        []
        if corpus == TINYSHAKESPEARE
        else [f"The losses here are on {corpus}, the published ones on tiny Shakespeare."]
    )


def comparability(run: Run) -> list[str]:
    """Sentences on why the columns of the seed's table may not be compared; none if they may."""
    notes = corpus_note(run.corpus.name)
    if not isinstance(run.tokenizer, gpt.CharTokenizer):
        notes.append("The losses here are per byte pair, the published ones per character.")
    differences = gpt.seed_differences(run.gpt, run.train)
    if differences:
        listed = ", ".join(f"{name} {here} (there {there})" for name, (here, there) in differences.items())
        notes.append(f"This run departs from the published settings: {listed}.")
    return notes
