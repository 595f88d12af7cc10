"""A run starts from the weights of a run or an export and keeps their model; exports work from the command line."""

from dataclasses import asdict
from pathlib import Path

import mlx_nanogpt as gpt
import mlx.core as mx
import numpy as np
import pytest
from mlx_nanogpt import open_run
from conftest import (
    DATA,
    TEXT,
    TINY,
    TOKENIZER,
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
)
from exports import GPT2, comes_back_as, exported, logits, run_of
from mlx_nanogpt.model import adapt

START = ["train", "--data=play.txt", "--init-from=exported"]


def test_a_run_starts_from_the_weights_of_an_exported_model(mlx_gpt):
    model = exported()
    result = mlx_gpt(*START, "--num-iter=1", "--learning-rate=1e-9", "--eval-iters=1")
    assert result.status == 0 and "Start     from the weights of exported" in result.out
    run = gpt.newest_run()
    assert run.gpt_config == model.config and run.tokenizer == TOKENIZER and run.init_from == "exported"
    for name, array in arrays(run.load_model().parameters()).items():
        assert np.allclose(array, arrays(model.parameters())[name], atol=1e-6), name


def test_a_run_starts_from_one_of_our_own_runs_of_any_shape(mlx_gpt):
    first = trained_run(n_layer=1)
    short = ["--num-iter=4", "--eval-interval=4", "--eval-iters=1"]
    result = mlx_gpt("train", "--data=play.txt", "--init-from=1", *short)
    assert result.status == 0 and "from the weights of runs/1: play.txt, iteration 8 of 8, best weights" in result.out
    second = gpt.newest_run()
    assert second.gpt_config == first.gpt_config and second.position().iteration == 4
    assert second.history()[0].valid_loss < trained_run(n_layer=1, num_iter=4).history()[0].valid_loss


def test_a_run_without_a_checkpoint_to_start_from_is_a_sentence_with_the_remedy(mlx_gpt):
    untrained = tiny_run()
    result = mlx_gpt("train", "--data=play.txt", f"--init-from={untrained.path}")
    assert result.status == 1 and f"the run {untrained.path} has no checkpoint: none was written yet" in result.err
    assert f"--resume {untrained.path}" in result.err and not Path("runs/2").exists()


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


def test_a_cropped_model_computes_the_same_as_the_whole_one():
    model = lively_model(tiny_gpt(**GPT2))
    assert np.abs(logits(adapt(model, block_size=5)) - logits(model)).max() < 1e-6


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
        (
            "--data=other.txt",
            "the model has never seen 'X', 1 of the 8,398 characters of play.txt + other.txt; leave them out of the text, or train a new model with --tokenizer bpe",
        ),
    ],
)
def test_an_option_that_contradicts_the_weights_is_a_sentence_and_leaves_nothing_behind(mlx_gpt, option, reason):
    exported()
    tiny_run()
    Path("other.txt").write_text(TEXT + "X")
    result = mlx_gpt(*START, option)
    assert result.status == 1 and result.err.startswith("Error: ") and reason in result.err and result.out == ""
    assert [path.name for path in Path("runs").iterdir()] == ["1"]


def test_a_folder_without_weights_is_a_sentence(mlx_gpt):
    Path("empty").mkdir()
    for command in (["train", "--data=play.txt"], ["generate"]):
        result = mlx_gpt(*command, "--init-from=empty")
        assert result.status == 1 and "empty holds no model in the layout of GPT-2" in result.err


# ---- exports


def test_generate_samples_from_a_folder_as_from_the_run(mlx_gpt):
    run = trained_run(**GPT2)
    assert mlx_gpt("export", "--out=exported").status == 0
    options = ["--tokens=40", "--prompt=to be", "--temperature=0.7", "--top-k=5", "--seed=3"]
    assert mlx_gpt("generate", *options, "--init-from=exported").out == mlx_gpt("generate", *options).out
    both = mlx_gpt("generate", "--init-from=exported", run.path)
    assert both.status == 1 and "a run and --init-from exclude each other" in both.err


def test_export_writes_the_run_that_is_named_and_prints_how_to_use_it(mlx_gpt):
    trained_run("first", **GPT2)
    trained_run(**GPT2, seed=9)
    result = mlx_gpt("export", "first", "--out=some where/exported")
    assert result.status == 0 and "mlx-gpt generate --init-from 'some where/exported'" in result.out
    assert (
        "Written: some where/exported, a GPT-2 in float32, from first: play.txt, iteration 8 of 8, best weights."
        in result.out
    )
    assert comes_back_as(open_run(Path("first")).load_model(), "some where/exported")


def test_export_checks_its_target_before_it_loads_anything(mlx_gpt, monkeypatch):
    trained_run(**GPT2)
    monkeypatch.setattr(gpt.Run, "load_model", lambda *_: pytest.fail("the model was loaded"))
    for out, reason in (
        ("play.txt", "play.txt exists already"),
        ("play.txt/x", "play.txt is no folder, or is read-only"),
    ):
        for kind in ([], ["--gguf"]):
            result = mlx_gpt("export", f"--out={out}", *kind)
            assert result.status == 1 and reason in result.err


def test_an_export_in_the_place_of_a_run_is_answered_with_the_option(mlx_gpt):
    exported()
    result = mlx_gpt("generate", "exported")
    assert result.status == 1 and "exported holds an exported model and no run; name it with --init-from" in result.err


@pytest.mark.parametrize(
    "options, export, status",
    [
        ([], "not possible; it would be with --tied --activation gelu (a GPT-2), or with --preset modern (a Qwen3)", 1),
        (["--bias=all", "--tied", "--activation=gelu"], "as GPT-2, with mlx-gpt export", 0),
    ],
)
def test_the_header_states_whether_a_run_can_be_exported(mlx_gpt, options, export, status):
    assert f"Export    {export}\n" in mlx_gpt("train", *TINY, *options).out
    assert mlx_gpt("export", "runs/1", "--out=exported").status == status


def test_a_run_on_byte_pairs_writes_and_resumes(mlx_gpt):
    keep_as_gpt2s(byte_pairs())
    result = mlx_gpt("train", *TINY, "--tokenizer=gpt2")
    assert result.status == 0 and f"{len(TEXT):,} characters in " in result.out and "vocabulary 301" in result.out
    run = gpt.newest_run()
    assert run.tokenizer == byte_pairs() and run.gpt_config.vocab_size == 301
    assert mlx_gpt("train", "--resume=runs/1", "--num-iter=6").status == 0
    assert mlx_gpt("generate", "--tokens=5", "--prompt=né 🦓").out.startswith("né 🦓")
    bad = mlx_gpt("generate", "--prompt=a\udcff")
    assert bad.status == 1 and "has never seen '\\udcff'" in bad.err
