"""Train with one change after another, or the recipes that reach NanoLux's loss first.

    pip install -e ".[benchmarks]"
    python benchmarks/recipes.py ladder      # from the default to the preset modern: 14 runs
    python benchmarks/recipes.py records     # NanoLux's validation loss in few tokens and in little time: 7 runs
    python benchmarks/recipes.py presets     # the presets that take about a minute: 6 runs
    python benchmarks/recipes.py teachers    # the preset modern with teachers, which are the last runs of the ladder: 3 runs
    python benchmarks/recipes.py tables      # recipes.md and the picture, from the logs

Each run is one line of results/<machine>-<kind>.jsonl, its log, and stays in runs/. What is there is not repeated, and a run
that was stopped goes on. With --only the script may run twice at once, on different cores.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Annotated, Literal

import mlx_nanogpt as gpt  # before mlx.core: it loads the BLAS
import typer
from mlx_nanogpt import GPTConfig, TrainConfig, UserError
from mlx_nanogpt.config import configurations, tokens_per_step
from mlx_nanogpt.machine import chip
from mlx_nanogpt.presets import PRESETS
from peers.record import RESULTS, circumstances, slug
from rich.console import Console

TARGET = 1.782  # NanoLux's validation loss
NANOLUX_TOKENS = 5000 * tokens_per_step(GPTConfig(), TrainConfig())
SEEDS = (1337, 1, 42)
MODERN = PRESETS["modern"].settings
HERE = Path(__file__).parent
WHOLE = {"eval_iters": 1000}  # NanoLux's protocol
TRAIN_COLOUR, VALID_COLOUR = "#1f6f8b", "#c8553d"
console = Console(highlight=False)


def of_modern(*names: str) -> dict[str, object]:
    """Return some settings of the preset modern."""
    return {name: MODERN[name] for name in names}


BEFORE = {"weight_decay": 0.1, "order": "random"}  # as it was before the last two rungs
# The changes of each rung, which keeps those before it. The last one is the preset modern.
LADDER = {
    "the default": {},
    "AdamW: rate 0.006 with warm-up and cosine, decay, clipping": of_modern(
        "learning_rate", "warmup_iters", "lr_decay_iters", "grad_clip"
    )
    | BEFORE,
    "RMSNorm, no biases": of_modern("norm", "bias"),
    "RoPE": of_modern("position"),
    "QK-norm": of_modern("qk_norm"),
    "SwiGLU": of_modern("activation"),
    "blocks and head start at zero": of_modern("init"),
    "Muon": of_modern("optimizer"),
    "weight decay 0.5 instead of 0.1": of_modern("weight_decay"),
    "no part of the text again before all was read": of_modern("order"),
}
*_, MODERN_RUNG = LADDER


def ladder() -> Iterator[tuple[str, dict]]:
    """Yield each rung and all its settings."""
    settings: dict = {"eval_interval": 5000, **WHOLE}
    for name, changes in LADDER.items():
        settings = settings | changes
        yield name, settings


def short(num_iter: int, **changes) -> dict[str, object]:
    """Return the settings of a short run of the preset modern."""
    lengths = {"num_iter": num_iter, "lr_decay_iters": num_iter, "eval_interval": num_iter, "warmup_iters": 40}
    return MODERN | BEFORE | WHOLE | lengths | changes


RECORDS = {
    "the default": {"target_loss": TARGET, "eval_interval": 100, "eval_iters": 200},
    "fewest tokens": short(1100, batch_size=8, learning_rate=5e-3),
    "least time": short(370, **{name: PRESETS["minute"].settings[name] for name in ("learning_rate", "muon_lr")}),
}
CAUSES = {
    "the default": "The preset nanolux, evaluated every 100 iterations with 200 batches.",
    "fewest tokens": "Batches of 8 windows, not 32: four times as many steps from the same tokens.",
    "least time": "A high rate that falls to 0 within 370 iterations.",
}
SHORT_PRESETS = {
    name: PRESETS[name].settings | WHOLE | {"eval_interval": PRESETS[name].settings["num_iter"]}
    for name in ("minute", "laptop")
}
STUDENTS = (7, 8)  # seeds: a student and its teachers see other batches
WITH_TEACHERS = {
    name: MODERN | WHOLE | {"eval_interval": 5000, "teachers": SEEDS[:2]} | changes
    for name, changes in {"two teachers": {}, "and a weight decay of 0.1": {"weight_decay": 0.1}}.items()
}
KINDS = {"ladder": dict(ladder()), "records": RECORDS, "presets": SHORT_PRESETS, "teachers": WITH_TEACHERS}


def main(
    kind: Annotated[
        Literal["ladder", "records", "presets", "teachers", "tables"],
        typer.Argument(help="The runs to train, or the tables to write."),
    ],
    only: Annotated[list[str] | None, typer.Option(help="Train only these, by name and seed: Muon/1337.")] = None,
) -> None:
    """Train the runs that are not in the log yet, or write the tables."""
    if kind == "tables":
        (HERE / "recipes.md").write_text(tables(), encoding="utf-8")
        draw(RESULTS / "ladder.svg")
        return
    log = RESULTS / f"{slug(chip())}-{kind}.jsonl"
    for name, seed in list_runs(kind):
        key, settings = f"{name}/{seed}", KINDS[kind][name] | {"seed": seed}
        if only and key not in only:
            continue
        if line := read(log).get(key):
            check_the_same(f"{key} in {log.name}", configurations(line["settings"]), settings)
            continue
        console.print(f"{key}: training", soft_wrap=True)
        done = train(kind, name, settings)
        line = {"name": name, "seed": seed, **done, **circumstances("benchmarks/recipes.py")}
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        console.print(f"{key}: {done['train_loss']:.4f} {done['valid_loss']:.4f}", soft_wrap=True)


def list_runs(kind: str) -> Iterator[tuple[str, int]]:
    """Yield names and seeds: several seeds for each, but one for the inner rungs of the ladder, the default among the records,
    and the second kind of student."""
    names, seeds = list(KINDS[kind]), STUDENTS if kind == "teachers" else SEEDS
    several = {"ladder": {names[0], names[-1]}, "teachers": {names[0]}}.get(kind, {*names} - {"the default"})
    for name in names:
        for seed in seeds if name in several else seeds[:1]:
            yield name, seed


def train(kind: str, name: str, settings: Mapping[str, object]) -> dict:
    """Train with `settings` on tiny Shakespeare; return the result."""
    data = gpt.tokenize(gpt.load_corpus("tinyshakespeare"), train_fraction=configurations(settings)[1].train_fraction)
    run = finished(kind, name, settings, data)
    history = run.history()
    last = history[-1]
    return {
        "settings": settings,
        "parameters": gpt.GPT(run.gpt_config).num_parameters(),
        "iterations": last.iteration,
        "tokens": last.iteration * tokens_per_step(run.gpt_config, run.train_config),
        "train_seconds": sum(evaluation.train_seconds for evaluation in history),
        "train_loss": last.train_loss,
        "valid_loss": last.valid_loss,
        "history": [asdict(evaluation) for evaluation in history],
    }


def finished(kind: str, name: str, settings: Mapping[str, object], data: gpt.Dataset) -> gpt.Run:
    """Return a run that ended, and stays in runs/: a teacher is the run of the ladder's last rung with its seed."""
    path = Path("runs", slug(f"{kind} {name} {settings['seed']}"))
    if (path / "tokenizer.json").exists():  # written last
        run = gpt.open_run(path)
        check_the_same(str(path), (run.gpt_config, run.train_config), settings)
    else:
        modern = KINDS["ladder"][MODERN_RUNG]
        teachers = [
            finished("ladder", MODERN_RUNG, modern | {"seed": seed}, data) for seed in settings.get("teachers", ())
        ]
        run = gpt.create_run(*configurations(settings), data, path, teachers=teachers)
    for _ in gpt.train(run, data):  # nothing, if it has ended
        pass
    return run


