"""Models from outside: every form of a GPT-2 or a Qwen3 is read, other models are refused with the reason, damage is a sentence."""

import json
import random
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import mlx_nanogpt as gpt
import mlx.core as mx
import pytest
from mlx_nanogpt import UserError
from conftest import MODERN, TEXT, TOKENIZER, arrays, byte_pairs, keep_as_gpt2s, same
from exports import FOLDER, GPT2, comes_back_as, edit, exported, rewrite, shard
from mlx.utils import tree_flatten
from mlx_nanogpt.exchange import pretrained
from mlx_nanogpt.exchange.layouts import GPT2_REQUIRED, QWEN3_REQUIRED
from mlx_nanogpt.exchange.pretrained import load_exported
from mlx_nanogpt.text.tokenizer_files import gpt2_tokenizer, tokenizer_of_folder

FC = "h.0.mlp.c_fc.weight"


def refused(reason: str) -> None:
    with pytest.raises(UserError, match=f"exported .*{reason}"):
        load_exported(str(FOLDER))


# ---- forms of the same model


def rename_and_add_masks() -> None:
    rewrite(lambda weights: {f"transformer.{name}": array for name, array in weights.items()} | {
        "lm_head.weight": weights["wte.weight"], "transformer.h.0.attn.bias": mx.tril(mx.ones((1, 1, 8, 8))),
        "transformer.h.0.attn.masked_bias": mx.array(-1e4),
    })  # fmt: skip


def pad_the_embedding() -> None:
    rewrite(lambda weights: weights.update({"wte.weight": mx.pad(weights["wte.weight"], ((0, 5), (0, 0)))}))
    edit("config.json", vocab_size=TOKENIZER.vocab_size + 6)


def keep_the_rotation_in_a_table() -> None:
    config = json.loads((FOLDER / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": config.pop("rope_theta")}
    (FOLDER / "config.json").write_text(json.dumps(config))


FORMS = {
    "names with a prefix, and the masks of older files": (GPT2, rename_and_add_masks),
    "several files": (GPT2, shard),
    "a padded embedding": (GPT2, pad_the_embedding),
    "n_inner": (GPT2, lambda: edit("config.json", n_inner=64)),
    "reorder_and_upcast_attn": (GPT2, lambda: edit("config.json", reorder_and_upcast_attn=True)),
    "attn_pdrop": (GPT2, lambda: edit("config.json", attn_pdrop=0.5)),
    "a newer config.json": (MODERN, keep_the_rotation_in_a_table),
}


@pytest.mark.parametrize("settings, change", FORMS.values(), ids=FORMS)
def test_a_model_in_another_form_is_the_same(settings, change):
    model = exported(settings)
    change()
    assert comes_back_as(model)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_weights_of_16_bits_become_float32(dtype):
    model = exported()
    rewrite(lambda weights: {name: array.astype(dtype) for name, array in weights.items()})
    rounded = {name: p.astype(dtype).astype(mx.float32) for name, p in tree_flatten(model.parameters())}
    assert same(arrays(load_exported(str(FOLDER))[0].parameters()), arrays(rounded))


def test_the_tokenizer_of_an_older_folder_is_in_two_files():
    tokenizer = byte_pairs()
    described = json.loads(tokenizer.to_json())["model"]
    FOLDER.mkdir()
    (FOLDER / "vocab.json").write_text(json.dumps(described["vocab"] | {"<|endoftext|>": 300}))
    pairs = (" ".join(pair) for pair in described["merges"])
    (FOLDER / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs, ""]))
    older = tokenizer_of_folder(FOLDER)
    text = TEXT + "é 🦓<|endoftext|>"
    assert (older.encode(text) == tokenizer.encode(text)).all()
    assert (older.vocab_size, older.start_token) == (tokenizer.vocab_size, tokenizer.start_token) == (301, 300)


# ---- other models


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"model_type": "gpt_neo"}, "model_type is 'gpt_neo' and not 'gpt2'"),
        *(({name: "other"}, f"its {name} is 'other' and not") for name in GPT2_REQUIRED),
        ({"n_inner": 32}, "n_inner is 32 and not 4 times n_embd"),
        ({"n_head": 3}, "n_head 3 does not divide its n_embd 16"),
        ({"n_head": 0}, "n_head 0 does not divide"),
        ({"n_layer": 10**9}, "n_layer 1000000000 is out of range"),
        ({"n_layer": 3}, "weights are missing: h.2"),
        ({"n_layer": 1}, "weights that GPT-2 does not have: h.1"),
        ({"n_positions": 16}, "wpe.weight is of shape"),
        ({"vocab_size": 5}, "its tokenizer knows .* tokens and its model 5"),
    ],
)
def test_a_gpt2_of_another_kind_is_refused_with_the_reason(changes, reason):
    exported()
    edit("config.json", **changes)
    refused(reason)


