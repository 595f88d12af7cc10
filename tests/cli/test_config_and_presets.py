"""The promises of presets and settings files: they hold, what is given goes before them, and they repeat a run."""

import re
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import pytest
from mlx_nanogpt import PRESETS, GPTConfig, TrainConfig, open_run
from conftest import TEXT, TINY, TOKENIZER, byte_pairs, checkpoint_arrays, in_a_process, keep_as_gpt2s, same, tiny_run
from helpers import HOST, NO_CORPUS, is_a_sentence, recorded
from mlx_nanogpt.config_file import KEYS, read_config_file, write_config_file
from mlx_nanogpt.presets import Preset
from mlx_nanogpt.runs import run as run_module


@pytest.fixture
def small_presets(monkeypatch):
    """A preset that a test can train."""
    settings = {
        "n_layer": 1,
        "n_embd": 12,
        "head_size": 6,
        "block_size": 8,
        "batch_size": 2,
        "num_iter": 2,
        "tied": True,
    }
    preset = Preset(
        "quick",
        settings
        | {"eval_iters": 1, "lr_decay_iters": 2, "warmup_iters": 1}
        | {"gradient_accumulation_steps": 2, "backend": "eager"},
    )
    monkeypatch.setitem(PRESETS, "small", preset)


def test_a_preset_holds_and_what_is_given_goes_before_it(mlx_gpt, small_presets):
    result = mlx_gpt(
        "train", "--preset=small", "--data=play.txt", "--n-embd=18", "--no-tied", "--seed=3", "--eval-iters=2"
    )
    assert result.status == 0 and result.out.startswith("mlx-gpt train --preset small\n")
    given = {"n_embd": 18, "tied": False, "seed": 3, "eval_iters": 2, "vocab_size": TOKENIZER.vocab_size}
    defaults = asdict(GPTConfig()) | asdict(TrainConfig())
    assert recorded() == defaults | PRESETS["small"].settings | given | {"sources": ["play.txt"]}


def test_the_rate_of_a_preset_falls_until_the_last_iteration_however_many_there_are(mlx_gpt, small_presets):
    mlx_gpt("train", "--preset=small", "--data=play.txt", "--num-iter=3")
    assert recorded()["lr_decay_iters"] == 3
    mlx_gpt("train", "--preset=small", "--data=play.txt", "--num-iter=3", "--lr-decay-iters=7")
    assert recorded("runs/2")["lr_decay_iters"] == 7


def test_another_optimizer_goes_before_that_of_a_preset_with_its_rate(mlx_gpt):
    options = [
        "--optimizer=adam",
        "--num-iter=41",
        "--eval-iters=1",
        "--n-layer=1",
        "--data=play.txt",
        "--batch-size=2",
    ]
    assert mlx_gpt("train", "--preset=minute", *options).status == 0
    assert (recorded()["optimizer"], recorded()["muon_lr"]) == ("adam", TrainConfig.muon_lr)


def test_an_option_goes_before_a_preset_even_with_the_defaults_value(mlx_gpt, small_presets):
    mlx_gpt("train", "--preset=small", "--data=play.txt", f"--batch-size={TrainConfig.batch_size}")
    assert recorded()["batch_size"] == TrainConfig.batch_size != PRESETS["small"].settings["batch_size"]


def test_a_file_holds_and_what_is_given_goes_before_it(mlx_gpt):
    settings = {"data": ["play.txt"], "n_layer": 1, "n_embd": 12, "head_size": 6, "block_size": 8, "batch_size": 2}
    settings |= {"num_iter": 2, "eval_iters": 1, "tied": True, "learning_rate": 0.002, "backend": "eager"}
    Path("my file.toml").write_text(write_config_file(settings))
    result = mlx_gpt("train", "--config=my file.toml", "--num-iter=3", "--no-tied", "--dropout=0.5")
    assert result.status == 0 and result.out.startswith("mlx-gpt train --config 'my file.toml'\n")
    given = {"num_iter": 3, "tied": False, "dropout": 0.5, "vocab_size": TOKENIZER.vocab_size}
    expected = asdict(GPTConfig()) | asdict(TrainConfig()) | settings | given | {"sources": settings.pop("data")}
    assert recorded() == {name: value for name, value in expected.items() if name != "data"}


def test_data_on_the_command_line_goes_before_the_files(mlx_gpt):
    Path("mine.toml").write_text('data = "nowhere.txt"')
    assert mlx_gpt("train", *TINY, "--config=mine.toml").status == 0
    assert recorded()["sources"] == ["play.txt"]


