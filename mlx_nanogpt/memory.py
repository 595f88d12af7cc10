"""How much memory a training takes, how much the machine has, and the errors of MLX when it has no more."""

import os

from .config import GPTConfig, TrainConfig
from .errors import UserError
from .model import GPT

FAILURES = (
    "Insufficient Memory",  # Metal: kIOGPUCommandBufferCallbackErrorOutOfMemory
    "out of memory",  # CUDA
    "alloc",  # malloc of MLX's backends, and std::bad_alloc
)


def ram() -> int:
    """Bytes of memory that the machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def out_of_memory(error: RuntimeError | MemoryError) -> UserError | None:
    """An error of MLX about memory, with the remedy; None for other errors."""
    if not isinstance(error, MemoryError) and not any(each.lower() in str(error).lower() for each in FAILURES):
        return None
    return UserError(
        f"there is not enough memory ({error})",
        "lower `batch_size` (a larger `gradient_accumulation_steps` makes up for it), `block_size`, `n_layer` or `n_embd`",
    )


# What a step holds of each token at its peak, in numbers. These were measured: see `estimated_memory`.
KEPT_PER_CHANNEL = (
    18  # of a layer, for the gradient: inputs of products and norms, queries, keys, values, the wide layer
)
UNDER_WAY = 1.4  # layers, in what the backward pass has under way
LOGIT_ARRAYS = 3.5  # logits, probabilities, their gradient
FLOAT, BFLOAT = 4, 2  # bytes
BFLOAT_KEPT = 2.5  # bytes of a number, on average: some are kept as float32


def estimated_memory(gpt: GPTConfig, train: TrainConfig, fused_attention: bool) -> int:
    """Bytes that a training takes at its peak. A fused attention keeps no scores.

    Weights and Adam's two moments are there all the time. To them come either gradients and what each token leaves for the
    backward pass, or all three once more while Adam updates them. On Linux the measured peak of a step is 0.85 to 1.2 times
    this for the presets and for other sizes around them; see benchmarks/README.md. On a Mac nobody has measured it.
    """
    parameters = FLOAT * GPT(gpt).num_parameters()
    scores = 0 if fused_attention else gpt.n_head * gpt.block_size
    per_token = (gpt.n_layer + UNDER_WAY) * (KEPT_PER_CHANNEL * gpt.n_embd + scores) + LOGIT_ARRAYS * gpt.vocab_size
    number = BFLOAT_KEPT if train.dtype == "bfloat16" else FLOAT
    kept = number * train.batch_size * gpt.block_size * per_token
    starts = 2 * FLOAT * train.eval_iters * train.batch_size  # where the windows of an evaluation begin
    return round(3 * parameters + max(parameters + kept, 3 * parameters) + starts)


def largest_array(gpt: GPTConfig, train: TrainConfig, fused_attention: bool) -> int:
    """Bytes of the largest array of a step: scores of a layer, logits, or an embedding. The backward pass of a fused attention
    on a GPU takes the scores in tiles of 1,024 tokens, three arrays at once."""
    number = BFLOAT if train.dtype == "bfloat16" else FLOAT
    tile = min(gpt.block_size, 1024) if fused_attention else gpt.block_size
    scores = (3 if fused_attention else 1) * train.batch_size * gpt.n_head * tile**2
    logits = train.batch_size * gpt.block_size * gpt.vocab_size
    return number * max(scores, logits, gpt.vocab_size * gpt.n_embd)
