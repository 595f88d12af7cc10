"""A block of one's own, which is trained, stopped, resumed and reported like the library's.

python mlx_nanogpt/examples/own_block.py
"""

import mlx_nanogpt as gpt
import mlx.core as mx
import mlx.nn as nn


class MeanBlock(nn.Module):
    """Each token adds the mean of the tokens so far. `cache` and `mask` belong to generation, which reads the whole text for every
    token if a block ignores them."""

    def __init__(self, config):
        super().__init__()
        self.norm = nn.LayerNorm(config.n_embd)
        self.linear = nn.Linear(config.n_embd, config.n_embd)

    def __call__(self, x, cache=None, mask=None):
        means = mx.cumsum(self.norm(x), axis=1) / mx.arange(1, x.shape[1] + 1)[:, None]  # (B, T, C)
        return x + self.linear(means)


def make_model(config):
    mx.random.seed(1)
    model = gpt.GPT(config)
    model.h = [MeanBlock(config) for _ in model.h]
    model.init_weights()  # GPT-2's, of the new blocks, too
    return model


data = gpt.tokenize(gpt.load_corpus("pastiche"))
train_config = gpt.TrainConfig(num_iter=200, batch_size=16, learning_rate=0.01, eval_interval=100, eval_iters=20)
run = gpt.create_run(gpt.GPTConfig(block_size=32, n_layer=2), train_config, data)
for record in gpt.train(run, data, model=make_model(run.gpt_config)):
    if isinstance(record, gpt.Evaluation):
        print(f"step {record.iteration}: validation loss {record.valid_loss:.2f}")
        break  # a checkpoint is written first

run = gpt.open_run(run.path)  # as in another session, or with run.extended(num_iter=400) for more steps
for record in gpt.train(run, data, model=make_model(run.gpt_config)):
    if isinstance(record, gpt.Evaluation):
        print(f"step {record.iteration}: validation loss {record.valid_loss:.2f}")

model = run.load_model(into=make_model(run.gpt_config))
print("Good " + data.tokenizer.decode(gpt.generate(model, data.tokenizer.encode("Good "), num_tokens=100, seed=1)))
print(f"{run}; its curves: mlx-gpt report {run.path}")
