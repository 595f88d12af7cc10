"""The training loop in the open, with the parts of the library. It learns exactly what `gpt.train` learns with the same settings.

python mlx_nanogpt/examples/own_loop.py
"""

import mlx_nanogpt as gpt
import mlx.core as mx
from mlx_nanogpt.text.batches import training_batch

data = gpt.tokenize(gpt.load_corpus("pastiche"))
gpt_config = gpt.GPTConfig(data.tokenizer.vocab_size, block_size=32, n_layer=2, n_embd=32, head_size=8)
train_config = gpt.TrainConfig(num_iter=100, batch_size=16, learning_rate=0.005)

mx.random.seed(train_config.seed)
model = gpt.GPT(gpt_config)
optimizer = gpt.make_optimizer(train_config)
optimizer.init(model.trainable_parameters())  # before the first step, which would be traced twice
step = gpt.make_step(model, optimizer, train_config)

for iteration in range(train_config.num_iter):
    idx, targets = training_batch(
        data.train_tokens, train_config.seed, iteration, train_config.batch_size, gpt_config.block_size
    )  # both (B, T)
    loss, _ = step(mx.array(idx), mx.array(targets))  # updates the model
    mx.eval(loss, model.state, optimizer.state, mx.random.state)  # until here MLX has computed nothing
    if (iteration + 1) % 50 == 0:
        valid_loss = gpt.estimate_loss(model, data.valid_tokens, 100)
        print(f"{iteration + 1:5} steps: training loss {loss.item():.2f}, validation loss {valid_loss:.2f}")

ids = gpt.generate(model, data.tokenizer.encode("My "), num_tokens=100, seed=1)
print("My " + data.tokenizer.decode(ids))
