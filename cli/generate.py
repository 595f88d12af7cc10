"""`mlx-gpt generate`: a run writes. Standard output carries the text alone; everything else goes to standard error."""

import sys
import time
from typing import Annotated

import typer

import mlx_nanogpt as gpt
from mlx_nanogpt import UserError

from .screen import (
    BestOption,
    DeviceOption,
    InitFromOption,
    RunOption,
    chosen_run,
    describe_weights,
    errors,
    use_device,
)


def generate(
    tokens: Annotated[int, typer.Option(help="Tokens to write, after the prompt.", min=1)] = 500,
    run: RunOption = None,
    best: BestOption = False,
    init_from: InitFromOption = None,
    prompt: Annotated[
        str, typer.Option(help="The text to go on from; its characters must be among those trained on.")
    ] = "",
    temperature: Annotated[float, typer.Option(help="Higher is bolder; 0 always takes the likeliest token.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k likeliest tokens.", show_default="all")] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Draw from the likeliest tokens that make up this probability.", show_default="all"),
    ] = None,
    num_samples: Annotated[int, typer.Option(help="Texts to write, with the seeds that follow --seed.", min=1)] = 1,
    seed: Annotated[
        int, typer.Option(help="Of the random draws: the same seed writes the same text.", min=0)
    ] = gpt.TrainConfig.seed,
    device: DeviceOption = "auto",
) -> None:
    """Write text with a trained run, printing it as it is drawn.

    Beyond the model's context every token is drawn from the last --block-size tokens, as in the lecture.
    """
    use_device(device)
    sample = gpt.make_sampler(temperature, top_k, top_p)
    if init_from and (run or best):
        raise UserError(f"--{'run' if run else 'best'} and --init-from exclude each other; leave out one of them")
    if init_from:
        model, tokenizer = gpt.load_gpt2(init_from)
        origin = f"{init_from}: {model.num_parameters():,} parameters, context {model.config.block_size:,}"
    else:
        source = chosen_run(run)
        model, tokenizer = source.load_model(best), source.tokenizer
        origin = f"{source.path}: {source.corpus.name}, {describe_weights(source, best)}"
    ids = tokenizer.encode(prompt).tolist() or [tokenizer.start_token]
    errors.print(origin, style="dim")
    for i in range(num_samples):
        if num_samples > 1:
            errors.print(f"sample {i + 1} of {num_samples}, seed {seed + i}", style="dim")
        sys.stdout.write(prompt)
        started = time.perf_counter()
        for text in tokenizer.stream(gpt.generate(model, ids, tokens, seed + i, sample)):
            sys.stdout.write(text)
            sys.stdout.flush()
        sys.stdout.write("\n")
        errors.print(f"{tokens / (time.perf_counter() - started):,.0f} tokens/s", style="dim")
