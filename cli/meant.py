"""What a person means by a word that mlx-gpt does not take: a name from other programs, or a text without its option."""

import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

from mlx_nanogpt import PRESETS
from mlx_nanogpt.errors import printable
from mlx_nanogpt.runs.run import RUNS

RUN = "run"  # the argument
OPTIONS = {  # what is meant: the words
    RUN: "--run --model",
    "--last": "--best",
    "--learning-rate": "--lr --rate",
    "--num-iter": "--epochs --steps --iters --max-iters --max-steps",
    "--tokens": "--max-new-tokens --max-tokens --length",
    "--block-size": "--context --context-length",
    "--head-size": "--n-head --heads",
    "--prompt": "--start --text",
    "--prompt-file": "--file --input",
    "--data": "--file --input --dataset",
    "--run-dir": "--out-dir --output",
    "--out": "--out-dir --output",
}
COMMANDS = {
    "generate": "sample write chat",
    "eval": "test evaluate valid",
    "runs": "list ls",
    "report": "info show",
    "train --init-from": "finetune",
    "train --resume": "resume",
}
NOTES = {  # instead of the question
    RUN: "name the run without an option, by its number or its folder",
    "--last": "the best weights are taken without an option, and the last with --last",
    "--n-head": "did you mean --head-size? --n-embd divided by it is the number of heads",
    "chat": "did you mean mlx-gpt generate? It continues a text, and does not chat",
}


def meant_command(word: str) -> str | None:
    """The sentence that answers the unknown command `word`, if its meaning is known."""
    for meant, words in COMMANDS.items():
        if word in words.split():
            return NOTES.get(word, f"did you mean mlx-gpt {meant}?")
    return None


def meant_option(word: str, names: Collection[str]) -> str | None:
    """The sentence that answers the unknown option `word` of a command with the options and arguments `names`, if its meaning is
    known."""
    for meant, words in OPTIONS.items():
        if meant in names and word in words.split():
            return NOTES.get(word) or NOTES.get(meant, f"did you mean {meant}?")
    return None


def misplaced_words(run: Path | None, words: Sequence[str], names: Collection[str]) -> str | None:
    """The sentence that answers `words` that belong to no option, or a `run` that is a text or a file; None if nothing is wrong."""
    is_run = run is None or run.is_dir() or run.parent == RUNS
    order = ["--prompt", "--data"] if words or is_run else ["--prompt"]
    if not is_run and run.is_file():
        order = ["--prompt-file", "--data"]
    word = " ".join([*([] if is_run else [str(run)]), *words])
    if word in PRESETS:
        order = ["--preset", *order]
    meant = [option for option in order if option in names]
    if not words and (is_run or not meant):
        return None
    shown = printable(shlex.quote(word))
    problem = f"{shown} belongs to no option" if words else f"there is no run {shown}"
    return f"{problem}; {f'did you mean {meant[0]} {shown}?' if meant else 'leave it out'}"
