"""An estimate of the memory that training takes, and whether this machine has it."""

from collections.abc import Sequence
from functools import lru_cache

from ..config import GPTConfig, TrainConfig
from ..errors import UserError
from ..model import GPT
from . import machine

FLOAT, BFLOAT = 4, 2  # bytes

# Numbers that a step holds for a token at its peak, measured: see `estimated_memory`.
KEPT_PER_CHANNEL = 18  # of a layer: inputs of products and norms, queries, keys, values, the wide layer
UNDER_WAY = 1.4  # layers, in what the backward pass has under way
ANSWERING = 0.85  # layers, in what a teacher holds, which keeps nothing
LOGIT_ARRAYS = 3.5  # logits, probabilities, their gradient
TARGET_ARRAYS = 2  # what teachers expect, and its part in the loss
BFLOAT_KEPT = 3.6  # bytes of a number with bfloat16, on average: some are kept as float32


def memory_problem(gpt: GPTConfig, config: TrainConfig, teachers: Sequence[GPTConfig] = ()) -> UserError | None:
    """The error if training takes more memory than the machine has, or an array that is too large for it."""
    this_machine = machine()
    fused = this_machine.fuses_attention(gpt.head_size)
    needed, there = estimated_memory(gpt, config, fused, teachers), memory_limit()
    largest, limit = largest_array(gpt, config, fused), this_machine.largest_array()
    if needed > there:
        problem = f"about {needed / 1e9:,.1f} GB of memory, and this machine has {there / 1e9:,.1f} GB for it"
    elif largest > limit:
        problem = f"an array of {largest / 1e9:,.1f} GB, and this machine allows {limit / 1e9:,.1f} GB"
    else:
        return None
    return UserError(f"training this model takes {problem}", f"lower {_sizes(gpt, config)}{_or_teachers(teachers)}")


def memory_warning(gpt: GPTConfig, config: TrainConfig, teachers: Sequence[GPTConfig] = ()) -> str | None:
    """A sentence if training may take more memory than is safe on this machine, and is not refused."""
    this_machine = machine()
    needed = estimated_memory(gpt, config, this_machine.fuses_attention(gpt.head_size), teachers)
    safe = this_machine.safe_memory
    if needed <= safe * this_machine.memory():
        return None
    return (
        f"training this model takes about {needed / 1e9:,.1f} GB of memory, more than the {safe * this_machine.memory() / 1e9:,.1f} GB that are "
        f"safe on this GPU; if it fails, or the machine becomes slow, lower {_sizes(gpt, config)}{_or_teachers(teachers)}"
    )


def memory_limit() -> int:
    """Bytes that training may take on this machine."""
    this_machine = machine()
    return round(this_machine.memory() * this_machine.most_memory)


def _sizes(gpt: GPTConfig, config: TrainConfig) -> str:
    """The settings that memory depends on."""
    return (
        f"batch_size ({config.batch_size}), block_size ({gpt.block_size}), n_layer ({gpt.n_layer}), "
        f"n_embd ({gpt.n_embd}) or eval_iters ({config.eval_iters})"
    )


def _or_teachers(teachers: Sequence[GPTConfig]) -> str:
    return ", or name fewer or smaller teachers" if teachers else ""


def estimated_memory(
    gpt: GPTConfig, train: TrainConfig, fused_attention: bool, teachers: Sequence[GPTConfig] = ()
) -> int:
    """Bytes that training takes at its peak.

    Weights and Adam's two moments are there all the time. The peak is the larger of two: gradients and activations in the
    backward pass, or new weights and moments while Adam writes them. A fused attention keeps no scores after the forward
    pass. Its backward pass makes three arrays of them, for one layer at a time (MLX 0.32.4). On Linux the measured peak is
    0.85 to 1.2 times this estimate, for the presets and sizes near them. Nobody has measured it on a Mac. The weights of
    `teachers` are there all the time, too; a teacher answers before the step, so its arrays count only if they exceed the step's.
    """
    parameters = FLOAT * _num_parameters(gpt)
    number = BFLOAT_KEPT if train.dtype == "bfloat16" else FLOAT
    tokens = train.batch_size * gpt.block_size
    kept = number * tokens * _numbers_per_token(gpt, gpt.n_layer + UNDER_WAY, fused_attention)
    answering = [FLOAT * tokens * _numbers_per_token(teacher, ANSWERING, fused_attention) for teacher in teachers]
    if teachers:
        kept = max(kept + TARGET_ARRAYS * FLOAT * tokens * gpt.vocab_size, *answering)
    if fused_attention:
        kept += 3 * number * _scores(gpt, train, fused_attention)
    starts = 8 * train.eval_iters * train.batch_size  # int64: where the windows of an evaluation begin
    teachers_weights = FLOAT * sum(map(_num_parameters, teachers))
    return round(teachers_weights + 3 * parameters + max(parameters + kept, 3 * parameters) + starts)


def _numbers_per_token(gpt: GPTConfig, layers: float, fused_attention: bool) -> float:
    """The numbers that so many layers and the logits hold for a token."""
    scores = 0 if fused_attention else gpt.n_head * gpt.block_size
    return layers * (KEPT_PER_CHANNEL * gpt.n_embd + scores) + LOGIT_ARRAYS * gpt.vocab_size


def largest_array(gpt: GPTConfig, train: TrainConfig, fused_attention: bool) -> int:
    """Bytes of the largest array of a step: the scores of a layer, the logits, or an embedding."""
    number = BFLOAT if train.dtype == "bfloat16" else FLOAT
    logits = train.batch_size * gpt.block_size * gpt.vocab_size
    return number * max(_scores(gpt, train, fused_attention), logits, gpt.vocab_size * gpt.n_embd)


@lru_cache  # of a shape with many batches, and of its teachers
def _num_parameters(gpt: GPTConfig) -> int:
    return GPT(gpt).num_parameters()


def _scores(gpt: GPTConfig, train: TrainConfig, fused_attention: bool) -> int:
    """The numbers in the scores of a layer. A fused attention takes them in tiles of 1,024 tokens."""
    tile = min(gpt.block_size, 1024) if fused_attention else gpt.block_size
    return train.batch_size * gpt.n_head * tile**2
