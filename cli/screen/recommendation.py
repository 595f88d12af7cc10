"""What to train in the time one has: models are tried on the text, and the best one is recommended, with its command."""

import shlex
from collections.abc import Mapping, Sequence

from mlx_nanogpt import Corpus, Dataset, UserError
from mlx_nanogpt.config import TrainConfig
from mlx_nanogpt.machine import describe_device
from mlx_nanogpt.measure.recommend import FRESH_PASSES, MOST_PASSES, PRESET, SIZES, Candidate, try_candidates
from mlx_nanogpt.text.corpus import TINYSHAKESPEARE
from rich.table import Table

from ..options.texts import load_dataset, read_data
from .consoles import console, make_spinner, print_header
from .describe import describe_data, format_duration
from .time_limit import check_minutes, format_minutes

OF_A_TEXT = ("data", "valid_data", "documents", "tokenizer", "vocab_size", "device")  # what may be chosen, too
KINDS = ("char", "bpe")


def recommend(minutes: float, given: Mapping) -> None:
    """Print what to train in `minutes` on the text that is `given`, an option and its value each."""
    check_minutes(minutes)
    if others := sorted(given.keys() - {"minutes", *OF_A_TEXT}):
        problem = f"`minutes` and `{others[0]}` exclude each other: mlx-gpt plan --minutes chooses the settings"
        raise UserError(problem, "leave out one of them")
    datasets = _load_datasets(given)
    lines = {"Device": describe_device(), "Corpus": describe_data(next(iter(datasets.values())))}
    print_header(f"mlx-gpt plan --minutes {minutes:g}", lines)
    seconds, tried = 60 * minutes, dict[Candidate, None]()
    with make_spinner() as bar:
        task = bar.add_task("")
        for own in try_candidates(datasets, seconds):
            tried[own] = None
            bar.update(task, description=f"trying {_describe(own)}")
    ranked = sorted(tried, key=lambda own: own.predict(seconds))
    console.print()
    console.print(_make_table(ranked, minutes))
    _print_choice(ranked[0], minutes, given)


def _load_datasets(given: Mapping) -> dict[str, Dataset]:
    """The text as tokens of each kind that it may have."""
    text: Corpus | Dataset = read_data(
        given.get("data", [TINYSHAKESPEARE]), "data" in given, given.get("valid_data", ()), given.get("documents")
    )
    if isinstance(text, Dataset):
        kinds: Sequence[str] = [text.tokenizer.kind]
    elif "vocab_size" in given:
        kinds = [given.get("tokenizer", "bpe")]
    else:
        kinds = [given["tokenizer"]] if "tokenizer" in given else KINDS
    chosen = {name: given[name] for name in ("tokenizer", "vocab_size") if name in given}
    return {kind: load_dataset(text, TrainConfig.train_fraction, kind, chosen) for kind in kinds}


def _describe(own: Candidate) -> str:
    return f"{own.model.num_parameters() / 1e6:.1f}M parameters, {_describe_tokens(own)}"


def _describe_tokens(own: Candidate) -> str:
    return "characters" if own.kind == "char" else f"{own.gpt.vocab_size:,} byte pairs"


def _make_table(ranked: Sequence[Candidate], minutes: float) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))  # 80 columns
    table.add_column("Parameters", justify="right")
    table.add_column("Tokens")
    for title in ("Tokens/s", "Tried for", "Bits/character", f"In {format_minutes(minutes)}"):
        table.add_column(title, justify="right")
    for own in ranked:
        table.add_row(
            f"{own.model.num_parameters():,}",
            _describe_tokens(own),
            f"{own.step_tokens / own.pace.step:,.0f}",
            format_duration(sum(own.seconds)),
            f"{own.points[-1][1]:.2f}",
            f"{own.predict(60 * minutes):.2f}",
        )
    return table


def _print_choice(best: Candidate, minutes: float, given: Mapping) -> None:
    seconds, passes = 60 * minutes, best.passes(60 * minutes)
    bits, useful = best.predict(seconds), float(f"{best.useful_seconds(seconds) / 60:.2g}")
    is_shorter = passes > MOST_PASSES - 1 and useful < minutes
    there = f"{useful:g} of the {format_minutes(minutes)}" if is_shorter else format_minutes(minutes)
    console.print(f"\nIn {there} here: {_describe(best)}, about {bits:.2f} bits per character.", style="bold")
    if is_shorter:
        console.print(
            f"By then it has read the text {MOST_PASSES} times, and begins to learn it by heart: more text would help."
        )
    elif passes > FRESH_PASSES:
        console.print(f"It reads the text {passes:.0f} times: more text would help more than a larger model.")
    elif best.changes == SIZES[-1]:
        console.print("It is the largest of those that plan knows: a larger one may be better still.")
    settings = {"minutes": useful if is_shorter else f"{minutes:g}", "preset": PRESET} | best.changes
    words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    for name in OF_A_TEXT:
        values = given.get(name, [])
        words += [
            word
            for value in (values if isinstance(values, list) else [values])
            for word in (f"--{name.replace('_', '-')}", str(value))
        ]
    if "tokenizer" not in given and best.kind != "char":
        words += ["--tokenizer", best.kind]
    console.print(f"\nNext: mlx-gpt train {shlex.join(words)} --expected-bits {bits:.3f}", soft_wrap=True)
