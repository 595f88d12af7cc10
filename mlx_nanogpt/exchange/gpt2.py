"""Models go in and out in the layout of GPT-2 on Hugging Face: a folder that transformers and mlx_lm read, too.

    config.json                   the shape
    model.safetensors             the weights; or several files, and model.safetensors.index.json with what is where
    tokenizer.json                the tokens; or vocab.json and merges.txt
    tokenizer_config.json         what transformers asks beyond that
    README.md                     the model card

The names of the weights are ours, but for a prefix `transformer.` that they may have. GPT-2's linear layers are stored
as (in, out), ours as (out, in).
"""

import hashlib
import json
import os
import re
import shlex
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

from ..config import GPTConfig
from ..errors import UserError, printable
from ..files import DAMAGE, appearing, cache_dir
from ..model import GPT
from ..run import CHECKPOINT, Run, open_run
from ..text.byte_pairs import BYTE_LEVEL, END_OF_TEXT, BPETokenizer, import_extra
from ..text.characters import CharTokenizer
from ..text.tokenizer import Tokenizer

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER, VOCAB, MERGES = "tokenizer.json", "vocab.json", "merges.txt"
TOKENIZER_CONFIG, CARD = "tokenizer_config.json", "README.md"
HUB = "https://huggingface.co"
HUB_FILES = [CONFIG, "model*.safetensors", INDEX, TOKENIZER, VOCAB, MERGES]
GPT2 = "openai-community/gpt2"

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


# ---- in


def load_pretrained(source: str) -> tuple[GPT, Tokenizer]:
    """The model and the tokenizer of `source`: a run directory, or what `load_gpt2` takes.

    Raises `UserError` if there is no such thing, if it is a run without a checkpoint, or if it is damaged or something
    else than a GPT-2.
    """
    if _is_run(Path(source)):
        run = open_run(Path(source))
        return run.load_model(), run.tokenizer
    return load_gpt2(source)


def _is_run(folder: Path) -> bool:
    """Whether `folder` is a run, which may have no checkpoint yet; GPT-2's config.json says nothing of a training."""
    try:
        return (folder / CHECKPOINT).is_file() or {"gpt", "train"} <= json.loads(_read(folder / CONFIG)).keys()
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def load_gpt2(source: str) -> tuple[GPT, Tokenizer]:
    """The model, its weights float32, and the tokenizer of `source`: a folder in the layout of GPT-2, or a name on the
    Hugging Face hub (`gpt2`, `gpt2-medium`, `owner/name`), which takes the extra `gpt2`.

    Rows of the embedding beyond the tokenizer's ids are padding, and left out. Raises `UserError` if there is no such
    thing, or if it is damaged or something else than a GPT-2.
    """
    folder = Path(source) if os.path.isdir(source) else _downloaded(source)
    with _explaining_damage(folder):
        tensors = _tensors(folder)
        config = _read_config(folder)
        tokenizer = tokenizer_of_folder(folder)
        if tokenizer.vocab_size > config.vocab_size:
            raise UserError(
                f"{folder} does not fit together: its tokenizer knows {tokenizer.vocab_size:,} tokens and its model "
                f"{config.vocab_size:,}; fetch or export both anew"
            )
        weights = _read_weights(folder, config, tensors)
        weights["wte.weight"] = weights["wte.weight"][: tokenizer.vocab_size]  # (vocab_size, C)
        model = GPT(replace(config, vocab_size=tokenizer.vocab_size))
        model.load_weights(list(weights.items()))
    return model, tokenizer


def tokenizer_of_folder(folder: Path) -> Tokenizer:
    """The tokenizer of a folder in the layout of GPT-2: byte pairs, or the characters of a model exported here.

    Raises `UserError` if there is none, or if it is damaged or of another kind.
    """
    with _explaining_damage(folder):
        if (folder / TOKENIZER).is_file():
            text = _read(folder / TOKENIZER)
            return _characters_of(text) or BPETokenizer(text)
        if (folder / VOCAB).is_file() and (folder / MERGES).is_file():
            return BPETokenizer(_byte_pair_json(_read(folder / VOCAB), _read(folder / MERGES)))
    raise UserError(
        f"{folder} holds no tokenizer (neither {TOKENIZER} nor {VOCAB} and {MERGES}); put that of the model there"
    )


