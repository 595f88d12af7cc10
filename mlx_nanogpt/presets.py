"""Presets: the settings of known models, under short names."""

from typing import NamedTuple


class Preset(NamedTuple):
    """A word on its purpose, the fields of both configurations that it sets, and the validation loss that it reached on tiny
    Shakespeare, in nats per character, as benchmarks/recipes.md has it; None if that is unmeasured."""

    description: str
    settings: dict[str, object]
    loss: float | None = None


# nanoGPT's common settings, and those for the characters of tiny Shakespeare. `train_fraction` is that of its Shakespeare,
# also for GPT-2: OpenWebText, of which nanoGPT validates on 0.05%, is a thousand times longer.
_NANOGPT = {
    "bias": "none",
    "tied": True,
    "activation": "gelu",
    "weight_decay": 0.1,
    "grad_clip": 1.0,
    "train_fraction": 0.9,
}
_SHAKESPEARE_CHAR = _NANOGPT | {"warmup_iters": 100, "min_lr": 1e-4, "beta2": 0.99, "eval_interval": 250}

# The architecture of Llama and Qwen, trained with Muon.
_MODERN = {
    "norm": "rmsnorm",
    "position": "rope",
    "qk_norm": True,
    "activation": "swiglu",
    "bias": "none",
    "init": "zero",
    "optimizer": "muon",
    "learning_rate": 6e-3,
    "warmup_iters": 100,
    "lr_decay_iters": 5000,
    "weight_decay": 0.1,
    "grad_clip": 1.0,
}

# For a text that is read again and again, as tiny Shakespeare by these presets.
_MANY_PASSES = {"weight_decay": 0.5, "order": "passes"}

PRESETS = {
    "nanolux": Preset("the benchmark", {"eval_iters": 1000}, loss=1.71),
    "minute": Preset(
        "about a minute",
        _MODERN
        | {"num_iter": 700, "lr_decay_iters": 700, "warmup_iters": 40, "learning_rate": 8e-3, "muon_lr": 0.03}
        | {"eval_interval": 100, "eval_iters": 50},
        loss=1.69,
    ),
    "modern": Preset("modern NanoLux", _MODERN | _MANY_PASSES, loss=1.56),
    "laptop": Preset(
        "nanoGPT laptop",
        _SHAKESPEARE_CHAR
        | {"n_layer": 4, "n_embd": 128, "head_size": 32}
        | {"num_iter": 2000, "lr_decay_iters": 2000, "batch_size": 12, "eval_iters": 20},
        loss=1.90,
    ),
    "baby": Preset(
        "nanoGPT on GPU",
        _SHAKESPEARE_CHAR
        | {"n_embd": 384, "head_size": 64, "block_size": 256, "dropout": 0.2}
        | {"lr_decay_iters": 5000, "batch_size": 64},
    ),
    "baby-modern": Preset(
        "baby, modern",
        _MODERN
        | {"n_embd": 384, "head_size": 64, "block_size": 256, "dropout": 0.2, "batch_size": 64}
        | {"train_fraction": 0.9, "eval_interval": 250},
    ),
    # On paper, from rates as in measure/roofline.py: 24 ms a step on an M4 Pro. It reads tiny Shakespeare five hundred times.
    "hour": Preset(
        "hour on a Mac",
        _MODERN
        | {"n_embd": 128, "head_size": 32, "block_size": 128, "dropout": 0.2}
        | _MANY_PASSES
        | {"num_iter": 125_000, "lr_decay_iters": 125_000, "learning_rate": 3e-3, "muon_lr": 0.01}
        | {"train_fraction": 0.9, "eval_interval": 2500},
    ),
    "gpt2": Preset(
        "nanoGPT GPT-2",
        _NANOGPT
        | {"tokenizer": "gpt2", "vocab_size": 50257, "block_size": 1024, "n_layer": 12, "n_embd": 768, "head_size": 64}
        | {"num_iter": 600_000, "batch_size": 12, "gradient_accumulation_steps": 40, "dtype": "bfloat16"}
        | {"learning_rate": 6e-4, "warmup_iters": 2000, "lr_decay_iters": 600_000, "min_lr": 6e-5, "beta2": 0.95}
        | {"eval_interval": 1000},
    ),
}
