"""The promises of the layouts of GPT-2 and Qwen3: an imported or exported model is the same here, in transformers and in
mlx_lm, where they are installed; other models are refused; and damage causes only a message."""

import json
import random
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import mlx_nanogpt as gpt
import mlx.core as mx
import numpy as np
import pytest
from mlx_nanogpt import UserError, export_gguf, export_run, files, open_run
from conftest import (
    CORPUS,
    DATA,
    MODERN,
    TEXT,
    TINY,
    TOKENIZER,
    TOKENS,
    arrays,
    byte_pairs,
    checkpoint_arrays,
    finish,
    keep_as_gpt2s,
    lively_model,
    same,
    tiny_gpt,
    tiny_run,
    tiny_train,
    trained_run,
    worsened_run,
)
from mlx.utils import tree_flatten
from mlx_nanogpt.exchange.export import store_model
from mlx_nanogpt.exchange.pretrained import load_exported
from mlx_nanogpt.exchange.tokenizer_files import gpt2_tokenizer, tokenizer_of_folder
from mlx_nanogpt.model import adapted
from mlx_nanogpt.text.byte_pairs import spoken
from mlx_nanogpt.training import start_from

GPT2 = {"bias": "all", "tied": True, "activation": "gelu"}
GPT2_OPTIONS = ["--bias=all", "--tied", "--activation=gelu"]
SENTENCES = ["", "to be", "\n\n  or not\n", "that is the question , nobler ?\n"]
FOLDER = Path("exported")
FC = "h.0.mlp.c_fc.weight"
PROMPT = TOKENS[:5].tolist()


def run_of(model: gpt.GPT, data: gpt.Dataset = DATA) -> gpt.Run:
    """A run, not trained, whose weights are those of `model`."""
    run = gpt.create_run(model.config, tiny_train(), data)
    start_from(run, model)
    return run


def exported(tokenizer=TOKENIZER, folder: Path = FOLDER, **changes) -> gpt.GPT:
    """A model in which every parameter changes the result; it is also saved in `folder`."""
    model = lively_model(tiny_gpt(vocab_size=tokenizer.vocab_size, **GPT2 | changes))
    export_run(run_of(model, gpt.tokenize(CORPUS, tokenizer)), folder)
    return model


def logits(model: gpt.GPT, ids=PROMPT) -> np.ndarray:
    return np.array(model(mx.array([ids])))


def greedy(model: gpt.GPT, ids=PROMPT, count: int = 3) -> list[int]:
    return list(gpt.generate(model, ids, count, seed=0, sample=gpt.make_sampler(temperature=0)))


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


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


# ---- out


def test_an_exported_folder_has_all_the_parts_and_no_others():
    exported()
    names = {"README.md", "config.json", "generation_config.json", "model.safetensors"}
    names |= {"tokenizer.json", "tokenizer_config.json"}
    assert {each.name for each in FOLDER.iterdir()} == names
    assert sorted(each.name for each in Path().iterdir()) == ["exported", "play.txt", "runs"]


@pytest.mark.parametrize("bias", ["all", "lecture", "none"])
def test_weights_are_stored_under_gpt2s_names_in_gpt2s_shapes_with_every_bias(bias):
    model = exported(bias=bias)
    stored, metadata = mx.load(str(FOLDER / "model.safetensors"), return_metadata=True)
    C, V, T = 16, TOKENIZER.vocab_size, 8
    block = {
        "ln_1.weight": (C,), "ln_1.bias": (C,), "ln_2.weight": (C,), "ln_2.bias": (C,),
        "attn.c_attn.weight": (C, 3 * C), "attn.c_attn.bias": (3 * C,),
        "attn.c_proj.weight": (C, C), "attn.c_proj.bias": (C,),
        "mlp.c_fc.weight": (C, 4 * C), "mlp.c_fc.bias": (4 * C,),
        "mlp.c_proj.weight": (4 * C, C), "mlp.c_proj.bias": (C,),
    }  # fmt: skip
    shapes = {"wte.weight": (V + 1, C), "wpe.weight": (T, C), "ln_f.weight": (C,), "ln_f.bias": (C,)}
    shapes |= {f"h.{i}.{name}": shape for i in range(2) for name, shape in block.items()}
    assert {name: array.shape for name, array in stored.items()} == shapes
    assert {array.dtype for array in stored.values()} == {mx.float32} and metadata == {"format": "pt"}
    own = arrays(model.parameters())
    for name, array in stored.items():
        array = array[:V] if name == "wte.weight" else array  # the last token, which is not ours, ends a text
        expected = own.get(name, np.zeros(array.shape))
        assert (np.array(array) == (expected.T if "c_" in name else expected)).all(), name


