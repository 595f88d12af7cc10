"""Exports in the layouts of GPT-2 and Qwen3 come back as the same model; a model that does not fit is refused with the reason."""

import json
import random
from dataclasses import replace
from pathlib import Path

import mlx_nanogpt as gpt
import mlx.core as mx
import numpy as np
import pytest
from mlx_nanogpt import UserError, export_run
from conftest import (
    CORPUS,
    DATA,
    MODERN,
    TOKENIZER,
    TOKENS,
    WHOLE,
    arrays,
    byte_pairs,
    frees_at_once,
    lively_model,
    tiny_gpt,
    tiny_train,
    trained_run,
    worsened_run,
)
from exports import FOLDER, GPT2, TIED, comes_back_as, exported, logits, run_for, run_of
from mlx_nanogpt.exchange import unseen
from mlx_nanogpt.exchange.export import store_model
from mlx_nanogpt.exchange.pretrained import load_exported

SETTINGS = [GPT2, GPT2 | {"bias": "lecture"}, GPT2 | {"bias": "none"}, MODERN, TIED]
IDS = ["gpt2", "gpt2-lecture", "gpt2-none", "qwen3", "qwen3-tied"]


def test_an_exported_folder_has_all_parts_and_nothing_else_is_left():
    export_run(run_for(**GPT2), FOLDER)
    names = {"README.md", "config.json", "generation_config.json", "model.safetensors"}
    assert {file.name for file in FOLDER.iterdir()} == names | {"tokenizer.json", "tokenizer_config.json"}
    assert sorted(file.name for file in Path().iterdir()) == ["exported", "play.txt", "runs"]


@pytest.mark.parametrize("bias", ["all", "lecture", "none"])
def test_weights_have_gpt2s_names_and_shapes_and_every_bias(bias):
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


@pytest.mark.parametrize("settings", [MODERN, TIED])
def test_weights_have_qwen3s_names_and_shapes(settings):
    model = exported(settings)
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


@pytest.mark.parametrize("settings", SETTINGS, ids=IDS)
@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_an_exported_model_and_its_tokenizer_come_back(settings, kind):
    tokenizer = TOKENIZER if kind == "char" else byte_pairs()
    model = exported(settings, tokenizer)
    back, its_tokenizer = load_exported(str(FOLDER))
    bias = "none" if settings["activation"] == "swiglu" else "all"  # GPT-2 has all, here zeros
    assert its_tokenizer == tokenizer and back.config == replace(model.config, bias=bias)
    assert np.abs(logits(back) - logits(model)).max() < 1e-5
    assert settings["bias"] != bias or comes_back_as(model)


def test_any_characters_come_back():
    data = gpt.tokenize(gpt.Corpus(("odd.txt",), "\t\n \"'\\{}[]aé€日🦓\u0301\u2028\ufeff\x7f"))
    export_run(run_of(lively_model(tiny_gpt(vocab_size=data.tokenizer.vocab_size, **GPT2)), data), FOLDER)
    assert load_exported(str(FOLDER))[1] == data.tokenizer


def test_config_json_describes_a_gpt2():
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
    exported(tokenizer=tokenizer)
    config, of_tokenizer = (
        json.loads((FOLDER / name).read_text()) for name in ("config.json", "tokenizer_config.json")
    )
    assert config["bos_token_id"] == config["eos_token_id"] == tokenizer.vocab_size - 1
    assert of_tokenizer["clean_up_tokenization_spaces"] is False  # transformers 4 would
    assert of_tokenizer["bos_token"] == of_tokenizer["eos_token"] == "<|endoftext|>"


@pytest.mark.parametrize("last", [False, True])
def test_the_last_or_the_best_weights_are_exported_with_their_facts(last):
    run = worsened_run(**GPT2)
    history = run.history()
    evaluation = history[-1] if last else min(history, key=lambda found: found.valid_loss)
    export_run(run, FOLDER, last)
    assert comes_back_as(run.load_model(last))
    card = (FOLDER / "README.md").read_text()
    for fact in (
        f"for {evaluation.iteration} iterations of 4 windows", f"{run.load_model().num_parameters():,} |", "play.txt",
        CORPUS.identity.sha256, f"Loss at iteration {evaluation.iteration},",
        f"{evaluation.train_loss:.4f} in training, {evaluation.valid_loss:.4f} in validation",
    ):  # fmt: skip
        assert fact in card


