"""Presets and settings files hold, options replace their values, and the settings of a run repeat it."""

import re
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import pytest
from mlx_nanogpt import PRESETS, GPTConfig, TrainConfig, open_run
from conftest import (
    TEXT,
    TINY,
    TOKENIZER,
    byte_pairs,
    checkpoint_arrays,
    finish,
    in_a_process,
    keep_as_gpt2s,
    same,
    tiny_run,
)
from helpers import HOST, NO_CORPUS, is_a_sentence, read_settings
from mlx_nanogpt.config_file import KEYS, read_config_file, write_config_file
from mlx_nanogpt.presets import Preset
from mlx_nanogpt.runs import run as run_module

DEFAULTS = asdict(GPTConfig()) | asdict(TrainConfig())
SMALL = {"n_layer": 1, "n_embd": 12, "head_size": 6, "block_size": 8, "batch_size": 2, "num_iter": 2, "tied": True}
SMALL |= {"eval_iters": 1, "lr_decay_iters": 2, "warmup_iters": 1, "optimizer": "muon", "muon_lr": 0.03}
SMALL |= {"gradient_accumulation_steps": 2, "backend": "eager"}


@pytest.fixture(autouse=True)
def small_preset(monkeypatch):
    """A preset that a test can train."""
    monkeypatch.setitem(PRESETS, "small", Preset("quick", SMALL))


def same_runs(*numbers: int) -> bool:
    return same(*(checkpoint_arrays(open_run(Path(f"runs/{number}"))) for number in numbers))


@pytest.mark.parametrize(
    "options, changes",
    [
        ("--n-embd=18 --no-tied --seed=3 --eval-iters=2", {"n_embd": 18, "tied": False, "seed": 3, "eval_iters": 2}),
        # the rate falls until the last iteration, however many there are
        ("--num-iter=3", {"num_iter": 3, "lr_decay_iters": 3}),
        ("--num-iter=3 --lr-decay-iters=7", {"num_iter": 3, "lr_decay_iters": 7}),
        # another optimizer takes the preset's rate of Muon away
        ("--optimizer=adam", {"optimizer": "adam", "muon_lr": TrainConfig.muon_lr}),
        # even a default replaces the preset's value
        (f"--batch-size={TrainConfig.batch_size}", {"batch_size": TrainConfig.batch_size}),
    ],
)
def test_a_preset_holds_and_options_replace_its_values(mlx_gpt, options, changes):
    result = mlx_gpt("train", "--preset=small", "--data=play.txt", *options.split())
    assert result.status == 0 and result.out.startswith("mlx-gpt train --preset small\n")
    given = changes | {"vocab_size": TOKENIZER.vocab_size, "sources": ["play.txt"]}
    assert read_settings() == DEFAULTS | SMALL | given


def test_a_file_holds_and_options_replace_its_values(mlx_gpt):
    settings = SMALL | {"learning_rate": 0.002}
    Path("my file.toml").write_text(write_config_file(settings | {"data": ["nowhere.txt"]}))
    options = ["--num-iter=3", "--no-tied", "--dropout=0.5", "--data=play.txt"]
    result = mlx_gpt("train", "--config=my file.toml", *options)
    assert result.status == 0 and result.out.startswith("mlx-gpt train --config 'my file.toml'\n")
    given = {"num_iter": 3, "tied": False, "dropout": 0.5, "vocab_size": TOKENIZER.vocab_size, "sources": ["play.txt"]}
    # a rate that falls until the last iteration of the file does so with another number, too
    assert settings["lr_decay_iters"] == settings["num_iter"] == 2
    assert read_settings() == DEFAULTS | settings | given | {"lr_decay_iters": 3}


def test_a_text_that_a_file_asks_for_by_name_is_not_replaced(mlx_gpt):
    Path("mine.toml").write_text('data = "tinyshakespeare"')
    result = mlx_gpt("train", *NO_CORPUS, "--config=mine.toml")
    assert is_a_sentence(result) and HOST in result.err and not Path("runs").exists()


def test_an_option_may_complete_the_settings_of_a_file(mlx_gpt):
    Path("mine.toml").write_text("n_embd = 20\n")
    assert is_a_sentence(mlx_gpt("train", "--data=play.txt", "--config=mine.toml"))
    small = ["--n-layer=1", "--block-size=8", "--num-iter=2", "--eval-iters=1"]
    assert mlx_gpt("train", "--data=play.txt", "--config=mine.toml", "--head-size=10", *small).status == 0


