"""The product, through its public API."""

import mlx_nanogpt as gpt  # before mlx.core: it loads the BLAS
import mlx.core as mx
from mlx_nanogpt.config import Backend

from . import Batch, EvaluationSet, Peer, Settings


def make(settings: Settings, backend: Backend) -> Peer:
    config = gpt.GPTConfig(
        vocab_size=settings.vocab_size,
        block_size=settings.block_size,
        n_layer=settings.n_layer,
        n_embd=settings.n_embd,
        head_size=settings.head_size,
    )
    mx.random.seed(settings.seed)
    model = gpt.GPT(config)
    train_config = gpt.TrainConfig(learning_rate=settings.learning_rate, backend=backend)
    optimizer = gpt.make_optimizer(train_config)
    optimizer.init(model.trainable_parameters())
    step = gpt.make_step(model, optimizer, train_config)
    state = [model.state, optimizer.state, mx.random.state]
    mx.eval(state)

    def train(batches: list[Batch]) -> list[float]:
        losses = []
        for batch in batches:
            loss, _ = step(*map(mx.array, batch))
            mx.async_eval(loss, state)
            losses.append(loss)
        mx.eval(state)
        return [loss.item() for loss in losses]

    def evaluate(data: EvaluationSet) -> float:
        # of the windows of data.batches, in batches of our own
        return gpt.estimate_loss(model, data.tokens, data.num_windows, backend)

    def generate(num_tokens: int) -> list[int]:
        return list(gpt.generate(model, [settings.start_token], num_tokens, settings.seed))

    return Peer(mx.default_device().type.name, model.num_parameters(), train, evaluate, generate)
