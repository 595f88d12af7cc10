"""Train what one change after another brings, or the recipes that reach NanoLux's loss first.

    pip install -e ".[benchmarks]"
    python benchmarks/recipes.py ladder      # from the default to the preset modern: 12 trainings
    python benchmarks/recipes.py records     # NanoLux's validation loss in few tokens and in little time: 9 trainings

Each training is one line of results/<machine>-<kind>.jsonl, its log. A training that is there is not repeated, so the script may
be stopped, and run twice at once on different cores with --only. At the end it writes results/<machine>-<kind>.md, and for the
ladder a picture.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import mlx_nanogpt as gpt  # before mlx.core: it loads the BLAS
import typer
from mlx_nanogpt import UserError
from mlx_nanogpt.config import PRESETS, tokens_per_step
from peers.record import RESULTS, circumstances, slug
from rich.console import Console

TARGET = 1.782  # NanoLux's validation loss
SEEDS = (1337, 1, 42)
MODERN = PRESETS["modern"].settings
WHOLE = {"eval_iters": 1000}  # NanoLux's protocol
FIRST_COLOUR, SECOND_COLOUR = "#1f6f8b", "#c8553d"
console = Console(highlight=False)


def of_modern(*names: str) -> dict[str, object]:
    """The values that the preset modern has for some settings."""
    return {name: MODERN[name] for name in names}


# What is changed, and how; each rung keeps the changes before it. The last one is the preset modern.
LADDER = {
    "the default": {},
    "AdamW: rate 0.006 with warm-up and cosine, decay, clipping": of_modern(
        "learning_rate", "warmup_iters", "lr_decay_iters", "weight_decay", "grad_clip"
    ),
    "RMSNorm, no biases": of_modern("norm", "bias"),
    "RoPE": of_modern("position"),
    "QK-norm": of_modern("qk_norm"),
    "SwiGLU": of_modern("activation"),
    "blocks and head start at zero": of_modern("init"),
    "Muon": of_modern("optimizer"),
}


def ladder() -> Iterator[tuple[str, dict]]:
    """Each rung, and all its settings."""
    settings: dict = {"eval_interval": 5000, **WHOLE}
    for name, changes in LADDER.items():
        settings = settings | changes
        yield name, settings


RECORDS: dict[str, dict] = {}


def main(
    kind: Annotated[Literal["ladder", "records"], typer.Argument(help="What to train.")],
    only: Annotated[list[str] | None, typer.Option(help="Only these, by name and seed: Muon/1337.")] = None,
) -> None:
    """Train what is not in the log yet, then write the tables."""
    log = RESULTS / f"{slug(circumstances('')['machine']['chip'])}-{kind}.jsonl"
    recipes = dict(ladder()) if kind == "ladder" else RECORDS
    for name, seed in wanted(kind, recipes):
        key = f"{name}/{seed}"
        if key in read(log) or (only and key not in only):
            continue
        console.print(f"{key}: training", soft_wrap=True)
        done = trained(recipes[name] | {"seed": seed})
        line = {"name": name, "seed": seed, **done, **circumstances("benchmarks/recipes.py")}
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        console.print(f"{key}: {done['train_loss']:.4f} {done['valid_loss']:.4f}", soft_wrap=True)


def wanted(kind: str, recipes: Mapping[str, dict]) -> Iterator[tuple[str, int]]:
    """Names and seeds: of the ladder, three seeds for the ends and one for the rungs between them."""
    names = list(recipes)
    for name in names:
        ends = kind == "records" or name in (names[0], names[-1])
        for seed in SEEDS if ends else SEEDS[:1]:
            yield name, seed


def trained(settings: Mapping[str, object]) -> dict:
    """Train with `settings` on tiny Shakespeare, and say what came of it."""
    gpt_config, train_config = gpt.configurations(settings)
    data = gpt.tokenize(gpt.load_corpus("tinyshakespeare"), train_fraction=train_config.train_fraction)
    with TemporaryDirectory() as folder:
        run = gpt.create_run(gpt_config, train_config, data, Path(folder) / "run")
        for _ in gpt.train(run, data):
            pass
        history = run.history()
    last = history[-1]
    return {
        "settings": settings,
        "parameters": gpt.GPT(gpt_config).num_parameters(),
        "iterations": last.iteration,
        "tokens": last.iteration * tokens_per_step(gpt_config, train_config),
        "train_seconds": sum(each.train_seconds for each in history),
        "train_loss": last.train_loss,
        "valid_loss": last.valid_loss,
        "history": [asdict(each) for each in history],
    }


def read(log: Path) -> dict[str, dict]:
    """The trainings in `log`, by name and seed."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return {f"{line['name']}/{line['seed']}": line for line in map(json.loads, lines)}


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        sys.exit(f"Error: {error}")