def test_a_text_that_a_file_asks_for_by_name_is_not_replaced(mlx_gpt):
    Path("mine.toml").write_text('data = "tinyshakespeare"')
    result = mlx_gpt("train", *NO_CORPUS, "--config=mine.toml")
    assert is_a_sentence(result) and HOST in result.err and not Path("runs").exists()


def test_the_settings_of_a_run_repeat_it_bit_for_bit(mlx_gpt):
    options = "--dropout=0.1 --weight-decay=0.1 --warmup-iters=1 --lr-decay-iters=4 --min-lr=1e-5 --grad-clip=1".split()
    options += ["--bias=none", "--tied", "--activation=gelu", "--gradient-accumulation-steps=2", "--seed=77"]
    options += ["--backend=eager"]  # to compile all that takes 5 seconds
    mlx_gpt("train", *TINY, *options)
    result = mlx_gpt("config", "--run=runs/1")
    assert (result.status, result.err) == (0, "")
    Path("mine.toml").write_text(result.out)
    assert mlx_gpt("train", "--config=mine.toml").status == 0
    first, second = (open_run(Path("runs") / name) for name in "12")
    assert (first.gpt_config, first.train_config, first.corpus) == (
        second.gpt_config,
        second.train_config,
        second.corpus,
    )
    assert same(checkpoint_arrays(first), checkpoint_arrays(second))


def test_the_settings_of_a_run_are_complete_and_say_where_they_are_from(mlx_gpt):
    mlx_gpt("train", *TINY)
    out = mlx_gpt("config").out
    run = open_run(Path("runs/1"))
    assert out.startswith(
        f"# The settings of runs/1\n# Text: play.txt (sha256 {run.corpus.sha256})\n# Versions: mlx-nanogpt "
        f"{version('mlx-nanogpt')}, mlx {version('mlx')}\n"
    )
    Path("mine.toml").write_text(out)
    settings = read_config_file(Path("mine.toml"))
    assert list(settings) == [key for key in KEYS if key not in ("init_from", "vocab_size")]
    found = asdict(run.gpt_config) | asdict(run.train_config) | {"data": ["play.txt"], "tokenizer": "char"}
    assert settings | {"vocab_size": run.gpt_config.vocab_size} == found


def test_the_settings_of_a_run_name_the_versions_that_made_it(mlx_gpt, monkeypatch):
    run = tiny_run()
    monkeypatch.setattr(run_module, "package_versions", lambda: {"mlx-nanogpt": "0.1.0", "mlx": "0.0.7"})
    with run.locked() as writer:
        writer.write_config()
    assert "mlx 0.0.7\n" in mlx_gpt("config", "--run=runs/1").out


def test_the_settings_of_a_preset_are_a_file_too(mlx_gpt, small_presets):
    result = mlx_gpt("config", "--preset=small")
    assert result.status == 0 and result.out.startswith("# The preset small: quick\n")
    Path("mine.toml").write_text(result.out)
    for arguments in (["--preset=small"], ["--config=mine.toml"]):
        assert mlx_gpt("train", *arguments, "--data=play.txt").status == 0
    assert recorded("runs/1") == recorded("runs/2")


def test_the_settings_are_utf8_whatever_the_terminal(mlx_gpt, monkeypatch):
    Path('caf\u00e9 "7"\n.txt').write_text(TEXT)
    mlx_gpt("train", *NO_CORPUS, '--data=caf\u00e9 "7"\n.txt')
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    with in_a_process("-m", "mlx_nanogpt_cli", "config") as process:
        process.stdout.reconfigure(encoding="utf-8")
        Path("mine.toml").write_text(process.stdout.read())
    assert mlx_gpt("train", "--config=mine.toml").status == 0
    assert recorded("runs/1") == recorded("runs/2")


