"""A GGUF file holds the model and its tokens; and no export overwrites, or leaves half a file behind."""

import sys
from pathlib import Path

import mlx_nanogpt as gpt
import mlx.core as mx
import numpy as np
import pytest
from mlx_nanogpt import UserError, export_gguf, export_run, files
from conftest import CORPUS, MODERN, TOKENIZER, arrays, lively_model, tiny_gpt, trained_run
from exports import FOLDER, GPT2, run_for, run_of
from mlx_nanogpt.text.byte_pairs import unspell

FILE = Path("a.gguf")


def read_gguf(file: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """The fields of a file, and its tensors, by the package's own reader."""
    reader = pytest.importorskip("gguf").GGUFReader(file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, {tensor.name: np.array(tensor.data) for tensor in reader.tensors}


@pytest.mark.parametrize("settings, arch", [(GPT2, "gpt2"), (MODERN, "qwen3")])
def test_a_gguf_file_holds_the_model(settings, arch):
    model = lively_model(tiny_gpt(**settings))
    export_gguf(run_of(model), Path("new/a.gguf"))
    fields, tensors = read_gguf(Path("new/a.gguf"))
    expected = {
        "general.architecture": arch, "general.name": "a", f"{arch}.context_length": 8, f"{arch}.embedding_length": 16,
        f"{arch}.block_count": 2, f"{arch}.feed_forward_length": model.config.mlp_width, f"{arch}.attention.head_count": 2,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": TOKENIZER.vocab_size,
        "tokenizer.ggml.add_bos_token": False,
    }  # fmt: skip
    assert fields | expected == fields
    assert [unspell(token) for token in fields["tokenizer.ggml.tokens"]] == [*TOKENIZER.symbols, "<|endoftext|>"]
    own = arrays(model.parameters())
    assert np.array_equal(tensors["token_embd.weight"][:-1], own["wte.weight"])
    assert np.array_equal(tensors["blk.1.ffn_down.weight"], own["h.1.mlp.c_proj.weight"])
    queries = "blk.0.attn_q.weight" if arch == "qwen3" else "blk.0.attn_qkv.weight"
    assert np.array_equal(tensors[queries][:16], own["h.0.attn.c_attn.weight"][:16])
    unseen_rows = 2 if arch == "qwen3" else 1
    assert sum(tensor.size for tensor in tensors.values()) == model.num_parameters() + 16 * unseen_rows


def test_a_gguf_file_of_learned_byte_pairs_has_their_merges():
    data = gpt.tokenize(CORPUS, vocab_size=280)
    export_gguf(run_of(lively_model(tiny_gpt(vocab_size=280, **MODERN)), data), FILE)
    fields, _ = read_gguf(FILE)
    assert fields["tokenizer.ggml.tokens"][0] == "<|endoftext|>" and fields["tokenizer.ggml.token_type"][:2] == [3, 1]
    assert len(fields["tokenizer.ggml.merges"]) == 280 - 257 and fields["tokenizer.ggml.eos_token_id"] == 0


@pytest.mark.parametrize("export, out", [(export_run, FOLDER), (export_gguf, FILE)])
@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("nowhere")])
def test_an_export_overwrites_nothing(make, export, out):
    run = run_for(**GPT2)
    make(out)
    with pytest.raises(UserError, match=f"{out} exists already"):
        export(run, out)
    assert out.is_symlink() or out.is_dir() or out.read_bytes() == b""


@pytest.mark.parametrize(
    "export, module, name",
    [(export_run, mx, "save_safetensors"), (export_run, mx, "contiguous"), (export_gguf, files, "_sync")],
)
def test_an_export_that_fails_leaves_nothing_behind(monkeypatch, export, module, name):
    run = run_for(**GPT2)

    def fail(*arguments):
        raise (RuntimeError if module is mx else OSError)("no space left on device")

    monkeypatch.setattr(module, name, fail)
    with pytest.raises(UserError, match=r"out cannot be written \(no space left on device\)"):
        export(run, Path("out"))
    assert sorted(file.name for file in Path().iterdir()) == ["play.txt", "runs"]


def test_an_export_without_memory_is_not_called_unwritable(monkeypatch):
    run = run_for(**GPT2)

    def fail(*arguments):
        raise RuntimeError("[malloc_or_wait] Unable to allocate 9 bytes.")

    monkeypatch.setattr(mx, "save_safetensors", fail)
    with pytest.raises(RuntimeError, match="Unable to allocate"):
        export_run(run, FOLDER)


# ---- the command line


def test_without_the_package_a_gguf_file_is_a_sentence_with_the_extra(mlx_gpt, monkeypatch):
    run_for(**MODERN)
    monkeypatch.setitem(sys.modules, "gguf", None)
    result = mlx_gpt("export", "--gguf", "--out=a.gguf")
    assert result.status == 1 and 'pip install -e ".[gguf]"' in result.err and not FILE.exists()


def test_a_folder_is_not_written_under_the_name_of_a_gguf_file(mlx_gpt):
    result = mlx_gpt("export", "--out=a.gguf")
    assert result.status == 1 and "without --gguf a folder is written; give --gguf, too" in result.err


def test_export_writes_a_gguf_file_and_prints_how_to_use_it(mlx_gpt):
    trained_run(**MODERN)
    result = mlx_gpt("export", "--gguf", "--out=a.gguf")
    assert result.status == 0 and "llama-completion -m a.gguf" in result.out and FILE.stat().st_size > 1000