@pytest.mark.parametrize(
    "changes, reason",
    [
        *(({name: "other"}, f"its {name} is 'other' and not") for name in QWEN3_REQUIRED),
        ({"rope_theta": 1e6}, "rope_theta is 1000000.0 and not 10000"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type is 'yarn' and not 'default'"),
        (
            {"num_key_value_heads": 1, "rms_norm_eps": 1e-6},
            "has grouped queries: its num_key_value_heads is 1 and not 2, its rms_norm_eps is 1e-06 and not 1e-05",
        ),
        ({"head_dim": 128}, "head_dim is 128 and not 8"),
        ({"intermediate_size": 64}, "intermediate_size is 64 and not 48"),
        ({"num_attention_heads": 3}, "num_attention_heads 3 does not divide its hidden_size 16"),
        ({"num_hidden_layers": 3}, "weights are missing: layers.2"),
        ({"num_hidden_layers": 1}, "weights that Qwen3 does not have: layers.1"),
        ({"tie_word_embeddings": True}, "its head is not tied to the token embedding"),
    ],
)
def test_a_qwen3_of_another_kind_is_refused_with_the_reason(changes, reason):
    exported(MODERN)
    edit("config.json", **changes)
    refused(reason)


@pytest.mark.parametrize("part", ["model", "decoder", "pre_tokenizer"])
def test_a_tokenizer_of_another_kind_is_refused(part):
    exported(tokenizer=byte_pairs())
    edit("tokenizer.json", **{part: {"type": "WordPiece", "vocab": {"a": 0}}})
    refused("holds a tokenizer that cannot be used here: .*GPT-2's")


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda weights: weights.update({"lm_head.weight": weights["wte.weight"] * 2}), "its head is not tied"),
        (lambda weights: weights.update({"h.0.adapter.weight": mx.zeros(3)}), "does not have: h.0.adapter.weight"),
        (lambda weights: weights.pop("ln_f.bias").shape and None, "weights are missing: ln_f.bias"),
        (lambda weights: weights.update({"ln_f.bias": mx.zeros(17)}), r"ln_f.bias is of shape \(17,\)"),
        (lambda weights: weights.update({"ln_f.bias": mx.full(16, mx.nan)}), "holds numbers that are not finite"),
        (lambda weights: weights.update({"ln_f.bias": mx.zeros(16, mx.int8)}), "ln_f.bias holds mlx.core.int8"),
        (lambda weights: weights.update({FC: weights[FC].T}), "c_fc.weight is of shape"),
    ],
)
def test_other_weights_are_refused_with_the_reason(change, reason):
    exported()
    rewrite(change)
    refused(reason)


# ---- damage


@pytest.mark.parametrize(
    "file, remaining",
    [("config.json", 0.5), ("model.safetensors", 0.0), ("model.safetensors", 0.05), ("model.safetensors", 0.99),
     ("tokenizer.json", 0.5)],
)  # fmt: skip
def test_a_truncated_file_is_a_sentence(file, remaining):
    exported()
    whole = (FOLDER / file).read_bytes()
    (FOLDER / file).write_bytes(whole[: int(len(whole) * remaining)])
    refused("is damaged, incomplete or of another kind")


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model-00002-of-00002.safetensors"])
def test_a_missing_file_is_a_sentence(file):
    exported()
    shard()
    (FOLDER / file).unlink()
    with pytest.raises(UserError, match=f"{file} cannot be read|neither {file}|Failed to open file exported/{file}"):
        load_exported(str(FOLDER))


def test_an_index_that_points_out_of_the_folder_is_refused():
    exported()
    shard()
    shutil.copy(FOLDER / "model-00001-of-00002.safetensors", "other.safetensors")
    index = FOLDER / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-00001-of-00002.safetensors", "../other.safetensors"))
    refused("names files that are not in the folder")


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_a_damaged_folder_is_a_usable_model_or_a_sentence(kind):
    exported(tokenizer=TOKENIZER if kind == "char" else byte_pairs())
    shard()
    refusals = 0
    read = ["config.json", "tokenizer.json", "model.safetensors.index.json"]
    for file in [FOLDER / name for name in read] + sorted(FOLDER.glob("*.safetensors")):
        whole = file.read_bytes()
        for seed in range(15):
            file.write_bytes(damage(whole, random.Random(seed)))
            try:
                model, tokenizer = load_exported(str(FOLDER))
                ids = gpt.generate(model, tokenizer.encode("to be").tolist(), 3, 0, gpt.make_sampler(temperature=0))
                tokenizer.decode(list(ids))
            except UserError:
                refusals += 1
        file.write_bytes(whole)
    assert refusals > 35
    load_exported(str(FOLDER))