@pytest.mark.parametrize(
    "init_from, origin", [("/home/someone/mine", "of mine."), ("someone/a-gpt2", "of someone/a-gpt2.")]
)
def test_the_card_names_its_origin_but_no_folder_of_the_user(init_from, origin):
    data = replace(DATA, corpus=replace(DATA.corpus, sources=("/home/someone/play.txt",)))
    run = replace(run_of(lively_model(tiny_gpt(**GPT2)), data), init_from=init_from)
    export_run(run, FOLDER)
    card = (FOLDER / "README.md").read_text()
    assert f"started from the weights {origin}" in card and "| play.txt |" in card and "/home" not in card


@pytest.mark.parametrize(
    "changes, obstacles, remedy",
    [
        ({}, "tied False, activation relu", "`tied` `activation` gelu"),
        ({"tied": True}, "activation relu", "`activation` gelu"),
        ({"activation": "gelu"}, "tied False", "`tied`"),
        ({"activation": "gelu", "qk_norm": True}, "tied False, qk_norm True", "`tied` `no_qk_norm`"),
    ],
)
def test_a_model_that_no_layout_holds_is_refused_with_the_remedy(changes, obstacles, remedy):
    run = trained_run(**changes)
    with pytest.raises(UserError, match=f"{obstacles}.* {remedy}"):
        export_run(run, FOLDER)
    assert not FOLDER.exists()


# ---- tokens that only other programs need


@pytest.fixture
def many_texts(monkeypatch):
    monkeypatch.setattr(unseen, "SAMPLED", WHOLE[unseen, "SAMPLED"])


@pytest.mark.parametrize("settings", [GPT2, MODERN, TIED])
def test_a_trained_model_never_writes_the_token_that_it_has_not_seen(many_texts, settings):
    run = trained_run(n_layer=2, num_iter=60, eval_interval=60, learning_rate=1e-2, **settings)
    stored = store_model(run)
    theirs = gpt.GPT(replace(stored.layout.stored_as(run.gpt_config), vocab_size=stored.tokens.size))
    theirs.load_weights(list(stored.weights.items()))
    idx = mx.array([TOKENS[:8].tolist(), TOKENS[50:58].tolist()])
    chances = mx.softmax(theirs(idx), axis=-1)[..., TOKENIZER.vocab_size :]
    assert chances.max().item() < 1 / (2 * stored.tokens.size)  # half of a guess, even of a model as small as this
    assert mx.allclose(theirs(idx)[..., : TOKENIZER.vocab_size], run.load_model()(idx), atol=1e-5)


def test_the_unseen_token_is_rare_even_where_all_others_are_frequent(many_texts):
    letters = "".join(random.Random(1).choices("ACGT", k=4000))
    data = gpt.tokenize(gpt.Corpus(("dna.txt",), letters))
    run = gpt.create_run(tiny_gpt(vocab_size=4, **MODERN), tiny_train(num_iter=40, learning_rate=1e-2), data)
    list(gpt.train(run, data))
    stored = store_model(run)
    theirs = gpt.GPT(replace(run.gpt_config, vocab_size=5))
    theirs.load_weights(list(stored.weights.items()))
    assert mx.softmax(theirs(mx.array(data.valid_tokens[:80].reshape(10, 8))), axis=-1)[..., 4].mean().item() < 1e-3


@frees_at_once
def test_the_memory_of_an_export_does_not_grow_with_the_number_of_characters(many_texts):
    """No cache for each of them."""
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 1500)))
    model = gpt.GPT(tiny_gpt(vocab_size=1500, **MODERN))
    mx.eval(model.parameters())
    mx.reset_peak_memory()
    store_model(run_of(model, gpt.tokenize(gpt.Corpus(("many.txt",), text))))
    assert mx.get_peak_memory() < 125e6
