"""What the tests of exports share: models that are exported once, and edits of their files."""

import functools
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import mlx_nanogpt as gpt
import mlx.core as mx
import numpy as np
from mlx_nanogpt import export_run
from conftest import CORPUS, DATA, MODERN, TOKENIZER, TOKENS, arrays, lively_model, same, tiny_gpt, tiny_train
from mlx_nanogpt.exchange.pretrained import load_exported

GPT2 = {"bias": "all", "tied": True, "activation": "gelu"}
TIED = MODERN | {"tied": True}
FOLDER = Path("exported")


def run_of(model: gpt.GPT, data: gpt.Dataset = DATA, path: Path | None = None) -> gpt.Run:
    """A run, not trained, whose weights are those of `model`."""
    run = gpt.create_run(model.config, tiny_train(), data, path)
    gpt.start_from(run, model)
    return run


def run_for(**settings) -> gpt.Run:
    return run_of(lively_model(tiny_gpt(**settings)))


def exported(settings: dict = GPT2, tokenizer=TOKENIZER, **changes) -> gpt.GPT:
    """A model in which every parameter changes the result; it is also saved in FOLDER."""
    model, files = _export(tokenizer, tuple((settings | changes).items()))
    FOLDER.mkdir()
    for name, content in files.items():
        (FOLDER / name).write_bytes(content)
    return model


@functools.cache
def _export(tokenizer, settings: tuple) -> tuple[gpt.GPT, dict[str, bytes]]:
    model = lively_model(tiny_gpt(vocab_size=tokenizer.vocab_size, **dict(settings)))
    with TemporaryDirectory() as folder:
        run = run_of(model, gpt.tokenize(CORPUS, tokenizer), Path(folder, "run"))
        export_run(run, Path(folder, "exported"))
        return model, {file.name: file.read_bytes() for file in Path(folder, "exported").iterdir()}


def comes_back_as(model: gpt.GPT, source: str = str(FOLDER)) -> bool:
    return same(arrays(load_exported(source)[0].parameters()), arrays(model.parameters()))


def logits(model: gpt.GPT) -> np.ndarray:
    return np.array(model(mx.array([TOKENS[:5].tolist()])))


def edit(name: str, **changes) -> None:
    """Change values of a JSON file."""
    (FOLDER / name).write_text(json.dumps(json.loads((FOLDER / name).read_text()) | changes))


def rewrite(change) -> None:
    """Replace the weights by the result of `change`, which may also change them in place."""
    weights = dict(mx.load(str(FOLDER / "model.safetensors")))
    mx.eval(weights)  # before their file is replaced
    mx.save_safetensors(str(FOLDER / "model.safetensors"), change(weights) or weights)


def shard() -> None:
    """Cut the weights into two files with an index, as transformers does with large models."""
    weights = mx.load(str(FOLDER / "model.safetensors"))
    (FOLDER / "model.safetensors").unlink()
    parts = {f"model-0000{i + 1}-of-00002.safetensors": sorted(weights)[i::2] for i in range(2)}
    for file, names in parts.items():
        mx.save_safetensors(str(FOLDER / file), {name: weights[name] for name in names})
    index = {"metadata": {}, "weight_map": {name: file for file, names in parts.items() for name in names}}
    (FOLDER / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
