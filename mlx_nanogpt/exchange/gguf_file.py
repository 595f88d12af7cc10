"""A run as a GGUF file for llama.cpp, Ollama and LM Studio. The package `gguf`, an optional extra, writes it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import mlx.core as mx
import numpy as np

from ..errors import import_extra
from ..files import check_free, explaining_write, replacing
from ..runs.run import Run
from ..text.byte_pairs import END_OF_TEXT
from .export import WRITE_REMEDY, StoredModel, store_model
from .layouts import NORM_EPS, QWEN3, ROPE_BASE

# Our name of a part -> llama.cpp's name of its tensor; QKV has those of queries, keys and values.
NAMES = {
    "wte": "token_embd",
    "wpe": "position_embd",
    "ln_f": "output_norm",
    "lm_head": "output",
    "ln_1": "attn_norm",
    "attn.q_norm": "attn_q_norm",
    "attn.k_norm": "attn_k_norm",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_gate": "ffn_gate",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
QKV = {"gpt2": ["attn_qkv"], "qwen3": ["attn_q", "attn_k", "attn_v"]}
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama.cpp's types of tokens


def export_gguf(run: Run, out: Path | str, last: bool = False) -> None:
    """Write the model of `run`, with its best or its `last` weights, into the new file `out`, as float32. The file appears
    complete or not at all.

    Raises `UserError` if no layout can hold the model, if the run has no checkpoint, if `out` exists or cannot be written, or if
    the package `gguf` is not installed.
    """
    gguf, out = import_extra("gguf", "gguf"), Path(out)
    check_free(out)
    stored = store_model(run, last)
    with explaining_write(out, WRITE_REMEDY, by_mlx=True), TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.gguf"
        writer = gguf.GGUFWriter(whole, stored.layout.model_type)
        _add_shape(writer, stored, out.stem)
        _add_tokens(writer, stored)
        for name, array in _tensors(stored):
            writer.add_tensor(name, np.array(array))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole.open("rb") as written, replacing(out) as file:
            shutil.copyfileobj(written, file)


def _add_shape(writer, stored: StoredModel, name: str) -> None:
    config = stored.model.config
    writer.add_name(name)
    writer.add_context_length(config.block_size)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_head_count(config.n_head)
    writer.add_file_type(0)  # all float32
    if stored.layout is QWEN3:
        writer.add_head_count_kv(config.n_head)
        writer.add_key_length(config.head_size)
        writer.add_value_length(config.head_size)
        writer.add_rope_freq_base(float(ROPE_BASE))
        writer.add_layer_norm_rms_eps(NORM_EPS)
    else:
        writer.add_layer_norm_eps(NORM_EPS)


def _add_tokens(writer, stored: StoredModel) -> None:
    tokens, described = stored.tokens, json.loads(stored.tokens.json)
    model = described["model"]
    texts = {i: (text, NORMAL) for text, i in model["vocab"].items()}
    texts |= {token["id"]: (token["content"], USER_DEFINED) for token in described["added_tokens"]}
    texts[tokens.end] = END_OF_TEXT, CONTROL
    listed = [texts.get(i, (f"[unused {i}]", UNUSED)) for i in range(tokens.size)]
    writer.add_tokenizer_model("gpt2")  # byte pairs
    writer.add_tokenizer_pre("gpt-2")  # how a text is cut before bytes are merged
    writer.add_token_list([text for text, _ in listed])
    writer.add_token_types([kind for _, kind in listed])
    # llama.cpp needs a merge; this one never happens, because no bytes spell the token
    merges = model["merges"] or [[END_OF_TEXT, END_OF_TEXT]]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_add_bos_token(tokens.marks)
    writer.add_bos_token_id(tokens.start)
    writer.add_eos_token_id(tokens.end)


def _tensors(stored: StoredModel) -> Iterator[tuple[str, mx.array]]:
    """Yield the tensors under llama.cpp's names. Its linear layers are (out, in), as ours are."""
    for full_name, array in stored.weights.items():
        name, _, kind = full_name.rpartition(".")  # kind: weight or bias
        block = ""
        if name.startswith("h."):
            _, number, name = name.split(".", 2)
            block = f"blk.{number}."
        names = QKV[stored.layout.model_type] if name == "attn.c_attn" else [NAMES[name]]
        for part, part_array in zip(names, mx.split(array, len(names))):
            yield f"{block}{part}.{kind}", part_array