@pytest.mark.parametrize("bias", ["all", "lecture", "none"])
@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_what_is_exported_comes_back_as_the_same_model_and_tokenizer(bias, kind):
    tokenizer = TOKENIZER if kind == "char" else byte_pairs()
    model = exported(tokenizer, bias=bias)
    back, its_tokenizer = load_exported(str(FOLDER))
    assert its_tokenizer == tokenizer and back.config == replace(model.config, bias="all")
    assert np.abs(logits(back) - logits(model)).max() < 1e-5
    if bias == "all":
        assert same(arrays(back.parameters()), arrays(model.parameters()))


def test_any_characters_come_back():
    data = gpt.tokenize(gpt.Corpus(("odd.txt",), "\t\n \"'\\{}[]aé€日🦓\u0301\u2028\ufeff\x7f"))
    export_run(run_of(lively_model(tiny_gpt(vocab_size=data.tokenizer.vocab_size, **GPT2)), data), FOLDER)
    assert load_exported(str(FOLDER))[1] == data.tokenizer


def test_config_json_says_what_gpt2_is():
    exported(dropout=0.1)
    config = json.loads((FOLDER / "config.json").read_text())
    assert config | {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": TOKENIZER.vocab_size + 1,
        "n_positions": 8, "n_ctx": 8, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": None, "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5, "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.0,
        "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": TOKENIZER.vocab_size, "torch_dtype": "float32",
    } == config  # fmt: skip


def test_the_end_of_text_is_named_where_there_is_one():
    tokenizer = byte_pairs()
    exported(tokenizer)
    config, of_tokenizer = (
        json.loads((FOLDER / name).read_text()) for name in ("config.json", "tokenizer_config.json")
    )
    assert config["bos_token_id"] == config["eos_token_id"] == tokenizer.vocab_size - 1
    assert of_tokenizer["clean_up_tokenization_spaces"] is False  # transformers 4 would
    assert of_tokenizer["bos_token"] == of_tokenizer["eos_token"] == "<|endoftext|>"


def test_the_card_says_what_the_model_is():
    run = trained_run(**GPT2)
    export_run(run, FOLDER)
    card, last = (FOLDER / "README.md").read_text(), run.history()[-1]
    for fact in (
        f"for {last.iteration} iterations of 4 windows", f"{run.load_model().num_parameters():,} |", "play.txt",
        CORPUS.identity.sha256, f"{last.train_loss:.4f} in training, {last.valid_loss:.4f} in validation",
    ):  # fmt: skip
        assert fact in card


@pytest.mark.parametrize(
    "init_from, told", [("/home/someone/mine", "of mine."), ("someone/a-gpt2", "of someone/a-gpt2.")]
)
def test_the_card_says_what_it_came_from_but_not_where_that_lay(init_from, told):
    data = replace(DATA, corpus=replace(DATA.corpus, sources=("/home/someone/play.txt",)))
    run = replace(run_of(lively_model(tiny_gpt(**GPT2)), data), init_from=init_from)
    export_run(run, FOLDER)
    card = (FOLDER / "README.md").read_text()
    assert f"started from the weights {told}" in card and "| play.txt |" in card and "/home" not in card


def test_the_best_weights_may_be_exported():
    run = worsened_run(**GPT2)
    best = min(run.history(), key=lambda each: each.valid_loss)
    export_run(run, FOLDER, best=True)
    assert same(arrays(load_exported(str(FOLDER))[0].parameters()), arrays(run.load_model(best=True).parameters()))
    assert f"Loss at iteration {best.iteration}," in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize(
    "changes, obstacles, remedy",
    [
        ({}, "untied head, ReLU", "`tied` `activation` gelu"),
        ({"tied": True}, "ReLU", "`activation` gelu"),
        ({"activation": "gelu"}, "untied head", "`tied`"),
    ],
)
def test_what_the_layout_cannot_hold_is_refused_with_the_remedy(changes, obstacles, remedy):
    run = trained_run(**changes)
    with pytest.raises(UserError, match=f"{obstacles}.* {remedy}$"):
        export_run(run, FOLDER)
    assert not FOLDER.exists()


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("nowhere")])
def test_what_exists_is_not_overwritten(make):
    run = run_of(lively_model(tiny_gpt(**GPT2)))
    make(FOLDER)
    with pytest.raises(UserError, match="exported exists already"):
        export_run(run, FOLDER)


