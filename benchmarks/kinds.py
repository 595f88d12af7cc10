"""Train on nineteen kinds of text, most of them made of documents, and tell what the models learned.

    python benchmarks/kinds.py                # all kinds, and the tables for kinds.md
    python benchmarks/kinds.py --only sums    # one

The texts are made by kinds_texts.py. All kinds have one recipe, the preset `minute` with fewer steps; the context is the longest
document, rounded up to a multiple of 32, and every step reads as many tokens. Each kind is one line of results/<machine>-kinds.jsonl,
the log. A kind that is there is not repeated, so the script may be stopped. With --only it may run twice at once, on different cores.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import mlx_nanogpt as gpt  # before mlx.core: it loads the BLAS
import typer
from mlx_nanogpt import UserError
from kinds_texts import KINDS, Kind
from mlx_nanogpt.evaluation import evaluate_split
from mlx_nanogpt.machine import chip
from mlx_nanogpt.text.baselines import count_characters
from mlx_nanogpt.text.characters import MARK
from mlx_nanogpt.text.tokenizer import encode_prompt
from peers.record import RESULTS, circumstances, slug
from rich.console import Console

RECIPE = {"num_iter": 400, "lr_decay_iters": 400, "eval_interval": 200, "eval_iters": 20}
STEP_TOKENS = 2048
CONTEXT = 128  # of a text that is no documents
SAMPLES = 200  # also the number of questions
console = Console(highlight=False)


def main(only: Annotated[list[str] | None, typer.Option(help="Train these kinds alone.")] = None) -> None:
    """Train on the kinds that are not in the log yet, and print the tables."""
    log = RESULTS / f"{slug(chip())}-kinds.jsonl"
    for name in only or KINDS:
        if name not in KINDS:
            raise UserError(f"there is no kind {name!r}", f"choose of: {', '.join(KINDS)}")
        if name in read(log):
            continue
        console.print(f"{name}: training", soft_wrap=True)
        line = {"name": name, **measure(KINDS[name]), **circumstances("benchmarks/kinds.py")}
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    print(tables(read(log)))


def read(log: Path) -> dict[str, dict]:
    """Return the results in `log`, by the name of the kind, in the order of `KINDS`."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    found = {line["name"]: line for line in map(json.loads, lines)}
    return {name: found[name] for name in KINDS if name in found}


def measure(kind: Kind) -> dict:
    """Train on a kind; return the losses, samples, and the shares of what is right."""
    with TemporaryDirectory() as folder:
        corpus = gpt.load_corpus(kind.write(Path(folder)), documents=kind.documents)
        data = gpt.tokenize(corpus)
        block_size = CONTEXT if data.count_documents() is None else -(-max(map(len, kind.texts())) // 32) * 32
        settings = RECIPE | {"block_size": block_size, "batch_size": STEP_TOKENS // block_size}
        run = gpt.create_run(*gpt.preset("minute", **settings), data, Path(folder) / "run")
        start = time.perf_counter()
        for _ in gpt.train(run, data):
            pass
        seconds = time.perf_counter() - start
        model = run.load_model()  # the best weights
        trained = run.position(best=True).iteration
    *_, valid = evaluate_split(model, data.valid_tokens)
    samples = list(write(model, data.tokenizer, block_size, SAMPLES if kind.check else 1))
    return {
        "recipe": {"preset": "minute", **settings},
        "documents": corpus.documents,
        "splits": data.count_documents(),
        "characters": len(corpus.text),
        "block_size": block_size,
        "parameters": model.num_parameters(),
        "seconds": seconds,
        "best_iteration": trained,
        "train_loss": gpt.evaluate(model, data.train_tokens),
        "valid_loss": valid.mean,
        "bits_per_character": valid.bits_per_character(count_characters(data.tokenizer, data.valid_tokens)),
        "right_answers": share_right(model, data, kind.before_answer),
        "valid_samples": kind.check and sum(map(kind.check, samples)) / SAMPLES,
        "new_samples": kind.check and sum(text not in corpus.text.split(MARK) for text in samples) / SAMPLES,
        "samples": samples[:5],
    }


def write(model: gpt.GPT, tokenizer: gpt.CharTokenizer, tokens: int, count: int) -> Iterator[str]:
    """Yield `count` texts of at most `tokens` tokens, at the temperature 1."""
    for seed in range(count):
        ids = gpt.generate(model, [tokenizer.start_token], tokens, seed, end=tokenizer.end_token)
        yield tokenizer.decode(ids)


def share_right(model: gpt.GPT, data: gpt.Dataset, before_answer: str) -> float | None:
    """The share of documents of the validation split that the model ends as they end, after the last `before_answer`, where it takes
    the likeliest token each time; None if there are no answers."""
    if not before_answer:
        return None
    documents = data.tokenizer.decode(data.valid_tokens).strip(MARK).split(MARK)[:SAMPLES]
    likeliest, right = gpt.make_sampler(temperature=0), 0
    for document in documents:
        question, sign, answer = document.rpartition(before_answer)
        ids = encode_prompt(data.tokenizer, question + sign)
        found = gpt.generate(model, ids, len(answer) + 1, sample=likeliest, end=data.tokenizer.end_token)
        right += data.tokenizer.decode(found) == answer
    return right / len(documents)


def tables(results: dict[str, dict]) -> str:
    """Two tables in Markdown: figures, and a sample of each kind."""
    rows = [
        "| Kind | `--documents` | Train / valid | Characters | Context | Train loss | Valid loss | Bits per character | Right answers "
        "| Samples that keep the rules | New samples |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    samples = ["| Kind | A sample |", "|---|---|"]
    for name, found in results.items():
        splits = " / ".join(f"{count:,}" for count in found["splits"] or ())
        losses = [f"{found[key]:.4f}" for key in ("train_loss", "valid_loss", "bits_per_character")]
        shares = [
            "" if found[key] is None else f"{found[key]:.1%}"
            for key in ("right_answers", "valid_samples", "new_samples")
        ]
        figures = [splits, f"{found['characters']:,}", f"{found['block_size']}", *losses, *shares]
        rows.append(f"| {name} | {found['documents']} | {' | '.join(figures)} |")
        sample = found["samples"][0].replace("\\", r"\\").replace("\n", r"\n").replace("\t", r"\t").replace("|", r"\|")
        samples.append(f"| {name} | `{sample}` |")
    return "\n".join([*rows, "", *samples])


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        sys.exit(f"Error: {error}")
