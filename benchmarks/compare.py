"""Measure our training step, evaluation and generation beside those of other people's frameworks, in one call.

    pip install -e ".[benchmarks]"
    python benchmarks/compare.py

Each peer (see `peers/`) is a process of its own, so that thread pools and allocators do not meet. They work in turn, a
round of a few steps each, while the others sleep, so that a machine that grows hot or busy slows all of them alike; a
ratio is taken within a round. Before anything is timed, the peers of the same model must learn as we do.

Results go to benchmarks/results/ as <machine>-compare.json, with every round, and .md, with a table.
"""

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import mlx_nanogpt as gpt
import numpy as np
import typer
from mlx_nanogpt import GPTConfig, TrainConfig, UserError
from mlx_nanogpt.text.batches import evaluation_starts, training_batch, windows
from mlx_nanogpt.text.corpus import TINYSHAKESPEARE
from peers import OURS, PEERS, Settings, record
from rich.console import Console

SCRIPT = "benchmarks/compare.py"
SETTLE_SECONDS = 0.25  # a thread pool spins for a while after its last task
CHECK_STEPS = 100
CHECK_MEAN_OF = 20  # the last of them
INITIAL_TOLERANCE = 0.1  # nats from a uniform guess
LOSS_TOLERANCE = 0.05  # nats from our loss after CHECK_STEPS, on the same batches with other initial weights

console = Console(highlight=False)


@dataclass(frozen=True)
class Rounds:
    """One value of each round, and their median and range."""

    median: float
    min: float
    max: float
    values: list[float]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Rounds":
        return cls(statistics.median(values), min(values), max(values), list(values))


@dataclass(frozen=True)
class Measured:
    """One thing that a peer did in every round. `ours_over_theirs` compares seconds: below 1 we are faster."""

    value: Rounds
    ours_over_theirs: Rounds