def check_the_same(place: str, found: tuple[GPTConfig, TrainConfig], settings: Mapping[str, object]) -> None:
    """Raise `UserError` unless the run in `place` was of these settings."""
    if found != configurations(settings):
        raise UserError(f"{place} is a run with the settings of an older recipe", "move it away")


def read(log: Path) -> dict[str, dict]:
    """Return the runs in `log`, by name and seed."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return {f"{line['name']}/{line['seed']}": line for line in map(json.loads, lines)}


# ---- the tables


def tables() -> str:
    """Return the content of recipes.md, from all logs."""
    parts = [HEAD]
    for log in sorted(RESULTS.glob("*-ladder.jsonl")):
        parts.append(_ladder_table(list(read(log).values())))
    parts.append(RECORDS_HEAD)
    for log in sorted(RESULTS.glob("*-records.jsonl")):
        parts.append(_records_table(list(read(log).values()), log.name))
    parts.append(PRESETS_HEAD)
    for log in sorted(RESULTS.glob("*-presets.jsonl")):
        parts.append(_presets_table(list(read(log).values())))
    for log in sorted(RESULTS.glob("*-teachers.jsonl")):
        parts.append(TEACHERS_HEAD)
        parts.append(_teachers_table(list(read(log).values())))
    return "\n".join(parts)


HEAD = """# Recipes

`python benchmarks/recipes.py` trained all of this on tiny Shakespeare. Losses are NanoLux's protocol, 1,000 batches of each split
after the last iteration, unless the text names another.

## From 2017 to today

Each row keeps the changes of the rows before it. All have NanoLux's shape and tokens: 6 layers of 64, heads of 16, a context of
64, 5,000 batches of 32. The ends are means of three seeds, with the smallest and the largest in brackets; the
rows between them have one seed, and two seeds of one recipe differ by about 0.01. So a smaller step means little. The last two changes were
measured on another machine, in a table of their own.

![The losses of the ladder](results/ladder.svg)
"""
RECORDS_HEAD = f"""## NanoLux's loss, sooner

