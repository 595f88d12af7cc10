"""What the commands share on the screen: two consoles, the header of a run, and the seed's table."""

import os
import platform
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Literal

import mlx_nanogpt as gpt
import mlx.core as mx
import typer
from mlx_nanogpt import Corpus, Dataset, GPTConfig, Run, TrainConfig, UserError
from mlx_nanogpt.benchmark import PUBLISHED, NanoLuxMetrics
from mlx_nanogpt.errors import CONTROLS, printable
from mlx_nanogpt.exchange.gpt2_export import export_obstacles
from mlx_nanogpt.exchange.gpt2_import import load_gpt2
from mlx_nanogpt.exchange.tokenizer_files import gpt2_tokenizer
from mlx_nanogpt.machine import machine
from mlx_nanogpt.run import RUNS, package_versions
from mlx_nanogpt.text.corpus import PASTICHE, TINYSHAKESPEARE, check_readable_again, holds_texts
from mlx_nanogpt.text.folders import count_kinds, folder_files
from mlx_nanogpt.text.identity import STANDARD_INPUT, CorpusIdentity
from mlx_nanogpt.text.tinyshakespeare import CorpusUnavailable
from mlx_nanogpt.text.token_files import holds_tokens
from mlx_nanogpt.text.tokenizer import Tokenizer, TokenizerName
from rich.console import Console
from rich.progress import Progress, ProgressColumn
from rich.table import Table
from rich.text import Text

from . import CLOSED

# What `printable` escapes, but for tabs and line ends.
ESCAPES = {code: escape for code, escape in CONTROLS.items() if code not in {*b"\t\n\r"}}


class _Screen(Console):
    """Shows names and texts as they are, without what would command the terminal."""

    def render_str(self, text: str, **more) -> Text:
        return super().render_str(text.translate(ESCAPES), **more)


# No markup: names of files and of corpora may hold brackets. What is piped is not wrapped, nor is what is to be copied.
PLAIN = {"highlight": False, "markup": False, "emoji": False}
console = _Screen(**PLAIN, soft_wrap=not sys.stdout.isatty())
errors = _Screen(**PLAIN, stderr=True, soft_wrap=not sys.stderr.isatty())


def _named(value: str) -> str:
    if not value:
        raise typer.BadParameter("it is empty; give a name")
    return value


# Of an option that names a file or a folder: "" would be the folder here.
PATH = {"parser": lambda value: Path(_named(value)), "metavar": "PATH"}
NAME = {"parser": _named, "metavar": "TEXT"}

DeviceOption = Annotated[
    Literal["auto", "cpu", "gpu"], typer.Option(help="auto: the GPU if there is one.", rich_help_panel="Machine")
]
RunOption = Annotated[Path | None, typer.Option(help="The run directory.", show_default="the newest in runs/", **PATH)]
BestOption = Annotated[
    bool, typer.Option("--best", help="Use the weights of the lowest validation loss, not those of the checkpoint.")
]
TrainFractionOption = Annotated[
    float,
    typer.Option(
        help="Share of the text, from its beginning, to learn from; the rest validates.", rich_help_panel="Text"
    ),
]
InitFromOption = Annotated[
    str | None,
    typer.Option(
        help="Use this GPT-2 and no run: a folder, as mlx-gpt export writes, or a name on the Hugging Face hub.",
        show_default="a run",
        **NAME,
    ),
]
TokenizerOption = Annotated[
    TokenizerName,
    typer.Option(help="char: one token per character of the text. gpt2: GPT-2's byte pairs.", rich_help_panel="Text"),
]
TEXTS = (
    "tinyshakespeare (downloaded once), pastiche (built in), a UTF-8 text file, a folder of texts of any kind, or - for "
    "standard input; give it again to add another."
)
INTERRUPTED = 130  # the exit status of a program that Ctrl-C ended

# The settings for which the header of a run has words of its own.
SHOWN = set("vocab_size n_layer n_embd head_size block_size dropout num_iter batch_size".split())
SHOWN |= set("gradient_accumulation_steps learning_rate seed backend".split())

METRICS = {
    "first_epoch": "Train 1st epoch",
    "average_epoch": "Average epoch training time",
    "estimate": "Time to estimate losses",
    "total": "Total training time",
    "train_loss": "Final loss (train)",
    "valid_loss": "Final loss (valid)",
}


def chosen_run(path: Path | None) -> Run:
    return gpt.open_run(path) if path else gpt.newest_run()


