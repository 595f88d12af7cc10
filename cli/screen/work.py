"""The work of a run, from which the progress bar computes the time left."""

from mlx_nanogpt import GPTConfig, TrainConfig
from mlx_nanogpt.config import tokens_per_step

FORWARD = 0.3  # the cost of a token in an evaluation, divided by its cost in a step; measured on a CPU


def count_work(
    gpt_config: GPTConfig, train_config: TrainConfig, iteration: int, evaluated: int, share: float = 0.0
) -> float:
    """Count the steps up to `iteration`, and an evaluation as the steps that take its time: those up to iteration `evaluated`, and a
    `share` of the next."""
    eval_tokens = 2 * train_config.eval_iters * train_config.batch_size * gpt_config.block_size
    eval_steps = FORWARD * eval_tokens / tokens_per_step(gpt_config, train_config)
    last, interval = train_config.num_iter, train_config.eval_interval
    evaluations = evaluated // interval + (evaluated >= last and last % interval > 0)  # the last step is evaluated
    return iteration + (evaluations + share) * eval_steps