NanoLux ends at a validation loss of {TARGET} after {NANOLUX_TOKENS:,} tokens. These recipes need less, as means of three seeds; the
default has one. *Of NanoLux's* counts tokens, *of the default's* compares seconds of training; a machine that has not run the default has
none.
"""

PRESETS_HEAD = """## The presets for a first run

`minute` and `laptop`, as means of three seeds; other programs ran beside them, so their seconds mean nothing. `laptop` validates on the
last tenth of the text, `minute` on the last fifth. `mlx-gpt presets` lists these losses, and those of the ends of the ladder: `nanolux` and `modern`.
"""


TEACHERS_HEAD = """## Teachers

`modern` once more, with 0.9 of its loss from what two trained runs of `modern` expect (`--teacher`). The tokens are those of the student and
of its teachers, the losses those of the student: means where there are several seeds. Other programs ran beside it.
"""


def _machine(lines: list[dict]) -> str:
    machine = lines[0]["machine"]
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("mlx", "numpy"))
    return f"On {machine['chip']} with {machine['cores']} cores ({versions}, Python {machine['python']}):\n"


def _range(values: list[float], digits: str) -> str:
    """Return the mean, and the smallest and the largest if there are several."""
    spread = f" ({min(values):{digits}} to {max(values):{digits}})" if len(values) > 1 else ""
    return f"{mean(values):{digits}}{spread}"


def _by_name(lines: list[dict]) -> dict[str, list[dict]]:
    return {
        name: [line for line in lines if line["name"] == name] for name in dict.fromkeys(line["name"] for line in lines)
    }


def _ladder_table(lines: list[dict]) -> str:
    rows = ["| Change | Parameters | Train | Valid |", "|---|---:|---:|---:|"]
    runs = _by_name(lines)
    for name in LADDER:
        if of_name := runs.get(name):
            losses = [_range([line[f"{split}_loss"] for line in of_name], ".4f") for split in ("train", "valid")]
            rows.append(f"| {name} | {of_name[0]['parameters']:,} | {' | '.join(losses)} |")
    return _machine(lines) + "\n" + "\n".join(rows) + "\n"


def _records_table(lines: list[dict], log: str) -> str:
    rows = [
        "| Record | Tokens | Of NanoLux's | Seconds | Of the default's | Valid | Cause |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    runs = _by_name(lines)
    default = runs.get("the default", [])  # without it, seconds have nothing to compare with
    for name, of_name in runs.items():
        tokens, seconds = (mean(line[key] for line in of_name) for key in ("tokens", "train_seconds"))
        loss = _range([line["valid_loss"] for line in of_name], ".4f")
        times = f"{seconds:.1f} | 1/{default[0]['train_seconds'] / seconds:.1f}" if default else "- | -"
        rows.append(f"| {name} | {tokens:,.0f} | 1/{NANOLUX_TOKENS / tokens:.1f} | {times} | {loss} | {CAUSES[name]} |")
    return _machine(lines) + "\n" + "\n".join(rows) + f"\n\nThe log is [{log}](results/{log}).\n"


def _presets_table(lines: list[dict]) -> str:
    rows = ["| Preset | Parameters | Tokens | Train | Valid |", "|---|---:|---:|---:|---:|"]
    for name, of_name in _by_name(lines).items():
        losses = [_range([line[f"{split}_loss"] for line in of_name], ".4f") for split in ("train", "valid")]
        rows.append(f"| `{name}` | {of_name[0]['parameters']:,} | {of_name[0]['tokens']:,} | {' | '.join(losses)} |")
    return _machine(lines) + "\n" + "\n".join(rows) + "\n"


def _teachers_table(lines: list[dict]) -> str:
    rows = ["| Student | Tokens | Train | Valid |", "|---|---:|---:|---:|"]
    for name, of_name in _by_name(lines).items():
        losses = [_range([line[f"{split}_loss"] for line in of_name], ".4f") for split in ("train", "valid")]
        tokens = of_name[0]["tokens"] * (1 + len(of_name[0]["settings"]["teachers"]))
        rows.append(f"| {name} | {tokens:,} | {' | '.join(losses)} |")
    return _machine(lines) + "\n" + "\n".join(rows) + "\n"


def draw(path: Path) -> None:
    """Draw the losses of each rung, mean of its seeds, into an SVG file."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    runs = _by_name([line for log in sorted(RESULTS.glob("*-ladder.jsonl"))[:1] for line in read(log).values()])
    names = [name for name in LADDER if name in runs]
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for split, colour in (("valid", VALID_COLOUR), ("train", TRAIN_COLOUR)):
        losses = [mean(line[f"{split}_loss"] for line in runs[name]) for name in names]
        axes.plot(losses, range(len(names)), "o-", color=colour, label=split)
        for loss, row in zip(losses, range(len(names))):
            axes.annotate(f"{loss:.3f}", (loss, row), (6, 6), textcoords="offset points", color=colour, fontsize=8)
    axes.axvline(TARGET, color="#888888", linestyle=":", label="NanoLux, valid")
    axes.set_yticks(range(len(names)), [name.partition(":")[0] for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("loss, nats per character")
    axes.legend(frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        sys.exit(f"Error: {error}")
