"""A run as a folder in another program's layout, or as a GGUF file for llama.cpp."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

from ..errors import UserError
from ..files import check_free, create_folder, explaining_write
from ..model import GPT
from ..runs.run import Run
from ..text.byte_pairs import END_OF_TEXT
from ..text.tokenizer_files import TOKENIZER, StoredTokens, as_json, store_tokens
from .layouts import CARD, CONFIG, GENERATION_CONFIG, QWEN3, TOKENIZER_CONFIG, WEIGHTS, Layout, best_layout
from .model_card import model_card
from .unseen import add_unseen_rows

WRITE_REMEDY = "choose another with `out`, or make room"


@dataclass(frozen=True)
class StoredModel:
    """A model for other programs: the weights under our names, with rows for all `tokens`."""

    layout: Layout
    model: GPT
    weights: dict[str, mx.array]
    tokens: StoredTokens


def export_run(run: Run, out: Path | str, last: bool = False) -> None:
    """Write the model of `run`, with its best or its `last` weights, into the new folder `out`, in the layout that fits. The
    folder appears complete or not at all.

    Raises `UserError` if no layout can hold the model, if the run has no checkpoint, or if `out` exists or cannot be written.
    """
    out = Path(out)
    check_free(out)
    stored = store_model(run, last)
    with explaining_write(out, WRITE_REMEDY, by_mlx=True), create_folder(out) as aside:
        mx.save_safetensors(str(aside / WEIGHTS), _store_weights(stored), {"format": "pt"})
        checksum = hashlib.sha256((aside / WEIGHTS).read_bytes()).hexdigest()
        texts = {name: as_json(content) for name, content in _descriptions(stored).items()}
        texts |= {TOKENIZER: stored.tokens.json}
        texts |= {CARD: model_card(run, stored.layout, stored.model, out.name, last, checksum)}
        for name, text in texts.items():
            # names of texts may hold bytes that are not UTF-8
            (aside / name).write_text(text, encoding="utf-8", errors="backslashreplace")


def store_model(run: Run, last: bool = False) -> StoredModel:
    """Convert the model of `run`, as in `Run.load_model`. Raises `UserError` if no layout can hold it, or if there is no checkpoint."""
    run.check_model(None)
    layout, obstacles = best_layout(run.gpt_config)
    if obstacles:
        problem = f"the model of {run.path} does not fit the layout of {layout.name} ({', '.join(obstacles)})"
        remedy = (
            f"train one with {' '.join(obstacles.values())} (a {layout.name}), or with `preset` modern (a {QWEN3.name})"
        )
        raise UserError(problem, remedy)
    model, tokens = run.load_model(last).eval(), store_tokens(run.tokenizer)
    own = dict(tree_flatten(model.parameters()))
    weights = dict(tree_flatten(GPT(layout.stored_as(model.config)).parameters())) | own  # missing biases are zeros
    if extra := tokens.size - run.tokenizer.vocab_size:
        weights = add_unseen_rows(weights, extra, model)
    return StoredModel(layout, model, weights, tokens)


def _store_weights(stored: StoredModel) -> dict[str, mx.array]:
    layout, written = stored.layout, {}
    for name, array in stored.weights.items():
        names = layout.stored_names(name)
        for part_name, part in zip(names, mx.split(array, len(names))):
            written[part_name] = mx.contiguous(part.T if name.endswith(layout.transposed) else part)
    return written


def _descriptions(stored: StoredModel) -> dict[str, dict]:
    """The contents of the JSON files."""
    layout, config, tokens = stored.layout, stored.model.config, stored.tokens
    ids = {"bos_token_id": tokens.start, "eos_token_id": tokens.end}
    kind = {"model_type": layout.model_type, "architectures": [layout.architecture]}
    return {
        CONFIG: kind | layout.stored_config(config) | {"vocab_size": tokens.size} | ids | {"torch_dtype": "float32"},
        TOKENIZER_CONFIG: {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": config.block_size,
            "clean_up_tokenization_spaces": False,
            "bos_token": END_OF_TEXT if tokens.start == tokens.end else None,
            "eos_token": END_OF_TEXT,
            "unk_token": END_OF_TEXT,
            "pad_token": END_OF_TEXT,
        },
        # without a length, transformers writes beyond the context, where learned positions end
        GENERATION_CONFIG: ids | {"pad_token_id": tokens.end, "max_length": config.block_size},
    }
