"""One line of text on the device, the versions, the text, the run and its weights."""

import platform
from collections.abc import Sequence
from dataclasses import asdict

import mlx_nanogpt as gpt
from mlx_nanogpt import Dataset, GPTConfig, Run, TrainConfig
from mlx_nanogpt.config import configurations, tokens_per_step
from mlx_nanogpt.exchange.layouts import GPT2, best_layout
from mlx_nanogpt.machine import can_compile, compiler_source, describe_device, package_versions
from mlx_nanogpt.measure.timing import flops_per_token, measure_matrix
from mlx_nanogpt.optimizer import end_of_learning
from mlx_nanogpt.text.corpus import holds_texts
from mlx_nanogpt.text.folders import count_kinds, find_splits, find_tests, folder_files
from mlx_nanogpt.text.identity import source_name

from ..options.settings import with_options
from ..options.start import starting_settings

UNITS = {"years": 31_557_600, "days": 86_400, "h": 3600, "min": 60}  # seconds
LONG_SECONDS = 1800  # from here on, a run has a forecast
LONG_WORK = 1e14  # floating-point operations: less takes no such time, and nothing is measured


def describe_versions() -> str:
    return f"{describe_packages(package_versions())}, Python {platform.python_version()}"


def describe_packages(packages: dict[str, str]) -> str:
    return ", ".join(f"{package} {version}" for package, version in packages.items())


def describe_data(data: Dataset) -> str:
    tokens, vocabulary = len(data.train_tokens) + len(data.valid_tokens), data.tokenizer.vocab_size
    if data.corpus.valid:
        counts = f"{len(data.train_tokens):,} tokens to train on, {len(data.valid_tokens):,} to validate"
        return f"{data.corpus.name}: {counts}, vocabulary {vocabulary:,}"
    if isinstance(data.tokenizer, gpt.CharTokenizer) and data.corpus.characters:
        return f"{data.corpus.name}: {data.corpus.characters:,} characters, {vocabulary:,} different"
    characters = f"{data.corpus.characters:,} characters in " if data.corpus.characters else ""
    return f"{data.corpus.name}: {characters}{tokens:,} tokens, vocabulary {vocabulary:,}"


def describe_files(sources: Sequence[str]) -> str:
    """Count the files that were read in each folder among `sources`, and those that were not, by kind."""
    lines = []
    for source in filter(holds_texts, sources):
        files = folder_files(source)
        skipped = f"; not text: {count_kinds(files.left)}" if files.left else ""
        lines.append(f"{len(files.taken):,} in {source}: {count_kinds(files.taken)}{skipped}")
    return "; ".join(lines)


def describe_tests(sources: Sequence[str]) -> dict[str, str]:
    """Name the test files of the folders among `sources`: they are left out of a folder whose names tell splits, and of no other."""
    left_out: list[str] = []
    trained_on: list[str] = []
    for source in filter(holds_texts, sources):
        files = folder_files(source).taken
        if splits := find_splits(source, files):
            left_out += splits.test
        else:
            trained_on += map(str, find_tests(files))
    lines = {"Left out": f"{', '.join(left_out)} (mlx-gpt eval --data measures it)"} if left_out else {}
    if trained_on:
        lines["Tests"] = (
            f"{', '.join(trained_on[:5])}: read with the rest; to keep tests apart, name the files to train on"
        )
    return lines


def describe_run(run: Run, data: Dataset) -> dict[str, str]:
    """The lines of a run's header, by name."""
    gpt_config, train_config = run.gpt_config, run.train_config
    lines = {"Device": describe_device(), "Versions": describe_versions(), "Backend": train_config.backend}
    if train_config.backend == "compiled" and not can_compile():
        lines["Backend"] += f" (but run uncompiled: on the CPU MLX needs g++ for it; {compiler_source()} brings it)"
    lines["Corpus"] = describe_data(data)
    if counts := data.count_documents():
        what = "line" if data.corpus.documents == "lines" else "file"
        lines["Documents"] = f"{counts[0]:,} to train on, {counts[1]:,} to validate (a {what} is one)"
    if data.corpus.valid:
        lines["Validates"] = ", ".join(map(source_name, data.corpus.valid))
    if files := describe_files([*data.corpus.sources, *data.corpus.valid]):
        lines["Files"] = files
    lines["Model"] = describe_model(gpt_config)
    lines["Training"] = describe_training(gpt_config, train_config)
    if settings := list_settings(run):
        lines["Settings"] = ", ".join(settings)
    if (end := end_of_learning(train_config)) < train_config.num_iter:
        lines["Rate"] = f"0 from iteration {end:,} on, so nothing is learned after it"
    if run.init_from:
        lines["Start"] = f"from the weights of {run.init_from}"
    if run.teachers:
        names = ", ".join(teacher.path for teacher in run.teachers)
        lines["Teachers"] = f"{names}: {train_config.distill:g} of the loss is from what they expect"
    lines["Export"] = describe_export(run)
    iteration = run.position().iteration
    lines["Run"] = f"{run.path}, resumed at iteration {iteration:,}" if iteration else str(run.path)
    return lines