def chosen_model(run: Path | None, best: bool, init_from: str | None) -> tuple[gpt.GPT, Tokenizer, Run | None]:
    """The model of --init-from, or else that of the run; its tokenizer, and the run if it is one."""
    if not init_from:
        source = chosen_run(run)
        return source.load_model(best), source.tokenizer, source
    if run or best:
        raise UserError(f"--{'run' if run else 'best'} and --init-from exclude each other; leave out one of them")
    return *load_gpt2(init_from), None


def progress(*columns: ProgressColumn) -> Progress:
    """A progress display that leaves no trace, and none at all where nobody watches."""
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def check_output() -> None:
    """Raise `UserError` if standard output, where a command's text goes, was closed."""
    if "stdout" in CLOSED:
        raise UserError("standard output is closed, and the text would go there; leave out what closes it (>&-)")


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
    return f"{info.get('device_name') or platform.processor()}, CPU with {os.cpu_count()} cores ({machine().blas})"


def describe_backend(backend: str) -> str:
    """The backend, and what keeps it from being what its name says."""
    if backend == "compiled" and mx.default_device() == mx.cpu and shutil.which("g++") is None:
        return f"{backend} (but run uncompiled: on the CPU MLX needs g++ for it, and there is none here)"
    return backend


def versions() -> str:
    return f"{describe_packages(package_versions())}, Python {platform.python_version()}"


def describe_packages(packages: dict[str, str]) -> str:
    return ", ".join(f"{package} {version}" for package, version in packages.items())


def load_corpus(data: Sequence[str], explicit: bool) -> Corpus:
    """The texts called `data`; pastiche, with a notice, if they cannot be had and were not asked for by name."""
    try:
        return gpt.load_corpus(*data)
    except CorpusUnavailable as error:
        if explicit:
            raise
        notice = f"Using the built-in corpus, {PASTICHE}, instead: its losses are not Shakespeare's."
        reason = str(error)
        console.print(f"{reason[0].upper()}{reason[1:]}.\n{notice}\n", style="yellow", soft_wrap=True)
        return gpt.load_corpus(PASTICHE)


def read_data(sources: Sequence[str], explicit: bool = True) -> Corpus | Dataset:
    """The text of all `sources`, or the tokens of the only one."""
    if len(sources) == 1 and holds_tokens(sources[0]):
        with console.status(Text(f"Checking {printable(sources[0])}")):  # a second or two per GB
            return gpt.open_token_folder(Path(sources[0]))
    return load_corpus(sources, explicit)


def named_tokenizer(name: str) -> Tokenizer | None:
    """The tokenizer that an option names; None stands for that of the text's own characters."""
    return gpt2_tokenizer() if name == "gpt2" else None


def is_own(run: Run, data: Corpus | Dataset) -> bool:
    """Whether `data` is the text that `run` learned from, or tokens of that text."""
    return _identity(data).sha256 == run.corpus.sha256


def _identity(data: Corpus | Dataset) -> CorpusIdentity:
    return data.corpus if isinstance(data, Dataset) else data.identity


def own_dataset(run: Run, data: Corpus | Dataset | None = None) -> Dataset:
    """What `run` learned from, in the tokens and splits that it had: `data`, or else from where it was then."""
    if not data:
        check_readable_again(run.corpus.sources)
    try:
        data = data or read_data(run.corpus.sources)
    except UserError as error:
        problem = str(error).partition("; ")[0]  # its remedy is of no use here
        piped = STANDARD_INPUT in run.corpus.sources
        remedy = (
            "pipe the same text in, or name its file with --data" if piped else "name it with --data where it is now"
        )
        raise UserError(f"the text of the run {run.path} is not where it was: {problem}; {remedy}") from error
    identity, fraction = _identity(data), run.train_config.train_fraction
    if not is_own(run, data):
        piped = STANDARD_INPUT in identity.sources
        remedy = "pipe the same text into it" if piped else "give the text that it learned from with --data"
        raise UserError(
            f"the run {run.path} learned from another text than {identity.name} holds now; {remedy}, or train a new run"
        )
    if not isinstance(data, Dataset):
        return gpt.tokenize(data, run.tokenizer, fraction)
    if data.tokenizer != run.tokenizer:
        raise UserError(
            f"{identity.name} holds the text that the run {run.path} learned from in the tokens of another tokenizer; give "
            f"the text itself with --data"
        )
    if data.train_fraction != fraction:
        raise UserError(
            f"{identity.name} holds the text of the run {run.path}, but {data.train_fraction:g} of it for training, where the "
            f"run had {fraction:g}; give the text itself with --data, or prepare it with --train-fraction {fraction:g}"
        )
    return data