# ---- the settings of a run


def test_the_settings_of_a_run_repeat_it_bit_for_bit(mlx_gpt):
    options = "--dropout=0.1 --weight-decay=0.1 --warmup-iters=1 --lr-decay-iters=4 --min-lr=1e-5 --grad-clip=1".split()
    options += ["--bias=none", "--tied", "--activation=gelu", "--gradient-accumulation-steps=2", "--seed=77"]
    options += ["--backend=eager"]  # to compile all that takes 5 seconds
    mlx_gpt("train", *TINY, *options)
    result = mlx_gpt("config", "runs/1")
    assert (result.status, result.err) == (0, "")
    Path("mine.toml").write_text(result.out)
    assert mlx_gpt("train", "--config=mine.toml").status == 0
    assert read_settings("runs/1") == read_settings("runs/2") and same_runs(1, 2)


def test_the_settings_of_a_run_are_complete_and_name_their_origin(mlx_gpt):
    mlx_gpt("train", *TINY)
    out = mlx_gpt("config").out
    run = open_run(Path("runs/1"))
    assert out.startswith(
        f"# The settings of runs/1\n# Text: play.txt (sha256 {run.corpus.sha256})\n# Versions: mlx-nanogpt "
        f"{version('mlx-nanogpt')}, mlx {version('mlx')}\n"
    )
    Path("mine.toml").write_text(out)
    settings = read_config_file(Path("mine.toml"))
    assert list(settings) == [key for key in KEYS if key not in ("init_from", "vocab_size", "valid_data", "teacher")]
    found = asdict(run.gpt_config) | asdict(run.train_config) | {"data": ["play.txt"], "tokenizer": "char"}
    found["documents"] = "none"
    assert settings | {"vocab_size": run.gpt_config.vocab_size} == found


def test_the_settings_of_a_run_name_the_versions_that_made_it(mlx_gpt, monkeypatch):
    run = tiny_run()
    monkeypatch.setattr(run_module, "package_versions", lambda: {"mlx-nanogpt": "0.1.0", "mlx": "0.0.7"})
    finish(run)
    assert "mlx 0.0.7\n" in mlx_gpt("config", "runs/1").out


def test_the_settings_are_utf8_whatever_the_terminal(mlx_gpt, monkeypatch):
    Path('caf\u00e9 "7"\n.txt').write_text(TEXT)
    mlx_gpt("train", *NO_CORPUS, '--data=caf\u00e9 "7"\n.txt')
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    with in_a_process("-m", "mlx_nanogpt_cli", "config") as process:
        process.stdout.reconfigure(encoding="utf-8")
        Path("mine.toml").write_text(process.stdout.read())
    assert mlx_gpt("train", "--config=mine.toml").status == 0
    assert read_settings("runs/1") == read_settings("runs/2")


def test_the_settings_of_a_preset_are_a_file_too(mlx_gpt):
    result = mlx_gpt("config", "--preset=small")
    assert result.status == 0 and result.out.startswith("# The preset small: quick\n")
    Path("mine.toml").write_text(result.out)
    for arguments in (["--preset=small"], ["--config=mine.toml"]):
        assert mlx_gpt("train", *arguments, "--data=play.txt").status == 0
    assert read_settings("runs/1") == read_settings("runs/2")


def test_every_preset_is_listed(mlx_gpt, monkeypatch):
    monkeypatch.delitem(PRESETS, "small")
    monkeypatch.setenv("COLUMNS", "80")
    out = mlx_gpt("presets").out
    for row in (
        "nanolux .* 311,361 .* 6/4/64/64 .* 2,048 .* 5,000  1.71\n",
        "modern .* 310,400 .* 6/4/64/64 .* 2,048 .* 5,000  1.56\n",
        "baby-modern .* 10,672,512 .* 6/6/384/256 .* 16,384 .* 5,000     -\n",
        "hour .* 1,222,912 .* 6/4/128/128 .* 4,096 .* 125,000     -\n",
        "804,096 .* 4/4/128/64 .* 768 .* 2,000",
        "10,745,088 .* 6/6/384/256 .* 16,384 .* 5,000",
        "124,337,664 .* 12/12/768/1024 .* 491,520 .* 600,000",
    ):
        assert re.search(row, out), row
    header, *listed = out.split("Parameters: for the")[0].splitlines()[1:]
    assert [line.split()[0] for line in listed] == list(PRESETS) and "\u2026" not in out
    assert max(map(len, out.splitlines())) <= 80