@pytest.mark.parametrize("failing", ["save_safetensors", "contiguous"])
def test_an_export_that_fails_leaves_nothing_behind(monkeypatch, failing):
    run = run_of(lively_model(tiny_gpt(**GPT2)))

    def fail(*arguments):
        raise RuntimeError("no space left on device")

    monkeypatch.setattr(mx, failing, fail)
    with pytest.raises(UserError, match=r"exported cannot be written \(no space left on device\)"):
        export_run(run, FOLDER)
    assert sorted(each.name for each in Path().iterdir()) == ["play.txt", "runs"]


# ---- in


def test_names_may_have_a_prefix_and_older_masks_are_ignored():
    model = exported()
    rewrite(lambda weights: {f"transformer.{name}": array for name, array in weights.items()} | {
        "lm_head.weight": weights["wte.weight"], "transformer.h.0.attn.bias": mx.tril(mx.ones((1, 1, 8, 8))),
        "transformer.h.0.attn.masked_bias": mx.array(-1e4),
    })  # fmt: skip
    assert same(arrays(load_exported(str(FOLDER))[0].parameters()), arrays(model.parameters()))


def test_weights_may_lie_in_several_files():
    model = exported()
    shard()
    assert same(arrays(load_exported(str(FOLDER))[0].parameters()), arrays(model.parameters()))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_weights_of_16_bits_become_float32(dtype):
    model = exported()
    rewrite(lambda weights: {name: array.astype(dtype) for name, array in weights.items()})
    rounded = {name: p.astype(dtype).astype(mx.float32) for name, p in tree_flatten(model.parameters())}
    assert same(arrays(load_exported(str(FOLDER))[0].parameters()), arrays(rounded))


def test_padding_of_the_embedding_is_left_out():
    model = exported()
    rewrite(lambda weights: weights.update({"wte.weight": mx.pad(weights["wte.weight"], ((0, 5), (0, 0)))}))
    edit(FOLDER / "config.json", vocab_size=TOKENIZER.vocab_size + 6)
    assert same(arrays(load_exported(str(FOLDER))[0].parameters()), arrays(model.parameters()))


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


@pytest.mark.parametrize("part", ["model", "decoder", "pre_tokenizer"])
def test_a_tokenizer_of_another_kind_is_refused(part):
    exported(byte_pairs())
    edit(FOLDER / "tokenizer.json", **{part: {"type": "WordPiece", "vocab": {"a": 0}}})
    with pytest.raises(
        UserError, match="exported is damaged, incomplete or of another kind .*it is made of .*WordPiece"
    ):
        load_exported(str(FOLDER))


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"model_type": "gpt_neo"}, "model_type is 'gpt_neo' and not 'gpt2'"),
        ({"activation_function": "relu"}, "activation_function is 'relu' and not 'gelu_new'"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False"),
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
def test_what_this_program_cannot_represent_is_refused_with_the_reason(changes, reason):
    exported()
    edit(FOLDER / "config.json", **changes)
    with pytest.raises(UserError, match=f"exported .*{reason}"):
        load_exported(str(FOLDER))


@pytest.mark.parametrize("harmless", [{"n_inner": 64}, {"reorder_and_upcast_attn": True}, {"attn_pdrop": 0.5}])
def test_what_makes_no_difference_is_accepted(harmless):
    model = exported()
    edit(FOLDER / "config.json", **harmless)
    assert same(arrays(load_exported(str(FOLDER))[0].parameters()), arrays(model.parameters()))


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
)  # fmt: skip
def test_weights_that_are_not_gpt2s_are_refused_with_the_reason(change, reason):
    exported()
    rewrite(change)
    with pytest.raises(UserError, match=f"exported .*{reason}"):
        load_exported(str(FOLDER))