def header(title: str, lines: dict[str, str]) -> None:
    console.print(title, style="bold")
    width = console.width if console.is_terminal else sys.maxsize
    for name, value in lines.items():
        first = f"  {name:<9} "
        folded = textwrap.fill(
            printable(value),
            width,
            initial_indent=first,
            subsequent_indent=" " * len(first),
            replace_whitespace=False,
            break_on_hyphens=False,
        )
        text = Text(folded)
        text.stylize("dim", 0, len(first))
        console.print(text)


def tokens_per_step(shape: GPTConfig, train: TrainConfig) -> int:
    return train.gradient_accumulation_steps * train.batch_size * shape.block_size


def describe_data(data: Dataset) -> str:
    tokens, vocabulary = len(data.train_tokens) + len(data.valid_tokens), data.tokenizer.vocab_size
    if tokens == data.corpus.characters:  # each is a token
        return f"{data.corpus.name}: {tokens:,} characters, {vocabulary:,} different"
    characters = f"{data.corpus.characters:,} characters in " if data.corpus.characters else ""
    return f"{data.corpus.name}: {characters}{tokens:,} tokens, vocabulary {vocabulary:,}"


def describe_files(sources: Sequence[str]) -> str:
    """What was taken of each folder of texts among `sources`, and what was left."""
    described = []
    for source in filter(holds_texts, sources):
        files = folder_files(source)
        line = f"{len(files.taken):,} in {source}: {count_kinds(files.taken)}"
        if left := len(files.left):
            line += f"; left {left:,} that {'is' if left == 1 else 'are'} no text: {count_kinds(files.left)}"
        described.append(line)
    return "; ".join(described)


def describe_run(run: Run, data: Dataset) -> dict[str, str]:
    shape, train = run.gpt_config, run.train_config
    accumulated = f"{train.gradient_accumulation_steps} x " if train.gradient_accumulation_steps > 1 else ""
    step = f"{accumulated}{train.batch_size} x {shape.block_size} = {tokens_per_step(shape, train):,} tokens"
    lines = {
        "Device": describe_device(),
        "Versions": versions(),
        "Backend": describe_backend(train.backend),
        "Corpus": describe_data(data),
        **({"Files": files} if (files := describe_files(data.corpus.sources)) else {}),
        "Model": f"{gpt.GPT(run.gpt_config).num_parameters():,} parameters: {shape.n_layer} layers, {shape.n_embd} wide, "
        f"{shape.n_head} heads of {shape.head_size}, context {shape.block_size}",
        "Training": f"{train.num_iter:,} iterations of {step}, "
        f"rate {train.learning_rate:g}, dropout {shape.dropout:g}, seed {train.seed}",
    }
    if others := [*_others(shape), *_others(train)]:
        lines["Settings"] = ", ".join(others)
    if run.init_from:
        lines["Start"] = f"from the weights of {run.init_from}"
    done = run.position().iteration
    place = f"{run.path}, going on from iteration {done:,}" if done else str(run.path)
    return lines | {"Export": describe_export(run), "Run": place}


def _others(config: GPTConfig | TrainConfig) -> Iterator[str]:
    """The settings that are not the defaults and that no other line of the header shows."""
    for field in fields(config):
        value = getattr(config, field.name)
        if value != field.default and field.name not in SHOWN:
            yield field.name if value is True else f"{field.name} {value}"


def describe_export(run: Run) -> str:
    obstacles = export_obstacles(run.gpt_config)
    if obstacles:
        return f"not as GPT-2: {', '.join(obstacles)} ({' '.join(obstacles.values())})"
    return "as GPT-2, with mlx-gpt export"


def describe_weights(run: Run, best: bool) -> str:
    """The run, and how far the weights of it are that a command uses."""
    which = ", the lowest validation loss" if best else ""
    return f"{run.path}: {run.corpus.name}, iteration {run.position(best).iteration:,} of {run.train_config.num_iter:,}{which}"


def name_run(run: Run) -> str:
    """How `mlx-gpt generate` is told to use `run`: not at all if it takes it anyway, being the newest in `runs/`."""
    return "" if run.path.parent == RUNS else f" --run {shlex.quote(str(run.path))}"


def nanolux_table(columns: dict[str, NanoLuxMetrics], corpus: str) -> Table:
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
