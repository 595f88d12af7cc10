"""What a person means by a word that mlx-gpt does not take: a name from other programs, or a text without its option."""

import os
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from mlx_nanogpt import PRESETS
from mlx_nanogpt.errors import printable
from mlx_nanogpt.runs.run import RUNS

OPTIONS = {  # what is meant, an option or an argument: the words
    "run": "--run --model",
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
    "--surprises": "--html",  # of older versions
}
COMMANDS = {
    "mlx-gpt generate": "sample write",
    "mlx-gpt play": "chat",
    "mlx-gpt eval": "test evaluate valid",
    "mlx-gpt runs": "list ls",
    "mlx-gpt report": "info show",
    "mlx-gpt page": "html inside web",
    "mlx-gpt train --init-from": "finetune",
    "mlx-gpt train --resume": "resume",
}
NOTES = {  # instead of the question
    "run": "name the run without an option, by its number or its folder",
    "--last": "the best weights are taken without an option, and the last with --last",
    "--head-size": "did you mean --head-size? --n-embd divided by it is the number of heads",
    "--html": "did you mean mlx-gpt page? It writes the model itself as a page",
    "chat": "did you mean mlx-gpt play? It continues what you type, and does not answer",
}


def meant(word: str, table: Mapping[str, str], names: Collection[str]) -> str:
    """The sentence that answers `word` by `table`, if something of `names` is meant; or an empty one."""
    found = [name for name, words in table.items() if name in names and word in words.split()]
    return NOTES.get(word) or NOTES.get(found[0], f"did you mean {found[0]}?") if found else ""


def misplaced_words(run: Path | None, words: Sequence[str], names: Collection[str]) -> str:
    """The sentence that answers `words` of no option, or a text in the place of `run`, in a command with the options `names`; or an
    empty one."""
    is_run = run is None or os.path.isdir(run) or run.parent == RUNS
    word = " ".join([*([] if is_run else [str(run)]), *words])
    order = ["--preset"] * (word in PRESETS) + ["--prompt-file"] * os.path.isfile(word) + ["--prompt", "--data"]
    possible, shown = [name for name in order if name in names], printable(shlex.quote(word))
    if not word or not (words or possible):
        return ""
    problem = f"{shown} belongs to no option" if words else f"there is no run {shown}"
    return f"{problem}; {f'did you mean {possible[0]} {shown}?' if possible else 'leave it out'}"