def test_every_preset_is_listed(mlx_gpt, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = mlx_gpt("presets").out
    for row in (
        "nanolux .* 311,361 .* 6/4/64/64 .* 2,048 .* 5,000",
        "modern .* 310,400 .* 6/4/64/64 .* 2,048 .* 5,000",
        "baby-modern .* 10,672,512 .* 6/6/384/256 .* 16,384 .* 5,000",
        "804,096 .* 4/4/128/64 .* 768 .* 2,000",
        "10,745,088 .* 6/6/384/256 .* 16,384 .* 5,000",
        "124,337,664 .* 12/12/768/1024 .* 491,520 .* 600,000",
    ):
        assert re.search(row, out), row  # fmt: skip
    header, *listed = out.split("Parameters for the")[0].splitlines()[1:]
    assert [line.split()[0] for line in listed] == list(PRESETS) and "\u2026" not in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (
            ["train", "--preset=lapto"],
            "preset 'lapto' is not known; did you mean laptop? The presets are nanolux, minute, modern, laptop",
        ),
        (
            ["config", "--preset=lapto"],
            "preset 'lapto' is not known; did you mean laptop? The presets are nanolux, minute, modern, laptop",
        ),
        (["train", "--preset=laptop", "--config=mine.toml"], "--preset and --config exclude each other; leave out one"),
        (["config", "--preset=laptop", "--run=runs/1"], "--run and --preset exclude each other; leave out one"),
        (["train", "--resume=runs/1", "--preset=laptop"], "--preset and --resume exclude each other; leave out one"),
        (["train", "--resume=runs/1", "--config=mine.toml"], "--config and --resume exclude each other; leave out one"),
        (["train", "--config=mine.toml"], "mine.toml, line 2: n_layers is not a setting; did you mean n_layer?"),
        (["train", "--config=none.toml"], "none.toml cannot be read"),
        (["config", "--run=nowhere"], "nowhere holds no run"),
        (
            ["train", "--preset=laptop", "--learning-rate=1e-5"],
            "min_lr 0.0001 is out of range; give a number from 0 to",
        ),
    ],
)
def test_a_start_that_cannot_be_is_a_sentence(mlx_gpt, arguments, reason):
    tiny_run()
    Path("mine.toml").write_text("seed = 1\nn_layers = 3\n")
    result = mlx_gpt(*arguments)
    assert is_a_sentence(result) and reason in result.err and result.out == ""
    assert [each.name for each in Path("runs").iterdir()] == ["1"]


# ---- texts, tokenizers and models to start from


def test_a_settings_file_may_choose_the_tokenizer_and_several_texts(mlx_gpt, halves):
    keep_as_gpt2s(byte_pairs())
    Path("mine.toml").write_text('tokenizer = "gpt2"\ndata = ["halves/1.txt", "halves/2"]\n')
    assert mlx_gpt("train", *NO_CORPUS, "--config=mine.toml").status == 0
    run = open_run(Path("runs/1"))
    assert run.tokenizer == byte_pairs() and run.corpus.sources == ("halves/1.txt", "halves/2")
    Path("again.toml").write_text(mlx_gpt("config").out)
    mlx_gpt("train", "--config=again.toml")
    assert same(*(checkpoint_arrays(open_run(Path("runs") / number)) for number in "12"))


def test_another_tokenizer_goes_before_that_of_a_file_with_its_size(mlx_gpt):
    Path("mine.toml").write_text('tokenizer = "bpe"\nvocab_size = 300\n')
    for run, tokenizer, size in (("runs/1", "char", TOKENIZER.vocab_size), ("runs/2", "bpe", 300)):
        assert mlx_gpt("train", *TINY, "--config=mine.toml", f"--tokenizer={tokenizer}").status == 0
        assert recorded(run)["vocab_size"] == size


def test_a_run_that_started_from_another_can_be_repeated_from_its_settings(mlx_gpt):
    mlx_gpt("train", *NO_CORPUS, "--data=play.txt")
    mlx_gpt("train", "--init-from=runs/1", "--data=play.txt", "--num-iter=2", "--eval-iters=1", "--dropout=0.1")
    Path("again.toml").write_text(mlx_gpt("config", "--run=runs/2").out)
    assert mlx_gpt("train", "--config=again.toml").status == 0
    assert same(*(checkpoint_arrays(open_run(Path("runs") / number)) for number in "23"))


def test_the_settings_of_a_run_may_train_its_model_further(mlx_gpt):
    mlx_gpt("train", *NO_CORPUS, "--data=play.txt")
    Path("mine.toml").write_text(mlx_gpt("config").out)
    assert mlx_gpt("train", "--config=mine.toml", "--init-from=runs/1").status == 0
    assert open_run(Path("runs/2")).init_from == "runs/1"


def test_an_option_may_complete_what_a_settings_file_leaves_open(mlx_gpt):
    Path("mine.toml").write_text("n_embd = 20\n")
    assert is_a_sentence(mlx_gpt("train", "--data=play.txt", "--config=mine.toml"))
    small = ["--n-layer=1", "--block-size=8", "--num-iter=2", "--eval-iters=1"]
    assert mlx_gpt("train", "--data=play.txt", "--config=mine.toml", "--head-size=10", *small).status == 0


def test_a_preset_beside_a_model_to_start_from_says_how_to_train_it(mlx_gpt):
    mlx_gpt("train", *NO_CORPUS, "--data=play.txt")
    options = ["--preset=laptop", "--num-iter=2", "--eval-iters=1", "--data=play.txt", "--backend=eager"]
    assert mlx_gpt("train", "--init-from=runs/1", *options).status == 0
    first, second = (open_run(Path("runs") / number) for number in "12")
    assert second.gpt_config == first.gpt_config and second.train_config.weight_decay == 0.1
