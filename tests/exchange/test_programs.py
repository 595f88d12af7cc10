"""Exports in the programs that open them, where these are installed: transformers, mlx_lm, llama.cpp.

pip install -e ".[test,gpt2,test-exchange]"
python -m pytest -m programs -v        # a step beside the suite; the table of cli/README.md is of this
"""

import importlib
import itertools
import json
import random
import sys
from pathlib import Path

import mlx_nanogpt as gpt
import mlx.core as mx
import numpy as np
import pytest
from mlx_nanogpt import CharTokenizer, export_gguf, export_run
from conftest import CORPUS, MODERN, TEXT, byte_pairs, lively_model, tiny_gpt, tiny_train
from exports import FOLDER, GPT2, TIED, run_of
from mlx_nanogpt.exchange.pretrained import load_exported
from mlx_nanogpt.text.tokenizer import encode_prompt

pytestmark = [pytest.mark.programs, pytest.mark.filterwarnings("default"), pytest.mark.slow]
MODELS = {"gpt2": GPT2, "qwen3": MODERN, "qwen3-tied": TIED}
AGAIN, GGUF = Path("again"), Path("model.gguf")
PROMPT = "to be or"
COUNT = 12
each_model = pytest.mark.parametrize("kind", MODELS)
each_tokenizer = pytest.mark.parametrize("tokens", ["char", "bpe"])


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_VERBOSITY"):
        monkeypatch.setenv(name, "1" if name == "HF_HUB_OFFLINE" else "error")


def run_for(kind: str, tokens: str, folder: Path) -> gpt.Run:
    """A run whose model has random weights, which decide for a token clearly."""
    tokenizer = CharTokenizer.of(TEXT + "é🦓\t") if tokens == "char" else byte_pairs()
    shape = {"vocab_size": tokenizer.vocab_size, "block_size": 32, "n_embd": 64, "head_size": 16}
    model = lively_model(tiny_gpt(**shape | MODELS[kind]))
    return run_of(model, gpt.tokenize(CORPUS, tokenizer), folder)


@pytest.fixture
def run(kind, tokens):
    run = run_for(kind, tokens, Path("run"))
    export_run(run, FOLDER)
    return run


def ids_of(run: gpt.Run) -> list[int]:
    return run.tokenizer.encode(PROMPT).tolist()


def logits(model, run: gpt.Run) -> np.ndarray:
    """Of all of our own tokens after each token of the prompt."""
    return np.array(model(mx.array([ids_of(run)])))[..., : run.tokenizer.vocab_size]


def greedy(run: gpt.Run) -> list[int]:
    return list(gpt.generate(run.load_model(), ids_of(run), COUNT, seed=0, sample=gpt.make_sampler(temperature=0)))


def assert_the_same(folder: Path, run: gpt.Run) -> None:
    """`folder` comes back here as the model and the tokenizer of `run`."""
    model, tokenizer = load_exported(str(folder))
    assert tokenizer == run.tokenizer
    assert np.abs(logits(model, run) - logits(run.load_model(), run)).max() < 1e-3


# ---- transformers


@pytest.fixture
def transformers():
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    return transformers


@each_model
@each_tokenizer
def test_transformers_computes_the_same_and_saves_what_comes_back(transformers, run):
    import torch

    theirs = transformers.AutoModelForCausalLM.from_pretrained(FOLDER)
    ids = torch.tensor([ids_of(run)])
    found = theirs(ids).logits.detach().numpy()[..., : run.tokenizer.vocab_size]
    assert np.abs(found - logits(run.load_model(), run)).max() < 1e-3
    continued = theirs.generate(ids, max_new_tokens=COUNT, do_sample=False)
    assert continued[0, ids.shape[1] :].tolist() == greedy(run)
    theirs.save_pretrained(AGAIN)
    transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(AGAIN)
    assert_the_same(AGAIN, run)


