"""Models from outside: a folder in the layout of GPT-2, or a name on the Hugging Face hub."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

from ..config import GPTConfig
from ..errors import UserError
from ..model import GPT
from ..run import CHECKPOINT, open_run
from ..text.tokenizer import Tokenizer
from .gpt2_layout import CONFIG, DTYPES, HEAD, INDEX, MASKS, PREFIX, REQUIRED, SHAPE, STORED_TRANSPOSED, WEIGHTS
from .hub import HUB, fetched
from .tokenizer_files import MERGES, TOKENIZER, VOCAB, explaining_damage, read_text, tokenizer_of_folder

HUB_FILES = [CONFIG, "model*.safetensors", INDEX, TOKENIZER, VOCAB, MERGES]


def load_pretrained(source: str) -> tuple[GPT, Tokenizer]:
    """The model and the tokenizer of `source`: a run directory, or what `load_gpt2` takes.

    Raises `UserError` if it does not exist, is damaged or is no GPT-2, or if it is a run without a checkpoint.
    """
    if _is_run(Path(source)):
        run = open_run(Path(source))
        return run.load_model(), run.tokenizer
    return load_gpt2(source)


def _is_run(folder: Path) -> bool:
    """Whether `folder` is a run, with or without a checkpoint. The config.json of GPT-2 does not describe a training."""
    try:
        return (folder / CHECKPOINT).is_file() or {"gpt", "train"} <= json.loads(read_text(folder / CONFIG)).keys()
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def load_gpt2(source: str) -> tuple[GPT, Tokenizer]:
    """The model, its weights float32, and the tokenizer of `source`: a folder in the layout of GPT-2, or a name on the
    Hugging Face hub (`gpt2`, `gpt2-medium`, `owner/name`), which takes the extra `gpt2`.

    Rows of the embedding beyond the tokenizer's ids are padding, and left out. Raises `UserError` if it does not exist, is
    damaged or is no GPT-2.
    """
    folder = Path(source) if os.path.isdir(source) else _downloaded(source)
    with explaining_damage(folder):
        tensors = _tensors(folder)
        config = _read_config(folder)
        tokenizer = tokenizer_of_folder(folder)
        if tokenizer.vocab_size > config.vocab_size:
            raise UserError(
                f"{folder} does not fit together: its tokenizer knows {tokenizer.vocab_size:,} tokens and its "
                f"model {config.vocab_size:,}",
                "fetch or export both anew",
            )
        weights = _read_weights(folder, config, tensors)
        weights["wte.weight"] = weights["wte.weight"][: tokenizer.vocab_size]  # (vocab_size, C)
        model = GPT(replace(config, vocab_size=tokenizer.vocab_size))
        model.load_weights(list(weights.items()))
    return model, tokenizer


def _downloaded(source: str) -> Path:
    if source == "resume":  # as in nanoGPT
        raise UserError("`init_from` resume is `resume` RUN here", "name the run")
    name = source if "/" in source else f"openai-community/{source}"
    owner = name.partition("/")[0]
    if name.count("/") > 1 or name.endswith("/") or owner in (".", "..", "~", "") or os.path.isdir(owner):
        raise UserError(f"{source} is not a folder", f"name one in the layout of GPT-2, a run, or a model on {HUB}")
    return fetched(name, HUB_FILES, f"correct the name, or name a folder with its {CONFIG}, {WEIGHTS} and {TOKENIZER}")


def _read_config(folder: Path) -> GPTConfig:
    given = json.loads(read_text(folder / CONFIG))
    if given.get("model_type") != "gpt2":
        raise _refusal(folder, f"its model_type is {given.get('model_type')!r} and not 'gpt2'")
    has = SHAPE | REQUIRED | given
    for name, required in REQUIRED.items():
        if has[name] != required:
            raise _refusal(folder, f"its {name} is {has[name]!r} and not {required!r}")
    width, heads = has["n_embd"], has["n_head"]
    if has["n_inner"] not in (None, 4 * width):
        raise _refusal(folder, f"its n_inner is {has['n_inner']!r} and not 4 times n_embd")
    if type(heads) is not int or heads < 1 or width % heads:
        raise _refusal(folder, f"its n_head {heads!r} does not divide its n_embd {width!r}")
    try:
        return GPTConfig(
            vocab_size=has["vocab_size"],
            block_size=has["n_positions"],
            n_layer=has["n_layer"],
            n_embd=width,
            head_size=width // heads,
            bias="all",
            tied=True,
            activation="gelu",
        )
    except UserError as error:
        raise _refusal(folder, str(error)) from error


def _read_weights(folder: Path, config: GPTConfig, tensors: dict[str, mx.array]) -> dict[str, mx.array]:
    """The weights under our names, in our shapes, as float32. All of them were read and are finite."""
    stored = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    expected = {name: parameter.shape for name, parameter in tree_flatten(GPT(config).parameters())}
    strangers = sorted(name for name in stored.keys() - expected.keys() - {HEAD} if not name.endswith(MASKS))
    if strangers:
        raise _refusal(folder, f"it has weights that GPT-2 does not have: {', '.join(strangers[:5])}")
    if missing := [name for name in expected if name not in stored]:
        raise ValueError(f"weights are missing: {', '.join(missing[:5])}")
    weights = {name: _read_weight(name, stored[name], shape) for name, shape in expected.items()}
    if HEAD in stored and not mx.array_equal(
        _read_weight(HEAD, stored[HEAD], expected["wte.weight"]), weights["wte.weight"]
    ):
        raise _refusal(folder, f"its head is not tied to the token embedding: {HEAD} is another matrix")
    return weights


def _read_weight(name: str, stored: mx.array, shape: tuple[int, ...]) -> mx.array:
    transposed = name.endswith(STORED_TRANSPOSED)
    if stored.shape != (shape[::-1] if transposed else shape):
        raise ValueError(f"{name} is of shape {stored.shape}, which {CONFIG} does not say")
    if stored.dtype not in DTYPES:
        raise ValueError(f"{name} holds {stored.dtype}, and only {', '.join(map(str, DTYPES))} can be read")
    array = stored.astype(mx.float32)
    if not mx.isfinite(array).all().item():  # reads it from the file
        raise ValueError(f"{name} holds numbers that are not finite")
    return mx.contiguous(array.T) if transposed else array


def _tensors(folder: Path) -> dict[str, mx.array]:
    """The arrays in the folder's files of weights, not read yet. MLX checks that a file is as long as its header says."""
    if (folder / WEIGHTS).is_file():
        return mx.load(str(folder / WEIGHTS))
    if not (folder / INDEX).is_file():
        raise UserError(
            f"{folder} holds no model in the layout of GPT-2 (neither {WEIGHTS} nor {INDEX})",
            "name one that does; a run may be exported as such a folder",
        )
    files = json.loads(read_text(folder / INDEX))["weight_map"]
    if any(not re.fullmatch(r"[\w.-]+\.safetensors", name) for name in files.values()):
        raise ValueError(f"{INDEX} names files that are not in the folder")
    parts = {name: mx.load(str(folder / name)) for name in set(files.values())}
    return {tensor: parts[file][tensor] for tensor, file in files.items()}


def _refusal(folder: Path, reason: str) -> UserError:
    return UserError(f"{folder} holds a model that cannot be rebuilt here: {reason}", "name another")
