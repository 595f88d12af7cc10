"""One line of text on each thing that a command shows: the device, the versions, the text, the run and its weights."""

import platform
import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields

import mlx_nanogpt as gpt
from mlx_nanogpt import Dataset, GPTConfig, Run, TrainConfig
from mlx_nanogpt.config import tokens_per_step
from mlx_nanogpt.exchange.layouts import GPT2, best_layout
from mlx_nanogpt.machine import can_compile, describe_device, package_versions
from mlx_nanogpt.runs.run import RUNS
from mlx_nanogpt.text.corpus import holds_texts
from mlx_nanogpt.text.folders import count_kinds, folder_files

from ..options.settings import with_options

# The settings that the lines Model, Training and Backend of a header tell.
TOLD_ELSEWHERE = set("vocab_size n_layer n_embd head_size block_size dropout num_iter batch_size".split())
TOLD_ELSEWHERE |= set("gradient_accumulation_steps learning_rate seed backend".split())
OF_THE_RATE = ("warmup_iters", "lr_decay_iters", "min_lr", "schedule", "muon_lr")  # the settings of the line Rate
TOLD_ELSEWHERE |= set(OF_THE_RATE)
FALLS = {"cosine": "along a cosine", "linear": "along a line", "wsd": "in the last fifth, along a line,"}


def describe_backend(backend: str) -> str:
    """The backend. The line says so if nothing can be compiled here."""
    if backend == "compiled" and not can_compile():
        return f"{backend} (but run uncompiled: on the CPU MLX needs g++ for it, and there is none here)"
    return backend


def versions() -> str:
    return f"{describe_packages(package_versions())}, Python {platform.python_version()}"


def describe_packages(packages: dict[str, str]) -> str:
    return ", ".join(f"{package} {version}" for package, version in packages.items())


def describe_data(data: Dataset) -> str:
    tokens, vocabulary = len(data.train_tokens) + len(data.valid_tokens), data.tokenizer.vocab_size
    if tokens == data.corpus.characters:  # each character is a token
        return f"{data.corpus.name}: {tokens:,} characters, {vocabulary:,} different"
    characters = f"{data.corpus.characters:,} characters in " if data.corpus.characters else ""
    return f"{data.corpus.name}: {characters}{tokens:,} tokens, vocabulary {vocabulary:,}"


def describe_files(sources: Sequence[str]) -> str:
    """For each folder of texts among `sources`: how many files were read and how many were not, by kind."""
    described = []
    for source in filter(holds_texts, sources):
        files = folder_files(source)
        line = f"{len(files.taken):,} in {source}: {count_kinds(files.taken)}"
        if left := len(files.left):
            line += f"; left {left:,} that {'is' if left == 1 else 'are'} no text: {count_kinds(files.left)}"
        described.append(line)
    return "; ".join(described)


def describe_run(run: Run, data: Dataset) -> dict[str, str]:
    """The lines of a run's header, by name."""
    gpt_config, train_config = run.gpt_config, run.train_config
    lines = {
        "Device": describe_device(),
        "Versions": versions(),
        "Backend": describe_backend(train_config.backend),
        "Corpus": describe_data(data),
    }
    if files := describe_files(data.corpus.sources):
        lines["Files"] = files
    lines["Model"] = describe_model(gpt_config)
    lines["Training"] = describe_training(gpt_config, train_config)
    if rate := describe_rate(train_config):
        lines["Rate"] = rate
    if settings := [*_other_settings(gpt_config, TOLD_ELSEWHERE), *_other_settings(train_config, TOLD_ELSEWHERE)]:
        lines["Settings"] = ", ".join(settings)
    if run.init_from:
        lines["Start"] = f"from the weights of {run.init_from}"
    lines["Export"] = describe_export(run)
    iteration = run.position().iteration
    lines["Run"] = f"{run.path}, going on from iteration {iteration:,}" if iteration else str(run.path)
    return lines


def describe_model(config: GPTConfig) -> str:
    return (
        f"{gpt.GPT(config).num_parameters():,} parameters: {config.n_layer} layers, {config.n_embd} wide, "
        f"{config.n_head} heads of {config.head_size}, context {config.block_size}"
    )


def describe_training(gpt_config: GPTConfig, train_config: TrainConfig) -> str:
    return (
        f"{train_config.num_iter:,} iterations of {_describe_step(gpt_config, train_config)}, "
        f"rate {train_config.learning_rate:g}, dropout {gpt_config.dropout:g}, seed {train_config.seed}"
    )


def describe_rate(config: TrainConfig) -> str:
    """How the rate changes, and what that means for the last iterations; nothing if it is constant, and Adam's alone."""
    parts = [f"Muon's is {config.muon_lr:g}"] if config.optimizer == "muon" else []
    if config.warmup_iters:
        parts.append(f"it rises over {config.warmup_iters:,} iterations")
    last = config.lr_decay_iters
    if last:
        parts.append(f"it falls {FALLS[config.schedule]} to {config.min_lr:g} at iteration {last:,}")
    if 0 < last < config.num_iter and config.min_lr == 0:
        parts.append("after that nothing is learned")
    elif config.num_iter < max(last, config.warmup_iters):
        parts.append(f"the training ends before, at {config.num_iter:,}")
    return "; ".join(parts)


def _describe_step(gpt_config: GPTConfig, train_config: TrainConfig) -> str:
    batches = train_config.gradient_accumulation_steps
    product = f"{f'{batches} x ' if batches > 1 else ''}{train_config.batch_size} x {gpt_config.block_size}"
    return f"{product} = {tokens_per_step(gpt_config, train_config):,} tokens"


def chosen_settings(run: Run) -> list[str]:
    """The settings of `run` that differ from the defaults, but for its length and size of vocabulary."""
    told = {"num_iter", "vocab_size"}
    tokens = [] if isinstance(run.tokenizer, gpt.CharTokenizer) else [f"tokenizer {run.tokenizer.kind}"]
    return [*tokens, *_other_settings(run.gpt_config, told), *_other_settings(run.train_config, told)]


def _other_settings(config: GPTConfig | TrainConfig, told: Collection[str]) -> Iterator[str]:
    """The settings that differ from the defaults, but for those that are `told` elsewhere."""
    for field in fields(config):
        value = getattr(config, field.name)
        if value != field.default and field.name not in told:
            yield field.name if value is True else f"{field.name} {value}"


def describe_export(run: Run) -> str:
    """As what the run can be written for other programs; if it cannot, what would make that possible."""
    layout, obstacles = best_layout(run.gpt_config)
    if not obstacles:
        return f"as {layout.name}, with mlx-gpt export"
    as_gpt2 = with_options(" ".join(GPT2.obstacles(run.gpt_config).values()))
    return f"not possible; it would be with {as_gpt2} (a GPT-2), or with --preset modern (a Qwen3)"


def describe_weights(run: Run, best: bool) -> str:
    """The run, and the iteration of the weights that a command uses: the last ones, or the `best`."""
    which = ", weights of the lowest validation loss" if best else ""
    return f"{run.path}: {run.corpus.name}, iteration {run.position(best).iteration:,} of {run.train_config.num_iter:,}{which}"


def run_option(run: Run) -> str:
    """The option that lets `mlx-gpt generate` use `run`. It is empty in `runs/`, whose newest run is the default."""
    return "" if run.path.parent == RUNS else f" --run {shlex.quote(str(run.path))}"