@pytest.mark.parametrize(
    "file, remaining",
    [("config.json", 0.5), ("model.safetensors", 0.0), ("model.safetensors", 0.05), ("model.safetensors", 0.99),
     ("tokenizer.json", 0.5)],
)  # fmt: skip
def test_a_truncated_file_is_a_sentence(file, remaining):
    exported()
    whole = (FOLDER / file).read_bytes()
    (FOLDER / file).write_bytes(whole[: int(len(whole) * remaining)])
    with pytest.raises(UserError, match="exported is damaged, incomplete or of another kind"):
        load_exported(str(FOLDER))


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
    with pytest.raises(UserError, match="names files that are not in the folder"):
        load_exported(str(FOLDER))


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_no_damage_is_more_than_a_sentence(kind):
    """A damaged folder gives a usable model or a `UserError`, and nothing else."""
    exported(TOKENIZER if kind == "char" else byte_pairs())
    shard()
    refused = 0
    for file in sorted(FOLDER.glob("*.json")) + sorted(FOLDER.glob("*.safetensors")):
        whole = file.read_bytes()
        for seed in range(40):
            file.write_bytes(damaged(whole, random.Random(seed)))
            try:
                model, tokenizer = load_exported(str(FOLDER))
                tokenizer.decode(greedy(model, tokenizer.encode("to be").tolist()))
            except UserError:
                refused += 1
        file.write_bytes(whole)
    assert refused > 100
    load_exported(str(FOLDER))


def damaged(content: bytes, rng: random.Random) -> bytes:
    """`content` cut off somewhere, or with some bits flipped, near the beginning more often."""
    if rng.random() < 0.3:
        return content[: rng.randrange(len(content))]
    flipped = bytearray(content)
    for _ in range(rng.choice([1, 1, 3, 20])):
        end = len(content) if rng.random() < 0.4 else min(len(content), 2500)
        flipped[rng.randrange(end)] ^= 1 << rng.randrange(8)
    return bytes(flipped)


# ---- from the hub


@pytest.mark.parametrize(
    "source, name", [("gpt2-medium", "openai-community/gpt2-medium"), ("someone/a-gpt2", "someone/a-gpt2")]
)
def test_what_is_no_folder_is_fetched_from_the_hub(monkeypatch, source, name):
    model, asked = exported(), []
    hub = SimpleNamespace(snapshot_download=lambda *args, **more: asked.append(args) or str(FOLDER.resolve()))
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert same(arrays(load_exported(source)[0].parameters()), arrays(model.parameters()))
    assert asked == [(name,)]


def test_a_hub_that_cannot_be_reached_is_a_sentence_that_says_what_to_put_where(monkeypatch):
    def fail(*arguments, **more):
        raise ConnectionError("no route to host")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=fail))
    with pytest.raises(
        UserError, match="openai-community/gpt2 could not .*no route to host.*its config.json, model.safe"
    ):
        load_exported("gpt2")
    with pytest.raises(
        UserError, match=r"no route to host.*put its tokenizer.json at .*mlx-nanogpt/gpt2/tokenizer.json"
    ):
        gpt2_tokenizer()


@pytest.mark.parametrize("package, use", [
    ("huggingface_hub", lambda: load_exported("gpt2")), ("huggingface_hub", gpt2_tokenizer),
    ("tokenizers", lambda: gpt.BPETokenizer(byte_pairs().to_json())),
])  # fmt: skip
def test_a_package_that_is_missing_is_a_sentence_with_the_command(monkeypatch, package, use):
    byte_pairs()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf'takes the package {package}.* pip install -e "\.\[gpt2\]"'):
        use()


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere", "~/nowhere", "a/b/c"])
def test_a_path_that_is_no_folder_is_not_looked_for_on_the_hub(source):
    with pytest.raises(UserError, match=f"{source} is not a folder"):
        load_exported(source)


def test_gpt2s_byte_pairs_may_be_put_in_the_cache():
    cached = gpt.files.cache_dir() / "gpt2"
    cached.mkdir(parents=True)
    (cached / "tokenizer.json").write_text(byte_pairs().to_json())
    assert gpt2_tokenizer() == byte_pairs()


# ---- Qwen3

QWEN3 = {"untied": MODERN, "tied": MODERN | {"tied": True}}
each_head = pytest.mark.parametrize("changes", QWEN3.values(), ids=QWEN3)


def exported_qwen3(tokenizer=TOKENIZER, **changes) -> gpt.GPT:
    """A model of today, which is also saved in FOLDER."""
    model = lively_model(tiny_gpt(**{"vocab_size": tokenizer.vocab_size} | MODERN | changes))
    export_run(run_of(model, gpt.tokenize(CORPUS, tokenizer)), FOLDER)
    return model


