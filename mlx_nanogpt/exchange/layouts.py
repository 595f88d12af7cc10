"""Layouts of model folders that transformers and mlx_lm read, too: GPT-2's for a model of 2019, Qwen3's for one of today.

config.json                   the shape
model.safetensors             the weights; or several files and their model.safetensors.index.json
tokenizer.json                the tokens; or vocab.json and merges.txt
tokenizer_config.json         more for transformers
generation_config.json        the token that begins a text, and the longest text
README.md                     the model card
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from ..config import GPTConfig
from ..model import ROPE_BASE

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER_CONFIG, GENERATION_CONFIG, CARD = "tokenizer_config.json", "generation_config.json", "README.md"
DTYPES = (mx.float32, mx.float16, mx.bfloat16)
PREFIXES = ("transformer.", "model.")  # that transformers and mlx_lm may put before a name
NORM_EPS = 1e-5  # of MLX's norms


class OtherModel(ValueError):
    """A config.json describes a model that cannot be rebuilt here; the message is the reason."""


@dataclass(frozen=True)
class Layout:
    """The config.json of another program, and its names of our weights.

    `settings` are those of every model in this layout. `stored_names` returns the names of the parts of one of our weights,
    which are stacked in ours. `stored_as` returns the configuration of the stored model. `beyond_context` describes a text
    longer than the context. Weights whose names end with one of `transposed` are stored as (in, out), ours are (out, in);
    those that end with one of `ignored` are constants.
    """

    name: str
    model_type: str
    architecture: str
    settings: dict[str, Any]
    stored_config: Callable[[GPTConfig], dict]
    read_config: Callable[[Mapping], GPTConfig]
    stored_names: Callable[[str], list[str]]
    beyond_context: str
    stored_as: Callable[[GPTConfig], GPTConfig] = lambda config: config
    transposed: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def obstacles(self, config: GPTConfig) -> dict[str, str]:
        """The settings of `config` that the layout cannot hold, and for each the parameter that it needs."""
        found = {}
        for name, needed in self.settings.items():
            value = getattr(config, name)
            if value != needed:
                switch = name if needed is True else f"no_{name}"
                found[f"{name} {value}"] = f"`{switch}`" if isinstance(needed, bool) else f"`{name}` {needed}"
        return found


def _check_values(given: Mapping, required: Mapping) -> None:
    """Raise `OtherModel` with all values that are not those `required`."""
    other = {name: value for name, value in required.items() if given[name] != value}
    if other:
        grouped = "it has grouped queries: " if "num_key_value_heads" in other else ""
        listed = (f"its {name} is {given[name]!r} and not {value!r}" for name, value in other.items())
        raise OtherModel(grouped + ", ".join(listed))


def _heads(width: int, heads: object, name: str, width_name: str) -> int:
    """The number of heads, which divides the width."""
    if type(heads) is not int or heads < 1 or width % heads:
        raise OtherModel(f"its {name} {heads!r} does not divide its {width_name} {width!r}")
    return heads


# ---- GPT-2 (Radford et al. 2019). We use its names of weights.

# transformers' defaults where config.json has no value: GPT-2's smallest model.
GPT2_SHAPE = {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": None}
GPT2_REQUIRED = {  # anything else here is another model
    "activation_function": "gelu_new",
    "layer_norm_epsilon": NORM_EPS,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}


def _gpt2_config(config: GPTConfig) -> dict:
    return {
        **GPT2_SHAPE,
        **GPT2_REQUIRED,
        "n_positions": config.block_size,
        "n_ctx": config.block_size,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "embd_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "attn_pdrop": 0.0,
    }


def _read_gpt2_config(given: Mapping) -> GPTConfig:
    config = {**GPT2_SHAPE, **GPT2_REQUIRED, **given}
    _check_values(config, GPT2_REQUIRED)
    width = config["n_embd"]
    if config["n_inner"] not in (None, 4 * width):
        raise OtherModel(f"its n_inner is {config['n_inner']!r} and not 4 times n_embd")
    return GPTConfig(
        vocab_size=config["vocab_size"],
        block_size=config["n_positions"],
        n_layer=config["n_layer"],
        n_embd=width,
        head_size=width // _heads(width, config["n_head"], "n_head", "n_embd"),
        bias="all",
        **GPT2.settings,
    )


GPT2 = Layout(
    name="GPT-2",
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    settings={"tied": True, "activation": "gelu", "norm": "layernorm", "position": "learned", "qk_norm": False},
    stored_config=_gpt2_config,
    read_config=_read_gpt2_config,
    stored_names=lambda name: [name],
    beyond_context="Beyond {} tokens, transformers raises an error, and mlx_lm writes nonsense.",
    stored_as=lambda config: replace(config, bias="all"),  # missing biases are zeros
    transposed=("c_attn.weight", "c_proj.weight", "c_fc.weight"),
    ignored=(".attn.bias", ".attn.masked_bias"),  # masks in older files
)


# ---- Qwen3 (Qwen team 2025)

QWEN3_REQUIRED = {
    "hidden_act": "silu",
    "rms_norm_eps": NORM_EPS,
    "attention_bias": False,
    "use_sliding_window": False,
    "rope_scaling": None,
}
QWEN3_NAMES = {
    "wte": "model.embed_tokens",
    "ln_f": "model.norm",
    "lm_head": "lm_head",
    "ln_1": "input_layernorm",
    "attn.c_attn": "self_attn.q_proj self_attn.k_proj self_attn.v_proj",
    "attn.c_proj": "self_attn.o_proj",
    "attn.q_norm": "self_attn.q_norm",
    "attn.k_norm": "self_attn.k_norm",
    "ln_2": "post_attention_layernorm",
    "mlp.c_gate": "mlp.gate_proj",
    "mlp.c_fc": "mlp.up_proj",
    "mlp.c_proj": "mlp.down_proj",
}


def _qwen3_config(config: GPTConfig) -> dict:
    return QWEN3_REQUIRED | {
        "hidden_size": config.n_embd,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_head,
        "head_dim": config.head_size,
        "max_position_embeddings": config.block_size,
        "rope_theta": float(ROPE_BASE),
        "tie_word_embeddings": config.tied,
        "attention_dropout": 0.0,
    }


def _read_qwen3_config(given: Mapping) -> GPTConfig:
    rope = {"rope_type": "default", **(given.get("rope_parameters") or given)}  # newer files keep it in a table
    width = given["hidden_size"]
    heads = _heads(width, given["num_attention_heads"], "num_attention_heads", "hidden_size")
    config = GPTConfig(
        vocab_size=given["vocab_size"],
        block_size=given["max_position_embeddings"],
        n_layer=given["num_hidden_layers"],
        n_embd=width,
        head_size=width // heads,
        tied=given["tie_word_embeddings"],
        **QWEN3.settings,
    )
    shape = {"num_key_value_heads": heads, "head_dim": config.head_size, "intermediate_size": config.mlp_width}
    found = {**QWEN3_REQUIRED, "rms_norm_eps": 1e-6, **given, **rope}  # the default is 1e-6
    _check_values(found, shape | QWEN3_REQUIRED | {"rope_theta": ROPE_BASE, "rope_type": "default"})
    return config


def _qwen3_names(name: str) -> list[str]:
    """The names of a weight: for `h.0.attn.c_attn.weight` three, the first `model.layers.0.self_attn.q_proj.weight`."""
    part, _, of_block = name.removesuffix(".weight").partition(".")
    if part != "h":
        return [f"{QWEN3_NAMES[part]}.weight"]
    number, _, layer = of_block.partition(".")
    return [f"model.layers.{number}.{theirs}.weight" for theirs in QWEN3_NAMES[layer].split()]


QWEN3 = Layout(
    name="Qwen3",
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    settings={"norm": "rmsnorm", "position": "rope", "qk_norm": True, "activation": "swiglu", "bias": "none"},
    stored_config=_qwen3_config,
    read_config=_read_qwen3_config,
    stored_names=_qwen3_names,
    beyond_context="Beyond {} tokens its text gets worse: it was not trained on more.",
)

LAYOUTS = (GPT2, QWEN3)


def best_layout(config: GPTConfig) -> tuple[Layout, dict[str, str]]:
    """The layout with the fewest obstacles for a model, and these obstacles."""
    layout = min(LAYOUTS, key=lambda layout: len(layout.obstacles(config)))
    return layout, layout.obstacles(config)
