"""The summary printed after training: losses and times, a warning where they are bad, a sample, and the next command."""

import itertools
import math
import os
import shlex
from importlib.util import find_spec

import mlx_nanogpt as gpt
from mlx_nanogpt import Dataset, Run
from mlx_nanogpt.optimizer import end_of_learning
from mlx_nanogpt.records import since_best
from mlx_nanogpt.runs.run import RUNS
from mlx_nanogpt.text.identity import source_name
from mlx_nanogpt.text.tokenizer import decode_documents
from rich.text import Text

from .consoles import ESCAPES, console

NOTHING_LEARNED = 0.95  # of the loss of a uniform guess, on the training split
FALLING = 0.02  # nats that the validation loss fell with the last evaluation: there is more to gain
BY_HEART = 0.1  # nats that the validation loss rises while the training loss falls
SAMPLE_TOKENS = 200  # as many as NanoLux prints


def conclude(run: Run, dataset: Dataset) -> None:
    """Print the results of `run`, which is trained."""
    history = run.history()
    last, best = history[-1], min(history, key=lambda evaluation: evaluation.valid_loss)
    console.print()
    console.print(
        f"{sum(evaluation.train_seconds for evaluation in history):.1f} s of training, "
        f"{sum(evaluation.eval_seconds for evaluation in history):.1f} s of evaluation. Final loss {last.train_loss:.4f} on the "
        f"training split, {last.valid_loss:.4f} on the validation split."
    )
    if dataset.floor is not None:
        console.print(
            f"No model can get below {dataset.floor:.4f} nats per character on {run.corpus.name}'s validation split, the entropy "
            f"of its grammar; this model is {best.valid_loss - dataset.floor:.4f} above."
        )
    if advice := _advise(history, math.log(run.gpt_config.vocab_size), run):
        console.print(advice, style="yellow")
    if expected := run.train_config.expected_bits:
        console.print(_compare(expected, best.valid_loss, dataset))
    if best is not last:
        console.print(
            f"The lowest validation loss was {best.valid_loss:.4f} at iteration {best.iteration:,}: the sample and mlx-gpt generate use "
            "these weights, and not the last."
        )
    _print_sample(run)
    named = "" if run.path.parent == RUNS else f" {shlex.quote(str(run.path))}"  # without one, the newest in runs/
    samples = " --num-samples 20" if run.corpus.documents == "lines" else ""
    ways = {
        f"mlx-gpt generate{named}{samples}": "let it write",
        f"mlx-gpt play{named}": "begin texts that it continues",
        f"mlx-gpt page{named} --open": "play with it in the browser, and look inside",
    }
    if find_spec("plotly"):
        ways[f"mlx-gpt report{named}"] = "its curves, as a page"
    console.print("\nNext:")
    width = max(map(len, ways))
    for command, purpose in ways.items():
        console.print(Text.assemble(f"  {command.translate(ESCAPES):<{width}}  ", (purpose, "dim")), soft_wrap=True)


def _advise(history: list[gpt.Evaluation], guess: float, run: Run) -> str | None:
    """A sentence on losses that are bad, with the way; `guess` is the loss of a uniform guess."""
    last, best = history[-1], min(history, key=lambda evaluation: evaluation.valid_loss)
    if last.valid_loss > guess and last.train_loss > NOTHING_LEARNED * guess:
        return (
            f"The losses, {last.train_loss:.3g} and {last.valid_loss:.3g}, are no better than that of a uniform guess, {guess:.3g}: the model "
            f"learned nothing. Try a lower --learning-rate than {run.train_config.learning_rate:g}, or more --num-iter than "
            f"{run.train_config.num_iter}."
        )
    if last.valid_loss - best.valid_loss > BY_HEART and last.train_loss < best.train_loss:
        return (
            f"Since iteration {best.iteration:,} the model has learned its text by heart: its loss on the validation split rose from "
            f"{best.valid_loss:.3g} to {last.valid_loss:.3g}. More text, --dropout or a smaller model would help, and --patience "
            f"{max(since_best(history) // 2, 1)} would have stopped in time."
        )
    if last.valid_loss > guess:
        return (
            f"The loss on the training split, {last.train_loss:.3g}, is good, and that on the validation split, {last.valid_loss:.3g}, is "
            f"above that of a uniform guess, {guess:.3g}: {_validation_text(run)} differs from the text to train on. Mix the text, or leave out "
            "what is different."
        )
    is_falling = len(history) > 2 and history[-2].valid_loss - last.valid_loss > FALLING
    if is_falling and best is last and last.iteration == run.train_config.num_iter < end_of_learning(run.train_config):
        more = f"mlx-gpt train --resume {shlex.quote(str(run.path))} --num-iter {2 * last.iteration}"
        return f"The loss still falls; more steps would lower it: {more}"
    return None


def _compare(expected: float, loss: float, dataset: Dataset) -> str:
    """How far the `loss`, in nats per token, is from `expected` bits per character."""
    bits = dataset.bits_per_character(loss)
    ratio = bits / expected - 1
    return (
        f"mlx-gpt plan expected {expected:.3f} bits per character on the validation split. It is {bits:.3f}, {abs(ratio):.1%} "
        f"{'more' if ratio > 0 else 'less'}."
    )


def _validation_text(run: Run) -> str:
    """What validates: a text of its own, documents, or the end of the text, with its files if the text is several."""
    sources = run.corpus.sources
    if run.corpus.valid:
        return "the validation text"
    if run.corpus.documents != "none":
        return "what validates"
    if len(sources) == 1 or not all(map(os.path.isfile, sources)):
        return "the end of the text, which validates,"
    sizes = [os.path.getsize(source) for source in sources]
    train, ends = run.train_config.train_fraction * sum(sizes), itertools.accumulate(sizes)
    files = ", ".join(source_name(source) for source, end in zip(sources, ends) if end > train)
    return f"the end of the text ({files}), which validates,"


def _print_sample(run: Run) -> None:
    ids = gpt.generate(run.load_model(), [run.tokenizer.start_token], SAMPLE_TOKENS, run.train_config.seed)
    console.print(f"\nA sample of {SAMPLE_TOKENS} tokens", style="bold")
    console.print(decode_documents(run.tokenizer, list(ids)), soft_wrap=True)  # as the model wrote it
