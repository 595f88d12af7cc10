"""The layout of GPT-2 on Hugging Face: a folder that transformers and mlx_lm read, too.

    config.json                   the shape
    model.safetensors             the weights; or several files, and model.safetensors.index.json with what is where
    tokenizer.json                the tokens; or vocab.json and merges.txt
    tokenizer_config.json         what transformers asks beyond that
    README.md                     the model card

The names of the weights are ours, but for a prefix `transformer.` that they may have. GPT-2's linear layers are stored
as (in, out), ours as (out, in).
"""

import mlx.core as mx

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER_CONFIG, CARD = "tokenizer_config.json", "README.md"

PREFIX = "transformer."
STORED_TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
MASKS = (".attn.bias", ".attn.masked_bias")  # constants that older files carry
HEAD = "lm_head.weight"
DTYPES = (mx.float32, mx.float16, mx.bfloat16)

# What transformers takes for granted where config.json is silent: GPT-2's smallest model.
SHAPE = {
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": None,
}
REQUIRED = {  # anything else here is another model
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
