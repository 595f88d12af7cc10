"""The summary printed after training: losses and times, a warning where they are bad, a sample, and the next command."""

import math
import shlex

import mlx_nanogpt as gpt
from mlx_nanogpt import Dataset, Run
from mlx_nanogpt.runs.run import RUNS

from .consoles import console

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
            f"of its grammar; this model is {last.valid_loss - dataset.floor:.4f} above."
        )
    guess = math.log(run.gpt_config.vocab_size)
    if last.valid_loss > guess:
        console.print(
            f"The validation loss, {last.valid_loss:.3g}, is above that of a uniform guess, {guess:.3g}; try a lower "
            f"--learning-rate than {run.train_config.learning_rate:g}, or more --num-iter than {run.train_config.num_iter}.",
            style="yellow",
        )
    if best is not last:
        console.print(
            f"The lowest validation loss was {best.valid_loss:.4f} at iteration {best.iteration}; --best uses its weights."
        )
    _print_sample(run)
    option = "" if best is last else " --best"
    # the newest run in runs/ is the default
    named = "" if run.path.parent == RUNS else f" --run {shlex.quote(str(run.path))}"
    console.print(f"\nNext: mlx-gpt generate --tokens 500{option}{named}", soft_wrap=True)


def _print_sample(run: Run) -> None:
    ids = gpt.generate(run.load_model(), [run.tokenizer.start_token], SAMPLE_TOKENS, run.train_config.seed)
    console.print(f"\nA sample of {SAMPLE_TOKENS} tokens", style="bold")
    console.print("".join(run.tokenizer.stream(ids)), soft_wrap=True)  # as the model wrote it
