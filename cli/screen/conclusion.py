"""What the end of a training says: its losses and times, a warning where they are bad, a sample, and the next command."""

import math
from collections.abc import Sequence

import mlx_nanogpt as gpt
from mlx_nanogpt import Dataset, Evaluation, Run
from mlx_nanogpt.measure.benchmark import nanolux_differences, nanolux_metrics

from .consoles import console
from .describe import run_option
from .tables import loss_notes, nanolux_table

SAMPLE_TOKENS = 200  # as many as NanoLux prints
UNTRAINED = 1.0  # nats above a uniform guess: random weights lose less than that, a training gone wrong loses more
MAY_DIFFER = {"eval_iters"}  # from NanoLux's benchmark, in a run that is compared with it


def conclude(run: Run, dataset: Dataset) -> None:
    """Print what `run`, whose training has ended, came to."""
    history = run.history()
    console.print()
    if is_comparable(run):
        _print_nanolux_table(run, history)
    else:
        _print_totals(history)
    _print_floor(run, dataset, history[-1])
    if warning := _warning(run, history[-1].valid_loss):
        console.print(warning, style="yellow")
    best = _print_best(run, history)
    _print_sample(run)
    console.print(f"\nNext: mlx-gpt generate --tokens 500{' --best' if best else ''}{run_option(run)}", soft_wrap=True)


def is_comparable(run: Run) -> bool:
    """Whether NanoLux's table may hold `run`: its model and its whole training, on characters."""
    same = nanolux_differences(run.gpt_config, run.train_config).keys() <= MAY_DIFFER
    return same and isinstance(run.tokenizer, gpt.CharTokenizer)


def _print_nanolux_table(run: Run, history: Sequence[Evaluation]) -> None:
    console.print(nanolux_table({"This run": nanolux_metrics(history)}, run.corpus.name))
    for note in loss_notes(run.corpus.name):
        console.print(note)
    differences = nanolux_differences(run.gpt_config, run.train_config)
    if differences:
        listed = ", ".join(f"{name} {here} (there {there})" for name, (here, there) in differences.items())
        console.print(f"This run departs from the published settings: {listed}.")


def _print_totals(history: Sequence[Evaluation]) -> None:
    console.print(
        f"{sum(each.train_seconds for each in history):.1f} s of training, "
        f"{sum(each.eval_seconds for each in history):.1f} s of evaluation. "
        f"Final loss {history[-1].train_loss:.4f} on the training split, "
        f"{history[-1].valid_loss:.4f} on the validation split."
    )


def _print_floor(run: Run, dataset: Dataset, last: Evaluation) -> None:
    if dataset.floor is None:
        return
    console.print(
        f"Nothing can do better on {run.corpus.name}'s validation split than {dataset.floor:.4f} nats per character, the "
        f"entropy of its grammar; this model is {last.valid_loss - dataset.floor:.4f} above."
    )


def _warning(run: Run, loss: float) -> str | None:
    """A sentence if `loss`, the last one on the validation split, is above that of a uniform guess."""
    guess = math.log(run.gpt_config.vocab_size)
    if loss <= guess:
        return None
    above = f"The validation loss, {loss:.3g}, is above that of a uniform guess, {guess:.3g}"
    lower = f"a lower --learning-rate than {run.train_config.learning_rate:g}"
    if loss - guess < UNTRAINED:
        return (
            f"{above}: the model has learned nothing; try more --num-iter than {run.train_config.num_iter}, or {lower}."
        )
    return f"{above}: the training went wrong; try {lower}."


def _print_best(run: Run, history: Sequence[Evaluation]) -> bool:
    """Tell of the weights with the lowest validation loss, unless they are the last. Return whether it did."""
    best = min(history, key=lambda each: each.valid_loss)
    if best is history[-1]:
        return False
    console.print(
        f"The lowest validation loss was {best.valid_loss:.4f} at iteration {best.iteration}; its weights are kept, for --best."
    )
    return True


def _print_sample(run: Run) -> None:
    model = run.load_model()
    ids = gpt.generate(model, [run.tokenizer.start_token], SAMPLE_TOKENS, run.train_config.seed)
    console.print(f"\nA sample of {SAMPLE_TOKENS} tokens", style="bold")
    console.print("".join(run.tokenizer.stream(ids)), soft_wrap=True)  # as the model wrote it