@each_head
def test_weights_are_stored_under_qwen3s_names(changes):
    model = exported_qwen3(**changes)
    stored = mx.load(str(FOLDER / "model.safetensors"))
    own, C, V, W = arrays(model.parameters()), 16, TOKENIZER.vocab_size, model.config.mlp_width
    block = {
        "input_layernorm": (C,), "post_attention_layernorm": (C,), "self_attn.q_norm": (8,), "self_attn.k_norm": (8,),
        "self_attn.q_proj": (C, C), "self_attn.k_proj": (C, C), "self_attn.v_proj": (C, C), "self_attn.o_proj": (C, C),
        "mlp.gate_proj": (W, C), "mlp.up_proj": (W, C), "mlp.down_proj": (C, W),
    }  # fmt: skip
    shapes = {"model.embed_tokens.weight": (V + 1, C), "model.norm.weight": (C,)}
    shapes |= {} if model.config.tied else {"lm_head.weight": (V + 1, C)}
    shapes |= {f"model.layers.{i}.{name}.weight": shape for i in range(2) for name, shape in block.items()}
    assert {name: array.shape for name, array in stored.items()} == shapes
    parts = [stored[f"model.layers.1.self_attn.{part}_proj.weight"] for part in "qkv"]
    assert np.array_equal(np.array(mx.concatenate(parts)), own["h.1.attn.c_attn.weight"])
    assert np.array_equal(np.array(stored["model.layers.0.mlp.up_proj.weight"]), own["h.0.mlp.c_fc.weight"])


@each_head
@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_a_qwen3_comes_back_as_the_same_model_and_tokenizer(changes, kind):
    tokenizer = TOKENIZER if kind == "char" else byte_pairs()
    model = exported_qwen3(tokenizer, **changes)
    back, its_tokenizer = load_exported(str(FOLDER))
    assert its_tokenizer == tokenizer and back.config == model.config
    assert same(arrays(back.parameters()), arrays(model.parameters()))


def test_a_newer_config_keeps_the_rotation_in_a_table():
    model = exported_qwen3()
    config = json.loads((FOLDER / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": config.pop("rope_theta")}
    (FOLDER / "config.json").write_text(json.dumps(config))
    assert same(arrays(load_exported(str(FOLDER))[0].parameters()), arrays(model.parameters()))


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu' and not 'silu'"),
        ({"rms_norm_eps": 1e-6}, "rms_norm_eps is 1e-06 and not 1e-05"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling is {'rope_type': 'yarn'}"),
        ({"rope_theta": 1e6}, "rope_theta is 1000000.0 and not 10000"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type is 'yarn' and not 'default'"),
        ({"num_key_value_heads": 1}, "num_key_value_heads is 1 and not 2"),
        ({"head_dim": 128}, "head_dim is 128 and not 8"),
        ({"intermediate_size": 64}, "intermediate_size is 64 and not 48"),
        ({"num_attention_heads": 3}, "num_attention_heads 3 does not divide its hidden_size 16"),
        ({"num_hidden_layers": 3}, "weights are missing: layers.2"),
        ({"num_hidden_layers": 1}, "weights that Qwen3 does not have: layers.1"),
        ({"tie_word_embeddings": True}, "its head is not tied to the token embedding"),
    ],
)
def test_a_qwen3_of_another_kind_is_refused_with_the_reason(changes, reason):
    exported_qwen3()
    edit(FOLDER / "config.json", **changes)
    with pytest.raises(UserError, match=f"exported .*{reason}"):
        load_exported(str(FOLDER))


# ---- tokens that only other programs need


@pytest.mark.parametrize("changes", [GPT2, MODERN, MODERN | {"tied": True}])
def test_a_trained_model_never_writes_the_token_that_it_has_not_seen(changes):
    run = trained_run(num_iter=60, eval_interval=60, learning_rate=1e-2, **changes)
    stored = store_model(run, best=False)
    theirs = gpt.GPT(
        replace(run.gpt_config, vocab_size=stored.tokens.size, bias=stored.layout.stored_as(run.gpt_config).bias)
    )
    theirs.load_weights(list(stored.weights.items()))
    idx = mx.array([TOKENS[:8].tolist(), TOKENS[50:58].tolist()])
    chances = mx.softmax(theirs(idx), axis=-1)[..., TOKENIZER.vocab_size :]
    assert chances.max().item() < 1 / (2 * stored.tokens.size)  # half of a guess, even of a model as small as this
    assert mx.allclose(theirs(idx)[..., : TOKENIZER.vocab_size], run.load_model()(idx), atol=1e-5)


def test_a_token_that_is_not_written_exists_even_where_all_others_are_frequent():
    letters = "".join(random.Random(1).choices("ACGT", k=4000))
    data = gpt.tokenize(gpt.Corpus(("dna.txt",), letters))
    run = gpt.create_run(tiny_gpt(vocab_size=4, **MODERN), tiny_train(num_iter=40, learning_rate=1e-2), data)
    list(gpt.train(run, data))
    stored = store_model(run, best=False)
    theirs = gpt.GPT(replace(run.gpt_config, vocab_size=5))
    theirs.load_weights(list(stored.weights.items()))
    assert mx.softmax(theirs(mx.array(data.valid_tokens[:80].reshape(10, 8))), axis=-1)[..., 4].mean().item() < 1e-3


def test_many_characters_take_no_more_memory():
    """Not a cache for each of them."""
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 3000)))
    model = gpt.GPT(tiny_gpt(vocab_size=3000, **MODERN))
    mx.eval(model.parameters())
    mx.reset_peak_memory()
    store_model(run_of(model, gpt.tokenize(gpt.Corpus(("many.txt",), text))), best=False)
    assert mx.get_peak_memory() < 500e6