def gpt2_tokenizer() -> BPETokenizer:
    """GPT-2's own byte pairs: from the folder `gpt2` in `cache_dir()`, or else from the Hugging Face hub.

    Raises `UserError` if they cannot be had, and says which file to put where.
    """
    own = cache_dir() / "gpt2"
    if not os.path.isdir(own):
        own = _fetched(GPT2, [TOKENIZER], f"put its {TOKENIZER} at {own / TOKENIZER}")
    return tokenizer_of_folder(own)


def _downloaded(source: str) -> Path:
    if source == "resume":  # nanoGPT's word
        raise UserError("--init-from resume is --resume RUN here; name the run")
    name = source if "/" in source else f"openai-community/{source}"
    owner = name.partition("/")[0]
    if name.count("/") > 1 or name.endswith("/") or owner in (".", "..", "~", "") or os.path.isdir(owner):
        raise UserError(f"{source} is not a folder; name one in the layout of GPT-2, a run, or a model on {HUB}")
    return _fetched(name, HUB_FILES, f"correct the name, or name a folder with its {CONFIG}, {WEIGHTS} and {TOKENIZER}")


def _fetched(name: str, files: list[str], otherwise: str) -> Path:
    """The folder in the hub's own cache with `files` of the model `name`, fetched if need be."""
    try:
        hub = import_extra("huggingface_hub")
    except UserError as error:
        raise UserError(f"{error}, to fetch from {HUB}/{name}; or {otherwise}") from error
    try:
        return Path(hub.snapshot_download(name, allow_patterns=files))
    except Exception as error:  # the library's own, and those of all it stands on
        reason = textwrap.shorten(str(error) or type(error).__name__, 60, placeholder=" ...")
        raise UserError(
            f"{HUB}/{name} could not be fetched ({reason}); connect to the network, or {otherwise}"
        ) from error


def _read_config(folder: Path) -> GPTConfig:
    given = json.loads(_read(folder / CONFIG))
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
    """The weights under our names, in our shapes, float32; every one of them read and finite."""
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
    """All that the folder's weights files hold, not read yet. MLX checks that what a header promises is in the file."""
    if (folder / WEIGHTS).is_file():
        return mx.load(str(folder / WEIGHTS))
    if not (folder / INDEX).is_file():
        raise UserError(
            f"{folder} holds no model in the layout of GPT-2 (neither {WEIGHTS} nor {INDEX}); mlx-gpt export writes "
            f"such a folder from a run"
        )
    files = json.loads(_read(folder / INDEX))["weight_map"]
    if any(not re.fullmatch(r"[\w.-]+\.safetensors", name) for name in files.values()):
        raise ValueError(f"{INDEX} names files that are not in the folder")
    parts = {name: mx.load(str(folder / name)) for name in set(files.values())}
    return {tensor: parts[file][tensor] for tensor, file in files.items()}


def _byte_pair_json(vocab: str, merges: str) -> str:
    """The tokenizer.json that says what vocab.json and merges.txt of GPT-2 say."""
    ids = json.loads(vocab)
    pairs = [line for line in merges.splitlines() if line]  # the library passes over "#version"
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": ids[END_OF_TEXT], "content": END_OF_TEXT} | special] if END_OF_TEXT in ids else [],
            "normalizer": None,
            "pre_tokenizer": BYTE_LEVEL,
            "post_processor": None,
            "decoder": BYTE_LEVEL,
            "model": {"type": "BPE", "vocab": ids, "merges": pairs},
        },
        ensure_ascii=False,
    )


# ---- out


def export_obstacles(config: GPTConfig) -> dict[str, str]:
    """What keeps a model from the layout of GPT-2, and the option to train with instead; empty if nothing does."""
    obstacles = {}
    if not config.tied:
        obstacles["untied head"] = "--tied"
    if config.activation != "gelu":
        obstacles["ReLU"] = "--activation gelu"
    return obstacles


def export_gpt2(run: Run, folder: Path, best: bool = False) -> None:
    """Write the model of `run` as it is now, or as it was at its lowest validation loss, into a new folder in the
    layout of GPT-2, which appears complete or not at all. Biases that the model does not have are written as zeros.

    Raises `UserError` if the layout cannot hold the model, if the run has no checkpoint, or if the folder is there
    already or cannot be written.
    """
    obstacles = export_obstacles(run.gpt_config)
    if obstacles:
        raise UserError(
            f"the model of {run.path} cannot be written as a GPT-2, which has another architecture (here: "
            f"{', '.join(obstacles)}); train one with mlx-gpt train {' '.join(obstacles.values())}"
        )
    model = run.load_model(best)
    with _explaining_write(folder), appearing(folder) as aside:
        mx.save_safetensors(str(aside / WEIGHTS), _stored_weights(model), {"format": "pt"})
        checksum = _sha256(aside / WEIGHTS)
        for name, text in {
            CONFIG: _json(_stored_config(run)),
            TOKENIZER: _tokenizer_json(run.tokenizer),
            TOKENIZER_CONFIG: _json(_tokenizer_config(run)),
            CARD: _card(run, model, folder.name, best, checksum),
        }.items():
            # the name of a text may hold bytes that are no UTF-8
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
            "bos_token_id": end,  # None where there is none: transformers would take GPT-2's 50256 for granted
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