UNKNOWN = "preset 'lapto' is not known; did you mean laptop? The presets are nanolux, minute, modern, laptop"


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ("train --preset=lapto", UNKNOWN),
        ("config --preset=lapto", UNKNOWN),
        ("train --preset=laptop --config=mine.toml", "--preset and --config exclude each other; leave out one"),
        ("config --preset=laptop runs/1", "a run and --preset exclude each other; leave out one"),
        ("train --resume=runs/1 --preset=laptop", "--preset and --resume exclude each other; leave out one"),
        ("train --resume=runs/1 --config=mine.toml", "--config and --resume exclude each other; leave out one"),
        ("train --config=mine.toml", "mine.toml, line 2: n_layers is not a setting; did you mean n_layer?"),
        ("train --config=none.toml", "none.toml cannot be read"),
        ("config nowhere", "nowhere holds no run"),
        ("train --preset=laptop --learning-rate=1e-5", "min_lr 0.0001 is out of range; give a number from 0 to"),
    ],
)
def test_a_start_that_cannot_be_is_a_sentence(mlx_gpt, arguments, reason):
    tiny_run()
    Path("mine.toml").write_text("seed = 1\nn_layers = 3\n")
    result = mlx_gpt(*arguments.split())
    assert is_a_sentence(result) and reason in result.err and result.out == ""
    assert [path.name for path in Path("runs").iterdir()] == ["1"]


# ---- texts, tokenizers and models to start from


def test_a_settings_file_may_choose_the_tokenizer_and_several_texts(mlx_gpt, halves):
    keep_as_gpt2s(byte_pairs())
    Path("mine.toml").write_text('tokenizer = "gpt2"\ndata = ["halves/1.txt", "halves/2"]\n')
    assert mlx_gpt("train", *NO_CORPUS, "--config=mine.toml").status == 0
    run = open_run(Path("runs/1"))
    assert run.tokenizer == byte_pairs() and run.corpus.sources == ("halves/1.txt", "halves/2")
    Path("again.toml").write_text(mlx_gpt("config").out)
    mlx_gpt("train", "--config=again.toml")
    assert same_runs(1, 2)


def test_another_tokenizer_replaces_that_of_a_file_and_its_size(mlx_gpt):
    Path("mine.toml").write_text('tokenizer = "bpe"\nvocab_size = 300\n')
    for run, tokenizer, size in (("runs/1", "char", TOKENIZER.vocab_size), ("runs/2", "bpe", 300)):
        assert mlx_gpt("train", *TINY, "--config=mine.toml", f"--tokenizer={tokenizer}").status == 0
        assert read_settings(run)["vocab_size"] == size


def test_a_model_to_start_from_is_kept_beside_a_preset_or_a_file(mlx_gpt):
    mlx_gpt("train", *NO_CORPUS, "--data=play.txt")
    options = ["--init-from=runs/1", "--num-iter=2", "--eval-iters=1", "--data=play.txt", "--backend=eager"]
    assert mlx_gpt("train", "--preset=laptop", *options, "--dropout=0.1").status == 0
    Path("again.toml").write_text(mlx_gpt("config", "runs/2").out)  # it names the model to start from
    assert mlx_gpt("train", "--config=again.toml").status == 0
    Path("first.toml").write_text(mlx_gpt("config", "runs/1").out)
    assert mlx_gpt("train", "--config=first.toml", "--init-from=runs/1").status == 0
    first, second, _, fourth = (open_run(Path(f"runs/{number}")) for number in range(1, 5))
    shape = asdict(first.gpt_config)
    assert asdict(second.gpt_config) == shape | {"dropout": 0.1} and second.train_config.weight_decay == 0.1
    assert same_runs(2, 3) and fourth.init_from == "runs/1" and fourth.gpt_config == first.gpt_config
