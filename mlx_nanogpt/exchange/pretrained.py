"""Models from outside: a folder in the layout of GPT-2 or Qwen3, or a name on the Hugging Face hub."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

from ..config import GPTConfig
from ..errors import UserError
from ..files import explaining_damage, read_text
from ..model import GPT
from ..runs.find import find_run
from ..runs.run import CHECKPOINT, Run, open_run, quote
from ..text.hub import HUB, fetch
from ..text.tokenizer import Tokenizer
from ..text.tokenizer_files import DAMAGED, MERGES, TOKENIZER, VOCAB, tokenizer_of_folder
from .layouts import CONFIG, DTYPES, INDEX, LAYOUTS, PREFIXES, WEIGHTS, Layout, OtherModel

HEAD = "lm_head.weight"
LAYOUT_FOLDER = "name a folder in the layout of GPT-2 or Qwen3"
OF_PYTORCH = (
    "it holds a pickle of PyTorch, and nothing of a pickle is run",
    "save it with save_pretrained, as safetensors",
)
FILE_KINDS = {  # by suffix: what a file is, and the way out
    ".gguf": ("it is a GGUF file, which only other programs read", f"{LAYOUT_FOLDER}, from which it was converted"),
    ".safetensors": ("it holds weights alone", f"name its folder, with {CONFIG} and {TOKENIZER} beside it"),
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".bin", ".pkl"), OF_PYTORCH),
    ".npz": ("it holds arrays alone", LAYOUT_FOLDER),
}
HUB_FILES = [CONFIG, "model*.safetensors", INDEX, TOKENIZER, VOCAB, MERGES]


def find_model(run: Path | None, last: bool, init_from: str | None) -> tuple[GPT, Tokenizer, Run | None]:
    """The exported model `init_from`, or else the model of `run` as in `find_run`; its tokenizer; its run, if any.

    `last` is that of `Run.load_model`. Raises `UserError` if both are named, or for no such model.
    """
    if not init_from:
        if run and (run / WEIGHTS).is_file():
            raise UserError(f"{run} holds an exported model and no run", f"name it with `init_from` {quote(run)}")
        source = find_run(run)
        return source.load_model(last), source.tokenizer, source
    if run or last:
        raise UserError(f"{'a run' if run else '`last`'} and `init_from` exclude each other", "leave out one of them")
    return *load_exported(init_from), None


def load_pretrained(source: Path | str) -> tuple[GPT, Tokenizer]:
    """Load the model and the tokenizer of `source`: a run directory, with the weights that `Run.load_model` chooses, or a source of
    `load_exported`.

    Raises `UserError` if it does not exist, is damaged or is another model, or if it is a run without a checkpoint.
    """
    if is_run(source):
        run = open_run(source)
        return run.load_model(), run.tokenizer
    return load_exported(str(source))


def is_run(source: Path | str) -> bool:
    """Whether the folder `source` is a run, with or without a checkpoint. GPT-2's config.json has no settings of training."""
    folder = Path(source)
    try:
        return (folder / CHECKPOINT).is_file() or {"gpt", "train"} <= json.loads(read_text(folder / CONFIG)).keys()
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def load_exported(source: str) -> tuple[GPT, Tokenizer]:
    """Load the model, as float32, and the tokenizer of `source`: a folder in the layout of GPT-2 or Qwen3, or a name on the
    Hugging Face hub (`gpt2`, `gpt2-medium`, `owner/name`), which takes the extra `gpt2`.

    Rows of the embedding and the head beyond the tokenizer's ids are left out. Raises `UserError` if it does not exist, is
    damaged or is another model.
    """
    folder = Path(source) if os.path.isdir(source) else _download(source)
    with explaining_damage(folder, *DAMAGED):
        tensors = _open_tensors(folder)
        layout, config = _read_config(folder)
        tokenizer = tokenizer_of_folder(folder)
        if tokenizer.vocab_size > config.vocab_size:
            sizes = f"its tokenizer knows {tokenizer.vocab_size:,} tokens and its model {config.vocab_size:,}"
            raise UserError(f"{folder} does not fit together: {sizes}", "fetch or export both again")
        weights = _read_weights(folder, layout, config, tensors)
        for name in {"wte.weight", HEAD} & weights.keys():
            weights[name] = weights[name][: tokenizer.vocab_size]  # (vocab_size, C)
        model = GPT(replace(config, vocab_size=tokenizer.vocab_size))
        model.load_weights(list(weights.items()))
    return model, tokenizer


def _download(source: str) -> Path:
    if os.path.lexists(source):  # nothing that is here is looked up on the hub
        reason, remedy = FILE_KINDS.get(Path(source).suffix.lower(), ("it is a file", LAYOUT_FOLDER))
        raise UserError(f"{source} is no folder of a model: {reason}", remedy)
    if source == "resume":  # as in nanoGPT
        raise UserError("`init_from` resume is `resume` RUN here", "name the run")
    name = source if "/" in source else f"openai-community/{source}"
    owner = name.partition("/")[0]
    if name.count("/") > 1 or name.endswith("/") or owner in (".", "..", "~", "") or os.path.isdir(owner):
        remedy = f"name one in the layout of GPT-2 or Qwen3, a run, or a model on {HUB}"
        raise UserError(f"{source} is not a folder", remedy)
    return fetch(name, HUB_FILES, f"correct the name, or name a folder with its {CONFIG}, {WEIGHTS} and {TOKENIZER}")