class Worker:
    """A peer's process."""

    def __init__(self, name: str):
        self.name = name
        command = [sys.executable, "-m", "peers.worker", name]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=Path(__file__).parent, stdin=pipe, stdout=pipe, text=True)

    def ask(self, do: str, **arguments: object) -> dict:
        """Send a command to `peers/worker.py` and wait for its reply."""
        try:
            print(json.dumps({"do": do, **arguments}), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            pass  # there will be no reply either
        reply = self.process.stdout.readline()
        if not reply:
            raise UserError(f"the peer {self.name} stopped while it was asked to {do}", "read its output above")
        return json.loads(reply)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def main(
    peers: Annotated[
        str | None, typer.Option(help=f"Some of {','.join(PEERS)}, with commas between.", show_default="all")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each peer has its turn.")] = 10,
    steps: Annotated[int, typer.Option(min=1, help="Training steps in a turn.")] = 20,
    eval_batches: Annotated[int, typer.Option(min=1, help="Batches in an evaluation; one evaluation is a turn.")] = 16,
    eval_batch_size: Annotated[
        int, typer.Option(min=1, help="Windows in a batch of the peers' evaluation; our own chooses for itself.")
    ] = TrainConfig.batch_size,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate in a turn.")] = 500,
    data: Annotated[str, typer.Option(help="The corpus, as for mlx-gpt train.")] = TINYSHAKESPEARE,
) -> None:
    """Measure training, evaluation and generation beside other frameworks."""
    names = _choose(peers)
    dataset = gpt.tokenize(gpt.load_corpus(data))
    settings = record.settings_of(GPTConfig(dataset.tokenizer.vocab_size), TrainConfig())
    num_windows = eval_batches * eval_batch_size

    with TemporaryDirectory() as folder, ExitStack() as stack:
        _write_data(Path(folder), dataset, settings, 1 + CHECK_STEPS + rounds * steps, num_windows, eval_batch_size)
        workers = {name: stack.enter_context(Worker(name)) for name in names}
        made = {}
        for name, worker in workers.items():
            console.print(f"{PEERS[name].title}: first step and {CHECK_STEPS} more")
            made[name] = worker.ask("make", settings=asdict(settings), folder=folder) | _start(worker)
        _check(made, settings)

        train = _time_training(workers, rounds, steps)
        evaluate = _time(workers, rounds, "evaluate", num_windows)
        generating = {name: worker for name, worker in workers.items() if made[name]["generates"]}
        generate = _time(generating, rounds, "generate", tokens, num_tokens=tokens)
        memory = {name: worker.ask("peak_memory")["bytes"] / 2**20 for name, worker in workers.items()}

    result = record.circumstances(SCRIPT) | {
        "corpus": {"name": Path(dataset.corpus.name).name, "sha256": dataset.corpus.sha256},
        "settings": asdict(settings),
        "protocol": {
            "rounds": rounds,
            "steps_per_round": steps,
            "eval_windows": num_windows,
            "eval_batch_size": eval_batch_size,
            "generated_tokens": tokens,
            "check_steps": CHECK_STEPS,
            "check_mean_of_last": CHECK_MEAN_OF,
            "initial_tolerance": INITIAL_TOLERANCE,
            "loss_tolerance": LOSS_TOLERANCE,
        },
        "peers": {
            name: {"title": PEERS[name].title, "same_model": PEERS[name].same_model}
            | made[name]
            | _compare(name, train, evaluate, generate)
            | {"peak_memory_mib": memory[name]}
            for name in names
        },
    }
    path, report = record.write_json("compare", result), _report(result)
    path.with_suffix(".md").write_text(report, encoding="utf-8")
    console.print(report, markup=False, soft_wrap=True)
    console.print(f"Written to {path} and {path.with_suffix('.md').name}", soft_wrap=True)


def _time_training(workers: dict[str, Worker], rounds: int, steps: int) -> dict[str, list[float]]:
    """Return the seconds of a step in each round, by the name of the peer."""
    seconds = {name: [] for name in workers}
    for i, name, worker in _turns(workers, rounds, "training"):
        first = 1 + CHECK_STEPS + i * steps
        seconds[name].append(worker.ask("train", first=first, last=first + steps)["seconds"] / steps)
    return seconds


def _time(workers: dict[str, Worker], rounds: int, do: str, units: int, **arguments: int) -> dict[str, list[float]]:
    """Return the seconds of a unit of the command `do` in each round, by the name of the peer."""
    seconds = {name: [] for name in workers}
    for worker in workers.values():
        worker.ask(do, **arguments)  # compiles
    for _, name, worker in _turns(workers, rounds, do):
        seconds[name].append(worker.ask(do, **arguments)["seconds"] / units)
    return seconds


def _choose(peers: str | None) -> list[str]:
    """Return the names of the peers to measure, ours first. Raises `UserError` if one is unknown or its package missing."""
    chosen = list(PEERS) if peers is None else [name.strip() for name in peers.split(",")]
    unknown = [name for name in chosen if name not in PEERS]
    if unknown:
        raise UserError(f"--peers {', '.join(unknown)} is not known", f"choose from {', '.join(PEERS)}")
    missing = sorted({PEERS[name].package for name in chosen if find_spec(PEERS[name].package) is None})
    if missing:
        present = ",".join(name for name in chosen if PEERS[name].package not in missing)
        raise UserError(
            f"{' and '.join(missing)} cannot be found",
            f'install the packages of the peers with pip install -e ".[benchmarks]", or leave them out: --peers {present or OURS}',
        )
    return [OURS, *(name for name in dict.fromkeys(chosen) if name != OURS)]


def _write_data(
    folder: Path, data: gpt.Dataset, settings: Settings, num_steps: int, num_windows: int, eval_batch_size: int
) -> None:
    """Write the input of `peers/worker.py`, so that all see the same windows in the same order."""
    batches = [
        training_batch(data.train_tokens, settings.seed, i, settings.batch_size, settings.block_size)
        for i in range(num_steps)
    ]
    np.save(folder / "train.npy", np.array(batches))  # (num_steps, 2, B, T)
    starts = evaluation_starts(data.valid_tokens, num_windows, settings.block_size)
    evaluation = np.array(windows(data.valid_tokens, starts, settings.block_size))  # (2, num_windows, T)
    evaluation = evaluation.reshape(2, -1, eval_batch_size, settings.block_size).swapaxes(0, 1)  # (batches, 2, B, T)
    np.save(folder / "evaluation.npy", evaluation)
    np.save(folder / "tokens.npy", data.valid_tokens)


def _start(worker: Worker) -> dict:
    """Take the first step, which compiles, and the steps that check the peers."""
    first = worker.ask("train", first=0, last=1)
    losses = worker.ask("train", first=1, last=1 + CHECK_STEPS)["losses"]
    return {
        "first_step_seconds": first["seconds"],
        "initial_loss": first["losses"][0],
        "loss_after_check": statistics.fmean(losses[-CHECK_MEAN_OF:]),
    }


def _check(made: dict[str, dict], settings: Settings) -> None:
    """Raise `UserError` unless every peer of the same model has our number of parameters and learns as ours does."""
    uniform, ours = math.log(settings.vocab_size), made[OURS]
    problems = []
    for name, peer in made.items():
        if not PEERS[name].same_model:
            continue
        if peer["num_parameters"] != ours["num_parameters"]:
            problems.append(f"{name} has {peer['num_parameters']:,} parameters and not {ours['num_parameters']:,}")
        if not abs(peer["initial_loss"] - uniform) < INITIAL_TOLERANCE:
            problems.append(f"{name} starts at a loss of {peer['initial_loss']:.4f}, not near {uniform:.4f}")
        if not abs(peer["loss_after_check"] - ours["loss_after_check"]) < LOSS_TOLERANCE:
            problems.append(
                f"{name} is at {peer['loss_after_check']:.4f} after {CHECK_STEPS} steps, not near our "
                f"{ours['loss_after_check']:.4f}"
            )
    if problems:
        raise UserError(
            f"the peers do not train the same model: {'; '.join(problems)}", "mend them; nothing was measured"
        )


def _turns(workers: dict[str, Worker], rounds: int, stage: str) -> Iterator[tuple[int, str, Worker]]:
    """Yield every worker once in every round, each time beginning with another, after a pause in which all fall asleep."""
    names = list(workers)
    with console.status("") as status:
        for i in range(rounds):
            shift = i % len(names)
            for name in names[shift:] + names[:shift]:
                status.update(f"{stage}, round {i + 1} of {rounds}: {name}")
                time.sleep(SETTLE_SECONDS)
                yield i, name, workers[name]


def _compare(name: str, train: dict, evaluate: dict, generate: dict) -> dict[str, dict | None]:
    """Return the rounds of a peer in the units of the report, and their ratios to ours."""
    return {
        "train_ms_per_step": _summarise(train, name, lambda seconds: 1e3 * seconds),
        "evaluation_ms_per_window": _summarise(evaluate, name, lambda seconds: 1e3 * seconds),
        "generation_tokens_per_second": _summarise(generate, name, lambda seconds: 1 / seconds),
    }


def _summarise(seconds: dict[str, list[float]], name: str, unit: Callable[[float], float]) -> dict | None:
    """Return the rounds of `name` in the unit that `unit` makes of seconds, and their ratios to ours; None if it had no turn."""
    if name not in seconds:
        return None
    ratios = [ours / theirs for ours, theirs in zip(seconds[OURS], seconds[name])]
    return asdict(Measured(Rounds.of([unit(value) for value in seconds[name]]), Rounds.of(ratios)))


def _report(result: dict) -> str:
    """Return the result as Markdown, with a table that can be quoted."""
    machine, settings, protocol = result["machine"], result["settings"], result["protocol"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    head = (
        "Peer", "Device", "Training, ms per step", "Ours / theirs", "Evaluation, ms per window", "Ours / theirs",
        "Generation, tokens/s", "Ours / theirs", "First step, s", "Peak memory, MiB",
    )  # fmt: skip
    rows = [head, ("---", "---", *["---:"] * (len(head) - 2))]
    for peer in result["peers"].values():
        cells = []
        for key, form in (
            ("train_ms_per_step", "{:.1f}"),
            ("evaluation_ms_per_window", "{:.3f}"),
            ("generation_tokens_per_second", "{:.0f}"),
        ):
            measured = peer[key]
            values = ((measured["value"], form), (measured["ours_over_theirs"], "{:.2f}")) if measured else ()
            cells += [_cell(rounds, form) for rounds, form in values] or ["–", "–"]
        cells += [f"{peer['first_step_seconds']:.2f}", f"{peer['peak_memory_mib']:.0f}"]
        rows.append((peer["title"], peer["device"], *cells))
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    checked = "\n".join(
        f"| {peer['title']} | {peer['num_parameters']:,} | {peer['initial_loss']:.4f} | {peer['loss_after_check']:.4f} |"
        for peer in result["peers"].values()
    )
    return f"""# The same GPT in several frameworks, side by side

{machine["chip"]}, {machine["cores"]} cores, {machine["os"]}, {machine["date"]}; Python {machine["python"]}, {versions}; \
BLAS of MLX: {machine["blas"]}; commit {machine["commit"]}.

    {result["command"]}

Batches of {settings["batch_size"]} windows of {settings["block_size"]} tokens of {result["corpus"]["name"]}; \
{settings["n_layer"]} layers, {settings["n_embd"]} wide, heads of {settings["head_size"]}; float32; Adam, learning rate \
{settings["learning_rate"]:g}. Each peer is a process of its own with its framework's default threads; they take turns, \
{protocol["rounds"]} rounds of {protocol["steps_per_round"]} steps, of {protocol["eval_windows"]} windows of evaluation \
(in batches of {protocol["eval_batch_size"]}, ours grouped by itself), and of {protocol["generated_tokens"]} generated \
tokens. A number is the median of the rounds (least to greatest). A ratio compares times within each round: below 1 we \
are faster. The first step includes compilation. Peak memory is the resident memory of the process, without a GPU's own.

{table}

Before anything was timed, {protocol["check_steps"] + 1} steps on the same batches had to give the same model: an initial \
loss within {protocol["initial_tolerance"]} of ln {settings["vocab_size"]} = {math.log(settings["vocab_size"]):.4f}, and \
a mean loss of the last {protocol["check_mean_of_last"]} steps within {protocol["loss_tolerance"]} of ours. NanoLux's \
model is another one and has a proof of its own (benchmarks/peers/nanolux.py).

| Peer | Parameters | Initial loss | Loss after {protocol["check_steps"]} steps |
| --- | ---: | ---: | ---: |
{checked}
"""


def _cell(rounds: dict, form: str) -> str:
    median, least, greatest = (form.format(rounds[key]) for key in ("median", "min", "max"))
    return median if rounds["min"] == rounds["max"] else f"{median} ({least}–{greatest})"


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        sys.exit(f"Error: {error}")