def describe_model(config: GPTConfig) -> str:
    return (
        f"{gpt.GPT(config).num_parameters():,} parameters: {config.n_layer} layers, {config.n_embd} wide, "
        f"{config.n_head} heads of {config.head_size}, context {config.block_size}"
    )


def describe_training(gpt_config: GPTConfig, train_config: TrainConfig) -> str:
    batches = train_config.gradient_accumulation_steps
    product = f"{f'{batches} x ' if batches > 1 else ''}{train_config.batch_size} x {gpt_config.block_size}"
    return (
        f"{train_config.num_iter:,} iterations of {product} = {tokens_per_step(gpt_config, train_config):,} tokens, "
        f"rate {train_config.learning_rate:g}, dropout {gpt_config.dropout:g}, seed {train_config.seed}"
    )


def forecast(run: Run, train_config: TrainConfig) -> str | None:
    """The least time of a long run, from the rate of a matrix product here; None for a shorter one. `train_config` has the batches of
    this rank."""
    steps = train_config.num_iter - run.position().iteration
    work = flops_per_token(gpt.GPT(run.gpt_config)) * tokens_per_step(run.gpt_config, train_config)
    if steps * work < LONG_WORK or (seconds := work / measure_matrix(rounds=3).max) * steps < LONG_SECONDS:
        return None
    return (
        f"a step takes at least {format_duration(seconds)} here, and {steps:,} of them {format_duration(steps * seconds)}; "
        "mlx-gpt plan, with the same settings, measures it"
    )


def format_duration(seconds: float) -> str:
    """Format a time for people, in one unit."""
    for name, size in UNITS.items():
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {name}"
    if seconds >= 1:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{1e3 * seconds:.0f} ms"


def list_settings(run: Run) -> list[str]:
    """The preset that `run` is nearest to, unless that is the defaults, and the settings that differ from it, but for its length and
    size of vocabulary."""
    length = run.train_config.num_iter
    own = {"tokenizer": run.tokenizer.kind} | asdict(run.gpt_config) | asdict(run.train_config)
    found = {}
    for preset in (None, *gpt.PRESETS):
        start = starting_settings(preset, None, {"num_iter": length}) | {
            "num_iter": length,
            "vocab_size": own["vocab_size"],
        }
        gpt_config, train_config = configurations(start)
        theirs = {"tokenizer": "char"} | start | asdict(gpt_config) | asdict(train_config)
        differing = [name for name, value in own.items() if value != theirs[name]]
        found[preset] = [name if own[name] is True else f"{name} {own[name]}" for name in differing]
    nearest = min(found, key=lambda preset: len(found[preset]))
    documents = [] if run.corpus.documents == "none" else [f"documents {run.corpus.documents}"]
    teachers = [f"teacher {teacher.path}" for teacher in run.teachers]
    return [*documents, *([f"preset {nearest}"] if nearest else []), *teachers, *found[nearest]]


def describe_export(run: Run) -> str:
    """The export format that the run fits, or what prevents one."""
    layout, obstacles = best_layout(run.gpt_config)
    if not obstacles:
        return f"as {layout.name}, with mlx-gpt export"
    as_gpt2 = with_options(" ".join(GPT2.obstacles(run.gpt_config).values()))
    return f"not possible; it would be with {as_gpt2} (a GPT-2), or with --preset modern (a Qwen3)"


def describe_weights(run: Run, last: bool = False) -> str:
    """The run, and the iteration of its best or its `last` weights, as `Run.load_model` chooses them."""
    best = run.takes_best(last)
    which = (
        "best weights" if best else "last weights" if last else "last weights (no evaluation has chosen the best yet)"
    )
    iteration = f"iteration {run.position(best).iteration:,} of {run.train_config.num_iter:,}"
    return f"{run.path}: {run.corpus.name}, {iteration}, {which}"
