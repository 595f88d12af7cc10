"""A run as a folder in the layout of GPT-2, for transformers, for mlx_lm and for `load_pretrained`."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

from ..config import GPTConfig
from ..errors import UserError
from ..files import appearing
from ..model import GPT
from ..run import Run
from ..text.byte_pairs import END_OF_TEXT, BPETokenizer
from ..text.tokenizer import Tokenizer
from .gpt2_layout import CARD, CONFIG, REQUIRED, SHAPE, STORED_TRANSPOSED, TOKENIZER_CONFIG, WEIGHTS
from .model_card import model_card
from .tokenizer_files import TOKENIZER, as_json, tokenizer_json


def export_obstacles(config: GPTConfig) -> dict[str, str]:
    """The reasons why GPT-2's layout cannot hold a model, each with the parameter that avoids it."""
    obstacles = {}
    if not config.tied:
        obstacles["untied head"] = "`tied`"
    if config.activation != "gelu":
        obstacles["ReLU"] = "`activation` gelu"
    return obstacles


def export_gpt2(run: Run, out: Path, best: bool = False) -> None:
    """Write the model of `run`, with its newest weights or its best ones, into the new folder `out` in the layout of GPT-2.
    The folder appears complete or not at all. Biases that the model lacks are written as zeros.

    Raises `UserError` if the layout cannot hold the model, if the run has no checkpoint, or if `out` exists or cannot be
    written.
    """
    obstacles = export_obstacles(run.gpt_config)
    if obstacles:
        raise UserError(
            f"the model of {run.path} cannot be written as a GPT-2, which has another architecture (here: "
            f"{', '.join(obstacles)})",
            f"train one with {' '.join(obstacles.values())}",
        )
    model = run.load_model(best)
    with _explaining_write(out), appearing(out) as aside:
        mx.save_safetensors(str(aside / WEIGHTS), _stored_weights(model), {"format": "pt"})
        checksum = _sha256(aside / WEIGHTS)
        for name, text in {
            CONFIG: as_json(_stored_config(run)),
            TOKENIZER: tokenizer_json(run.tokenizer),
            TOKENIZER_CONFIG: as_json(_tokenizer_config(run)),
            CARD: model_card(run, model, out.name, best, checksum),
        }.items():
            # names of texts may hold bytes that are not UTF-8
            (aside / name).write_text(text, encoding="utf-8", errors="backslashreplace")


def _stored_weights(model: GPT) -> dict[str, mx.array]:
    new = GPT(replace(model.config, bias="all"))  # its biases are zeros
    weights = dict(tree_flatten(new.parameters())) | dict(tree_flatten(model.parameters()))
    return {
        name: mx.contiguous(array.T) if name.endswith(STORED_TRANSPOSED) else array for name, array in weights.items()
    }


def _stored_config(run: Run) -> dict:
    shape, end = run.gpt_config, _end_of_text(run.tokenizer)
    return (
        SHAPE
        | REQUIRED
        | {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "vocab_size": shape.vocab_size,
            "n_positions": shape.block_size,
            "n_ctx": shape.block_size,
            "n_embd": shape.n_embd,
            "n_layer": shape.n_layer,
            "n_head": shape.n_head,
            "embd_pdrop": shape.dropout,
            "resid_pdrop": shape.dropout,
            "attn_pdrop": 0.0,
            "bos_token_id": end,  # None if there is none: transformers would assume GPT-2's 50256
            "eos_token_id": end,
            "torch_dtype": "float32",
        }
    )


def _tokenizer_config(run: Run) -> dict:
    end = END_OF_TEXT if _end_of_text(run.tokenizer) is not None else None
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": run.gpt_config.block_size,
        "clean_up_tokenization_spaces": False,
        "bos_token": end,
        "eos_token": end,
    }


def _end_of_text(tokenizer: Tokenizer) -> int | None:
    known = isinstance(tokenizer, BPETokenizer) and tokenizer.decode([tokenizer.start_token]) == END_OF_TEXT
    return tokenizer.start_token if known else None


@contextmanager
def _explaining_write(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise UserError(f"{folder} cannot be written ({error})", "choose another with `out`, or make room") from error


def _sha256(file: Path) -> str:
    checksum = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(2**20):
            checksum.update(chunk)
    return checksum.hexdigest()
