"""What to train in the time one has: models are tried on the text, and the best one is recommended, with its command."""

import shlex
from collections.abc import Iterator, Mapping, Sequence

from mlx_nanogpt import Dataset, UserError
from mlx_nanogpt.config import TrainConfig
from mlx_nanogpt.machine import describe_device
from mlx_nanogpt.measure.recommend import FRESH_PASSES, MOST_PASSES, PRESET, SIZES, Candidate, try_candidates
from mlx_nanogpt.text.corpus import TINYSHAKESPEARE
from rich.table import Table

from ..options.settings import option_name
from ..options.texts import load_dataset, read_data
from .consoles import console, make_spinner, print_header
from .describe import describe_data, format_duration
from .time_limit import check_minutes, format_minutes

OF_A_TEXT = ("data", "valid_data", "documents", "tokenizer", "vocab_size", "device")  # what may be chosen, too
KINDS = ("char", "bpe")


def recommend(minutes: float, given: Mapping) -> None:
    """Print what to train in `minutes`. `given` are the options on the command line, and their values."""
    check_minutes(minutes)
    if others := sorted(given.keys() - {"minutes", *OF_A_TEXT}):
        problem = f"`minutes` and `{others[0]}` exclude each other: the settings are chosen"
        raise UserError(problem, "leave out one of them")
    datasets = _load_datasets(given)
    lines = {"Device": describe_device(), "Corpus": describe_data(next(iter(datasets.values())))}
    print_header(f"mlx-gpt plan --minutes {minutes:g}", lines)
    seconds, tried = 60 * minutes, set[Candidate]()
    with make_spinner() as bar:
        task = bar.add_task("")
        for own in try_candidates(datasets, seconds):
            tried.add(own)
            bar.update(task, description=f"trying {_describe(own)}")
    best, *others = sorted(tried, key=lambda own: own.predict(seconds))
    console.print(
        "\nBits per character on the validation split, measured and predicted; fewer are better:", soft_wrap=True
    )
    console.print(_make_table([best, *others], minutes))
    _print_advice(best, minutes)
    command = shlex.join(_command(best, minutes, given))
    console.print(f"\nNext: mlx-gpt train {command}", soft_wrap=True)


def _load_datasets(given: Mapping) -> dict[str, Dataset]:
    """The text as tokens of each kind that it may have."""
    names, valid = given.get("data", [TINYSHAKESPEARE]), given.get("valid_data", ())
    text = read_data(names, "data" in given, valid, given.get("documents"))
    if isinstance(text, Dataset):
        kinds: Sequence[str] = [text.tokenizer.kind]
    elif "tokenizer" in given or "vocab_size" in given:
        kinds = [given.get("tokenizer", "bpe")]
    else:
        kinds = KINDS
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
    for title in ("Tokens/s", "Tried for", "Then", f"In {format_minutes(minutes)}"):
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


def _print_advice(best: Candidate, minutes: float) -> None:
    seconds = 60 * minutes
    passes, is_early = best.passes(seconds), best.ends_early(seconds)
    steps = f"{best.steps_within(seconds):,} steps" if is_early else format_minutes(minutes)
    bits = best.predict(seconds)
    console.print(f"\nIn {steps} here: {_describe(best)}, about {bits:.2f} bits per character.", style="bold")
    if is_early:
        console.print(
            f"That is less than {format_minutes(minutes)}. By then it has read the text {MOST_PASSES} times, and begins to learn it by heart: "
            "more text would help."
        )
    elif passes > FRESH_PASSES:
        console.print(f"It reads the text {passes:.0f} times: more text would help more than a larger model.")
    elif best.changes == SIZES[-1]:
        console.print("No larger model was tried; one may be better still.")


def _command(best: Candidate, minutes: float, given: Mapping) -> Iterator[str]:
    """Yield the words of the command that trains `best`, after mlx-gpt train."""
    seconds = 60 * minutes
    length = {"num_iter": best.steps_within(seconds)} if best.ends_early(seconds) else {"minutes": f"{minutes:g}"}
    tokens = {} if best.kind == "char" else {"tokenizer": best.kind}
    of_a_text = tokens | {name: given[name] for name in OF_A_TEXT if name in given}
    expected = {"expected_bits": f"{best.predict(seconds):.3f}"}
    for name, value in ({"preset": PRESET} | length | best.changes | of_a_text | expected).items():
        for one in value if isinstance(value, list) else [value]:
            yield from (option_name(name), str(one))