def damage(content: bytes, rng: random.Random) -> bytes:
    """`content` cut off somewhere, or with some bits flipped, near the beginning more often."""
    if rng.random() < 0.3:
        return content[: rng.randrange(len(content))]
    flipped = bytearray(content)
    for _ in range(rng.choice([1, 1, 3, 20])):
        end = len(content) if rng.random() < 0.4 else min(len(content), 2500)
        flipped[rng.randrange(end)] ^= 1 << rng.randrange(8)
    return bytes(flipped)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"gpt": 1}', "[" * 100_000, "\udcff"])
def test_a_folder_with_another_config_json_is_not_a_run(content):
    FOLDER.mkdir()
    (FOLDER / "config.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match="exported holds no model in the layout of GPT-2"):
        gpt.load_pretrained(str(FOLDER))


# ---- the hub


@pytest.mark.parametrize(
    "source, name", [("gpt2-medium", "openai-community/gpt2-medium"), ("someone/a-gpt2", "someone/a-gpt2")]
)
def test_a_name_that_is_not_a_folder_is_fetched_from_the_hub(monkeypatch, source, name):
    model, asked = exported(), []
    hub = SimpleNamespace(snapshot_download=lambda *args, **more: asked.append(args) or str(FOLDER.resolve()))
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert comes_back_as(model, source) and asked == [(name,)]


def test_a_hub_that_cannot_be_reached_is_a_sentence_that_names_the_files_to_add(monkeypatch):
    def fail(*arguments, **more):
        raise ConnectionError("no route to host")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=fail))
    files = "openai-community/gpt2 could not .*no route to host.*its config.json, model.safe"
    with pytest.raises(UserError, match=files):
        load_exported("gpt2")
    place = r"no route to host.*put its tokenizer.json at .*mlx-nanogpt/gpt2/tokenizer.json"
    with pytest.raises(UserError, match=place):
        gpt2_tokenizer()
    keep_as_gpt2s(byte_pairs())
    assert gpt2_tokenizer() == byte_pairs()


@pytest.mark.parametrize("package, use", [
    ("huggingface_hub", lambda: load_exported("gpt2")), ("huggingface_hub", gpt2_tokenizer),
    ("tokenizers", lambda: gpt.BPETokenizer(byte_pairs().to_json())),
])  # fmt: skip
def test_a_missing_package_is_a_sentence_with_the_command(monkeypatch, package, use):
    byte_pairs()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf'takes the package {package}.* pip install -e "\.\[gpt2\]"'):
        use()


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere", "~/nowhere", "a/b/c"])
def test_a_path_that_is_not_a_folder_is_not_looked_for_on_the_hub(source):
    with pytest.raises(UserError, match=f"{source} is not a folder"):
        load_exported(source)


@pytest.mark.parametrize(
    "name, reason",
    [
        ("model.gguf", "it is a GGUF file"),
        ("ckpt.pt", "nothing of a pickle is run"),
        ("model.safetensors", "it holds weights alone; name its folder"),
        ("notes.txt", "it is a file"),
    ],
)
def test_a_file_is_named_for_what_it_is_and_not_looked_up(monkeypatch, name, reason):
    monkeypatch.setattr(pretrained, "fetch", lambda *_: pytest.fail("looked up"))
    Path(name).write_bytes(b"GGUF")
    with pytest.raises(UserError, match=f"{name} is no folder of a model: .*{reason}"):
        load_exported(name)


@pytest.mark.parametrize(
    "name, reason",
    [
        ("pytorch_model.bin", "a pickle of PyTorch"),
        ("ckpt.pt", "a pickle of PyTorch"),
        ("adapters.safetensors", "holds an adapter, .*; fuse both"),
    ],
)
def test_a_folder_without_a_whole_model_is_named_for_what_it_is(name, reason):
    Path("folder").mkdir()
    (Path("folder") / name).touch()
    with pytest.raises(UserError, match=reason):
        load_exported("folder")


def test_a_quantised_model_is_named():
    Path("folder").mkdir()
    mx.save_safetensors("folder/model.safetensors", {"wte.weight": mx.zeros((1, 1))})
    Path("folder/config.json").write_text('{"model_type": "qwen3", "quantization": {"bits": 4}}')
    with pytest.raises(UserError, match="its weights are quantised"):
        load_exported("folder")