def _tokenizer_json(tokenizer: Tokenizer) -> str:
    return tokenizer.to_json() if isinstance(tokenizer, BPETokenizer) else _json(_words_of_one(tokenizer.symbols))


def _words_of_one(symbols: str) -> dict:
    """The tokenizer.json in which every character is a word. Any other character is an error there, as it is here."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False},
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "WordLevel",
            "vocab": {symbol: i for i, symbol in enumerate(symbols)},
            "unk_token": "[UNK]",  # the format asks for one; it is in no vocabulary
        },
    }


def _characters_of(text: str) -> CharTokenizer | None:
    """The tokenizer of whose symbols `_words_of_one` made `text`; None if it is something else."""
    described = json.loads(text)
    if described["model"].get("type") != "WordLevel":
        return None
    symbols = "".join(sorted(described["model"]["vocab"]))
    if described != _words_of_one(symbols):
        raise ValueError("its words are not the characters of a model that was exported here")
    return CharTokenizer(symbols)


def _card(run: Run, model: GPT, name: str, best: bool, checksum: str) -> str:
    shape, corpus = run.gpt_config, run.corpus
    windows = run.train_config.batch_size * run.train_config.gradient_accumulation_steps
    iteration = run.position(best).iteration
    losses = [
        f"| Loss at iteration {each.iteration:,}, nats per token | {each.train_loss:.4f} in training, "
        f"{each.valid_loss:.4f} in validation |\n"
        for each in run.history()
        if each.iteration <= iteration
    ]
    # where files lay is nobody's business; the owner of a model on the hub is
    origin = Path(run.init_from).name if run.init_from and os.path.isabs(run.init_from) else run.init_from
    start = f" It started from the weights of {printable(origin)}." if origin else ""
    texts = printable(" + ".join(Path(source).name for source in corpus.sources))
    name = printable(name)
    tokens = "one per character" if isinstance(run.tokenizer, CharTokenizer) else "byte pairs"
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [gpt2, mlx]
---

# {name}

A GPT in the layout of GPT-2, trained with mlx-nanogpt for {iteration:,} iterations of {windows} windows.{start}

| | |
|---|---|
| Parameters | {model.num_parameters():,} |
| Layers, width, heads | {shape.n_layer}, {shape.n_embd}, {shape.n_head} |
| Context | {shape.block_size} tokens |
| Tokens | {shape.vocab_size:,}, {tokens} |
| Text | {texts} |
| sha256 of the text | {corpus.sha256} |
| sha256 of {WEIGHTS} | {checksum} |
{"".join(losses[-1:])}
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("{name}"), AutoTokenizer.from_pretrained("{name}")
```

```python
from mlx_lm import generate, load

model, tokenizer = load("{name}")
```

```sh
mlx-gpt generate --init-from {shlex.quote(name)}
mlx-gpt train --init-from {shlex.quote(name)} --data my.txt
```
"""


# ---- both


@contextmanager
def _explaining_damage(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        name = error.filename or folder
        raise UserError(
            f"{name} cannot be read ({error.strerror or error}); complete the folder, or name another"
        ) from error
    except DAMAGE as error:
        raise UserError(
            f"{folder} is damaged, incomplete or of another kind ({type(error).__name__}: {error}); fetch or export it "
            f"anew, or name another"
        ) from error


@contextmanager
def _explaining_write(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise UserError(f"{folder} cannot be written ({error}); choose another with --out, or make room") from error


def _refusal(folder: Path, reason: str) -> UserError:
    return UserError(f"{folder} holds a model that cannot be rebuilt here: {reason}; name another")


def _sha256(file: Path) -> str:
    checksum = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(2**20):
            checksum.update(chunk)
    return checksum.hexdigest()


def _json(content: dict) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8")