# ---- GGUF


def read_gguf(file: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """The fields of a file, and its tensors, by the package's own reader."""
    reader = pytest.importorskip("gguf").GGUFReader(file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, {tensor.name: np.array(tensor.data) for tensor in reader.tensors}


@pytest.mark.parametrize("changes, arch", [(GPT2, "gpt2"), (MODERN, "qwen3")])
def test_a_gguf_file_holds_the_model(changes, arch):
    model = lively_model(tiny_gpt(**changes))
    export_gguf(run_of(model), Path("new/a.gguf"))
    fields, tensors = read_gguf(Path("new/a.gguf"))
    expected = {
        "general.architecture": arch, "general.name": "a", f"{arch}.context_length": 8, f"{arch}.embedding_length": 16,
        f"{arch}.block_count": 2, f"{arch}.feed_forward_length": model.config.mlp_width, f"{arch}.attention.head_count": 2,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": TOKENIZER.vocab_size,
        "tokenizer.ggml.add_bos_token": False,
    }  # fmt: skip
    assert fields | expected == fields
    assert [spoken(token) for token in fields["tokenizer.ggml.tokens"]] == [*TOKENIZER.symbols, "<|endoftext|>"]
    own = arrays(model.parameters())
    assert np.array_equal(tensors["token_embd.weight"][:-1], own["wte.weight"])
    assert np.array_equal(tensors["blk.1.ffn_down.weight"], own["h.1.mlp.c_proj.weight"])
    queries = "blk.0.attn_q.weight" if arch == "qwen3" else "blk.0.attn_qkv.weight"
    assert np.array_equal(tensors[queries][:16], own["h.0.attn.c_attn.weight"][:16])
    assert sum(tensor.size for tensor in tensors.values()) == model.num_parameters() + 16 * (
        2 if arch == "qwen3" else 1
    )


def test_a_gguf_file_of_learned_byte_pairs_has_their_merges():
    data = gpt.tokenize(CORPUS, vocab_size=280)
    export_gguf(run_of(lively_model(tiny_gpt(vocab_size=280, **MODERN)), data), Path("a.gguf"))
    fields, _ = read_gguf(Path("a.gguf"))
    assert fields["tokenizer.ggml.tokens"][0] == "<|endoftext|>" and fields["tokenizer.ggml.token_type"][:2] == [3, 1]
    assert len(fields["tokenizer.ggml.merges"]) == 280 - 257 and fields["tokenizer.ggml.eos_token_id"] == 0


def test_a_gguf_file_that_exists_is_not_overwritten():
    Path("a.gguf").write_text("precious")
    with pytest.raises(UserError, match="a.gguf exists already"):
        export_gguf(run_of(lively_model(tiny_gpt(**MODERN))), Path("a.gguf"))
    assert Path("a.gguf").read_text() == "precious"


def test_a_gguf_file_that_fails_leaves_nothing_behind(monkeypatch):
    run = run_of(lively_model(tiny_gpt(**MODERN)))
    monkeypatch.setattr(files, "_sync", lambda *_: (_ for _ in ()).throw(OSError("no space left on device")))
    with pytest.raises(UserError, match=r"a.gguf cannot be written \(no space left on device\)"):
        export_gguf(run, Path("a.gguf"))
    assert sorted(each.name for each in Path().iterdir()) == ["play.txt", "runs"]


def test_without_the_package_a_gguf_file_is_a_sentence_with_the_extra(mlx_gpt, monkeypatch):
    run_of(lively_model(tiny_gpt(**MODERN)))
    monkeypatch.setitem(sys.modules, "gguf", None)
    result = mlx_gpt("export", "--gguf", "--out=a.gguf")
    assert result.status == 1 and 'pip install -e ".[gguf]"' in result.err and not Path("a.gguf").exists()


def test_a_folder_is_not_written_under_the_name_of_a_gguf_file(mlx_gpt):
    result = mlx_gpt("export", "--out=a.gguf")
    assert result.status == 1 and "without --gguf a folder is written; give --gguf, too" in result.err


def test_export_writes_a_gguf_file_and_says_how_to_use_it(mlx_gpt):
    trained_run(**MODERN)
    result = mlx_gpt("export", "--gguf", "--out=a.gguf")
    assert result.status == 0 and "llama-completion -m a.gguf" in result.out and Path("a.gguf").stat().st_size > 1000


# ---- a training that starts from weights


def test_a_training_starts_from_the_weights_of_an_exported_model(mlx_gpt):
    model = exported()
    result = mlx_gpt(
        "train", "--data=play.txt", "--init-from=exported", "--num-iter=1", "--learning-rate=1e-9", "--eval-iters=1"
    )
    assert result.status == 0 and "Start     from the weights of exported" in result.out
    run = gpt.newest_run()
    assert run.gpt_config == model.config and run.tokenizer == TOKENIZER and run.init_from == "exported"
    for name, array in arrays(run.load_model().parameters()).items():
        assert np.allclose(array, arrays(model.parameters())[name], atol=1e-6), name


def test_a_training_starts_from_one_of_our_own_runs_whatever_its_shape(mlx_gpt):
    first = trained_run(n_layer=1)
    result = mlx_gpt(
        "train", "--data=play.txt", f"--init-from={first.path}", "--num-iter=4", "--eval-interval=4", "--eval-iters=1"
    )
    assert result.status == 0
    second = gpt.newest_run()
    assert second.gpt_config == first.gpt_config and second.position().iteration == 4
    assert second.history()[0].valid_loss < trained_run(n_layer=1, num_iter=4).history()[0].valid_loss


def test_a_run_without_a_checkpoint_to_start_from_is_a_sentence_with_the_remedy(mlx_gpt):
    untrained = tiny_run()
    result = mlx_gpt("train", "--data=play.txt", f"--init-from={untrained.path}")
    assert result.status == 1 and f"the run {untrained.path} has no checkpoint: none was written yet" in result.err
    assert f"go on with --resume {untrained.path}" in result.err and not Path("runs/2").exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"gpt": 1}', "[" * 100_000, "\udcff"])
def test_a_folder_whose_config_is_none_is_no_run(content):
    FOLDER.mkdir()
    (FOLDER / "config.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match="exported holds no model in the layout of GPT-2"):
        gpt.load_pretrained(str(FOLDER))


def test_a_started_run_that_is_stopped_and_resumed_ends_as_if_it_never_stopped(mlx_gpt):
    model = exported(dropout=0.1)
    run = run_of(model)
    mx.random.seed(99)  # earlier random numbers make no difference
    stopped = run_of(model)
    finish(run)
    finish(stopped, lambda: True)  # before its first step
    assert stopped.position().iteration == 0
    assert mlx_gpt("train", f"--resume={stopped.path}").status == 0
    assert same(checkpoint_arrays(run), checkpoint_arrays(stopped))


def test_a_run_that_a_crash_kept_from_its_weights_does_not_start_without_them(mlx_gpt):
    run = gpt.create_run(tiny_gpt(), tiny_train(), DATA, init_from="exported")
    result = mlx_gpt("train", f"--resume={run.path}")
    assert result.status == 1 and "was to start from the weights of exported" in result.err


def test_dropout_may_be_another_and_the_context_smaller(mlx_gpt):
    model = exported()
    options = ["--dropout=0.25", "--block-size=5", "--n-embd=16", "--bias=all", "--backend=eager"]
    assert mlx_gpt("train", *TINY[4:], "--init-from=exported", *options).status == 0
    run = gpt.newest_run()
    assert asdict(run.gpt_config) == asdict(model.config) | {"dropout": 0.25, "block_size": 5}
    assert run.load_model().wpe.weight.shape == (5, 16)


def test_a_cropped_model_computes_what_the_whole_one_does():
    model = lively_model(tiny_gpt(**GPT2))
    assert np.abs(logits(adapted(model, block_size=5)) - logits(model)).max() < 1e-6


@pytest.mark.parametrize(
    "option, reason",
    [
        ("--n-embd=32", "has n_embd 16, which cannot become 32; leave the option out"),
        ("--head-size=4", "has head_size 8, which cannot become 4"),
        ("--n-layer=6", "has n_layer 2, which cannot become 6"),
        ("--bias=lecture", "has bias all, which cannot become lecture"),
        ("--activation=relu", "has activation gelu, which cannot become relu"),
        ("--no-tied", "has tied True, which cannot become False"),
        ("--block-size=9", "has block_size 8, which cannot become 9; choose a smaller one"),
        ("--tokenizer=char", "--tokenizer and --init-from exclude each other"),
        ("--resume=runs/1", "--init-from and --resume exclude each other"),
        ("--data=other.txt", "the model has never seen 'X'"),
    ],
)
def test_what_contradicts_the_weights_is_a_sentence_and_leaves_nothing_behind(mlx_gpt, option, reason):
    exported()
    Path("other.txt").write_text(TEXT + "X")
    result = mlx_gpt("train", "--data=play.txt", "--init-from=exported", option)
    assert result.status == 1 and result.err.startswith("Error: ") and reason in result.err and result.out == ""
    assert [each.name for each in Path("runs").iterdir()] == ["1"]  # which was exported


def test_a_folder_without_weights_is_a_sentence(mlx_gpt):
    Path("empty").mkdir()
    for command in (["train", "--data=play.txt"], ["generate"]):
        result = mlx_gpt(*command, "--init-from=empty")
        assert result.status == 1 and "empty holds no model in the layout of GPT-2" in result.err


# ---- the command line


def test_generate_samples_from_a_folder_as_from_the_run(mlx_gpt):
    run = trained_run(**GPT2)
    assert mlx_gpt("export", "--out=exported").status == 0
    options = ["--tokens=40", "--prompt=to be", "--temperature=0.7", "--top-k=5"]
    assert mlx_gpt("generate", *options, "--init-from=exported").out == mlx_gpt("generate", *options).out
    both = mlx_gpt("generate", "--init-from=exported", f"--run={run.path}")
    assert both.status == 1 and "--run and --init-from exclude each other" in both.err


def test_export_writes_the_run_that_is_named_and_says_how_to_use_it(mlx_gpt):
    trained_run("first", **GPT2)
    trained_run(**GPT2, seed=9)
    result = mlx_gpt("export", "--run=first", "--best", "--out=some where/exported")
    assert result.status == 0 and "mlx-gpt generate --init-from 'some where/exported'" in result.out
    best = open_run(Path("first")).load_model(best=True)
    assert same(arrays(load_exported("some where/exported")[0].parameters()), arrays(best.parameters()))


def test_the_header_says_whether_a_run_can_be_exported(mlx_gpt):
    assert (
        "Export    not possible; it would be with --tied --activation gelu (a GPT-2), or with --preset modern (a Qwen3)\n"
        in mlx_gpt("train", *TINY).out
    )
    assert "Export    as GPT-2, with mlx-gpt export\n" in mlx_gpt("train", *TINY, *GPT2_OPTIONS).out
    assert mlx_gpt("export", "--run=runs/1", "--out=exported").status == 1
    assert mlx_gpt("export", "--run=runs/2", "--out=exported").status == 0


def test_a_training_on_byte_pairs_writes_and_goes_on(mlx_gpt):
    keep_as_gpt2s(byte_pairs())
    result = mlx_gpt("train", *TINY, "--tokenizer=gpt2")
    assert result.status == 0 and f"{len(TEXT):,} characters in " in result.out and "vocabulary 301" in result.out
    run = gpt.newest_run()
    assert run.tokenizer == byte_pairs() and run.gpt_config.vocab_size == 301
    assert mlx_gpt("train", "--resume=runs/1", "--num-iter=6").status == 0
    assert mlx_gpt("generate", "--tokens=5", "--prompt=né 🦓").out.startswith("né 🦓")
    bad = mlx_gpt("generate", "--prompt=a\udcff")
    assert bad.status == 1 and "has never seen '\\udcff'" in bad.err