@each_tokenizer
def test_transformers_reads_any_text_as_we_do(transformers, tokens):
    run = run_for("qwen3", tokens, Path("run"))
    export_run(run, FOLDER)
    theirs = transformers.AutoTokenizer.from_pretrained(FOLDER)
    for text in ["", "to be", "\n\n  or not\n", "that is the question , nobler ?\n", "né\t🦓🦓 \n"]:
        ids = run.tokenizer.encode(text).tolist()
        assert theirs.encode(text) == ids and theirs.decode(ids) == text
    assert theirs.eos_token == "<|endoftext|>" and theirs.model_max_length == 32
    if tokens == "char":
        assert theirs.encode("to Z") == [*run.tokenizer.encode("to "), theirs.eos_token_id]  # an unknown token


@each_model
@each_tokenizer
def test_a_text_of_transformers_ends_where_the_context_does(transformers, run):
    import torch

    theirs = transformers.AutoModelForCausalLM.from_pretrained(FOLDER)
    assert theirs.generate(torch.tensor([ids_of(run)]), do_sample=False).shape[1] <= 32


@pytest.mark.parametrize("shard_size", ["1GB", "20KB"])
def test_a_model_of_transformers_is_the_same_here(transformers, shard_size):
    import torch

    torch.manual_seed(3)
    shape = {"vocab_size": 301, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 4}
    config = transformers.GPT2Config(**shape, bos_token_id=0, eos_token_id=0)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    theirs.save_pretrained(FOLDER, max_shard_size=shard_size)
    (FOLDER / "tokenizer.json").write_text(byte_pairs().to_json())
    assert (FOLDER / "model.safetensors").exists() == (shard_size == "1GB")
    ours, tokenizer = load_exported(str(FOLDER))
    ids = tokenizer.encode("to be or not").tolist()[:8]
    expected = theirs(torch.tensor([ids])).logits.detach().numpy()
    assert expected.std() > 0.3 and np.abs(np.array(ours(mx.array([ids]))) - expected).max() < 1e-4


# ---- mlx_lm


@pytest.fixture
def mlx_lm():
    return pytest.importorskip("mlx_lm")


@each_model
@each_tokenizer
def test_mlx_lm_writes_the_same_and_converts_what_comes_back(mlx_lm, run):
    theirs, tokenizer = mlx_lm.load(str(FOLDER))
    assert np.abs(logits(theirs, run) - logits(run.load_model(), run)).max() < 1e-3
    steps = list(mlx_lm.stream_generate(theirs, tokenizer, PROMPT, max_tokens=COUNT))
    assert [step.token for step in steps] == greedy(run)
    if isinstance(run.tokenizer, CharTokenizer):  # of byte pairs, a random model writes bytes that are no text
        assert "".join(step.text for step in steps) == run.tokenizer.decode(greedy(run))
    mlx_lm.convert(str(FOLDER), str(AGAIN), dtype="float32")
    assert_the_same(AGAIN, run)


def test_a_student_opens_in_both(transformers, mlx_lm):
    import torch

    teacher = run_for("qwen3", "char", Path("teacher"))
    data = gpt.tokenize(CORPUS, teacher.tokenizer)
    student = gpt.create_run(
        teacher.gpt_config, tiny_train(learning_rate=0.1), data, Path("student"), teachers=[teacher]
    )
    assert list(gpt.train(student, data))
    export_run(student, FOLDER)
    expected = logits(student.load_model(), student)
    found, _ = mlx_lm.load(str(FOLDER))
    assert np.abs(logits(found, student) - expected).max() < 1e-3
    found = transformers.AutoModelForCausalLM.from_pretrained(FOLDER)
    found = found(torch.tensor([ids_of(student)])).logits.detach().numpy()[..., : student.tokenizer.vocab_size]
    assert np.abs(found - expected).max() < 1e-3