def _read_config(folder: Path) -> tuple[Layout, GPTConfig]:
    given = json.loads(read_text(folder / CONFIG))
    if given.get("quantization") or given.get("quantization_config"):
        raise _refusal(folder, "its weights are quantised")
    kind = given.get("model_type")
    layout = next((layout for layout in LAYOUTS if layout.model_type == kind), None)
    if layout is None:
        kinds = " or ".join(repr(layout.model_type) for layout in LAYOUTS)
        raise _refusal(folder, f"its model_type is {kind!r} and not {kinds}")
    try:
        return layout, layout.read_config(given)
    except (OtherModel, UserError) as error:
        raise _refusal(folder, str(error)) from error


def _read_weights(folder: Path, layout: Layout, config: GPTConfig, tensors: dict[str, mx.array]) -> dict[str, mx.array]:
    """Read all weights, under our names, in our shapes, as float32; they are finite."""
    stored = {_bare(name): tensor for name, tensor in tensors.items()}
    expected = {name: parameter.shape for name, parameter in tree_flatten(GPT(config).parameters())}
    names = {name: [_bare(stored_name) for stored_name in layout.stored_names(name)] for name in expected}
    known = {part for parts in names.values() for part in parts}
    strangers = sorted(name for name in stored.keys() - known - {HEAD} if not name.endswith(layout.ignored))
    if strangers:
        raise _refusal(folder, f"it has weights that {layout.name} does not have: {', '.join(strangers[:5])}")
    if missing := sorted(known - stored.keys()):
        raise ValueError(f"weights are missing: {', '.join(missing[:5])}")
    weights: dict[str, mx.array] = {}
    as_ours = _has_our_shapes(stored, expected, layout)
    for name, (rows, *columns) in expected.items():
        parts, transposed = names[name], name.endswith(layout.transposed) and not as_ours
        part_shape = (rows // len(parts), *columns)
        weights[name] = mx.concatenate([_read_weight(part, stored[part], part_shape, transposed) for part in parts])
    if HEAD in stored and HEAD not in weights:
        head = _read_weight(HEAD, stored[HEAD], expected["wte.weight"], False)
        if not mx.array_equal(head, weights["wte.weight"]):
            raise _refusal(folder, f"its head is not tied to the token embedding: {HEAD} is another matrix")
    return weights


def _has_our_shapes(stored: Mapping[str, mx.array], expected: Mapping[str, tuple], layout: Layout) -> bool:
    """Whether linear layers that the layout stores as (in, out) are (out, in), as in mlx_lm's files of GPT-2."""
    turned = [name for name, shape in expected.items() if name.endswith(layout.transposed) and shape != shape[::-1]]
    return bool(turned) and all(stored[name].shape == expected[name] for name in turned)


def _bare(name: str) -> str:
    """The name of a weight without the prefixes that other programs put before it."""
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _read_weight(name: str, stored: mx.array, shape: tuple[int, ...], transposed: bool) -> mx.array:
    if stored.shape != (shape[::-1] if transposed else shape):
        raise ValueError(f"{name} is of shape {stored.shape}, and {CONFIG} describes another")
    if stored.dtype not in DTYPES:
        raise ValueError(f"{name} holds {stored.dtype}, not one of {', '.join(map(str, DTYPES))}")
    array = stored.astype(mx.float32)
    if not mx.isfinite(array).all().item():  # reads it from the file
        raise ValueError(f"{name} holds numbers that are not finite")
    return mx.contiguous(array.T) if transposed else array


def _open_tensors(folder: Path) -> dict[str, mx.array]:
    """Open the arrays in the folder's files of weights. MLX checks that a file has the length in its header."""
    if (folder / WEIGHTS).is_file():
        return mx.load(str(folder / WEIGHTS))
    if not (folder / INDEX).is_file():
        if any(any(folder.glob(name)) for name in ("pytorch_model*.bin", "*.pt")):  # the second as in nanoGPT's out/
            raise UserError(f"{folder} is no folder of a model here: {OF_PYTORCH[0]}", OF_PYTORCH[1])
        if any(folder.glob("adapter*.safetensors")):
            problem = f"{folder} holds an adapter, the changes to a model and not the model"
            raise UserError(problem, "fuse both, as with mlx_lm.fuse, and name the fused folder")
        problem = f"{folder} holds no model in the layout of GPT-2 or Qwen3 (neither {WEIGHTS} nor {INDEX})"
        raise UserError(problem, "name one that does; a run may be exported as such a folder")
    files = json.loads(read_text(folder / INDEX))["weight_map"]
    if any(not re.fullmatch(r"[\w.-]+\.safetensors", name) for name in files.values()):
        raise ValueError(f"{INDEX} names files that are not in the folder")
    parts = {name: mx.load(str(folder / name)) for name in set(files.values())}
    return {tensor: parts[file][tensor] for tensor, file in files.items()}


def _refusal(folder: Path, reason: str) -> UserError:
    problem = f"{folder} holds a model that cannot be rebuilt here: {reason}"
    return UserError(problem, "name one that was exported here, or gpt2")