@each_model
@each_tokenizer
def test_mlx_lm_begins_and_ends_a_document_as_we_do(mlx_lm, kind, tokens):
    corpus = gpt.Corpus(("names.txt",), "\0to be\0or not\0that is\0", documents="lines")
    tokenizer = CharTokenizer.of(corpus.text) if tokens == "char" else byte_pairs().with_marks()
    shape = {"vocab_size": tokenizer.vocab_size, "block_size": 32, "n_embd": 64, "head_size": 16}
    run = run_of(lively_model(tiny_gpt(**shape | MODELS[kind])), gpt.tokenize(corpus, tokenizer), Path("run"))
    export_run(run, FOLDER)
    model, likeliest = run.load_model(), gpt.make_sampler(temperature=0)
    theirs, their_tokenizer = mlx_lm.load(str(FOLDER))
    ended = 0
    for prompt in {character for character in corpus.text if character != "\0"}:
        ids = encode_prompt(tokenizer, prompt)
        ours = list(gpt.generate(model, ids, 28, seed=0, sample=likeliest, end=tokenizer.end_token))
        *steps, last = mlx_lm.stream_generate(theirs, their_tokenizer, prompt, max_tokens=28)
        ended += last.finish_reason == "stop"
        assert [step.token for step in [*steps, last]][: len(ours)] == ours
        assert (last.token == tokenizer.end_token) == (last.finish_reason == "stop") == (len(ours) < 28)
    assert ended or kind != "qwen3", "no text came to its end"


@each_model
def test_mlx_lm_quantises_it(mlx_lm, kind):
    run = run_for(kind, "char", Path("run"))
    export_run(run, FOLDER)
    mlx_lm.convert(str(FOLDER), str(AGAIN), quantize=True, q_bits=8, q_group_size=64)
    theirs, _ = mlx_lm.load(str(AGAIN))
    own = logits(run.load_model(), run)
    assert 0 < np.abs(logits(theirs, run) - own).max() < 0.1 * np.abs(own).max()
    with pytest.raises(gpt.UserError, match="again .*(does not have|holds|shape)"):
        load_exported(str(AGAIN))


@each_model
@each_tokenizer
def test_mlx_lm_fine_tunes_it_and_the_result_comes_back(mlx_lm, run, monkeypatch):
    Path("data").mkdir()
    rng = random.Random(0)
    for split in ("train", "valid"):
        starts = [rng.randrange(len(TEXT) - 60) for _ in range(16)]
        lines = [json.dumps({"text": TEXT[start : start + 24]}) for start in starts]
        Path(f"data/{split}.jsonl").write_text("\n".join(lines) + "\n")
    command = "--model exported --train --data data --iters 3 --batch-size 2 --num-layers 2 --max-seq-length 32 --adapter-path a"
    call("mlx_lm.lora", command, monkeypatch)
    call("mlx_lm.fuse", "--model exported --adapter-path a --save-path again", monkeypatch)
    model, tokenizer = load_exported(str(AGAIN))
    moved = np.abs(logits(model, run) - logits(run.load_model(), run)).max()
    assert tokenizer == run.tokenizer and 0 < moved < 10


def call(module: str, arguments: str, monkeypatch) -> None:
    """Run a command of mlx_lm in this process."""
    monkeypatch.setattr(sys, "argv", [module, *arguments.split()])
    importlib.import_module(module).main()


# ---- llama.cpp


@each_model
@each_tokenizer
def test_llama_cpp_writes_the_same(kind, tokens):
    llama_cpp = pytest.importorskip("llama_cpp")
    run = run_for(kind, tokens, Path("run"))
    export_gguf(run, GGUF)
    exact = llama_cpp.GGML_TYPE_F32  # of the cache; it rounds to 16 bits by itself
    theirs = llama_cpp.Llama(str(GGUF), n_ctx=32, verbose=False, type_k=exact, type_v=exact)
    assert theirs.tokenize(PROMPT.encode(), add_bos=False) == ids_of(run)
    assert theirs.tokenize("é🦓".encode(), add_bos=False) == run.tokenizer.encode("é🦓").tolist()
    written = theirs.generate(ids_of(run), temp=0, repeat_penalty=1.0)
    assert list(itertools.islice(written, COUNT)) == greedy(run)
