"""The promises of the command line: NanoLux's options verbatim, plain output, and a sentence for every mistake."""

import json
import math
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from unittest.mock import Mock

import mlx_nanogpt as gpt
import mlx.core as mx
import pytest
import typer
from mlx_nanogpt import PRESETS, GPTConfig, TrainConfig, benchmark, open_run
from mlx_nanogpt import run as run_module
from conftest import (
    DATA,
    NOBODY,
    TEXT,
    TINY,
    TOKENIZER,
    TOKENS,
    asked,
    checkpoint_arrays,
    finish,
    in_a_process,
    same,
    tiny_gpt,
    tiny_run,
    trained_run,
    worsened_run,
)
from mlx_nanogpt.config import Preset
from mlx_nanogpt.config_file import KEYS, read_config_file, write_config_file
from mlx_nanogpt.text.baselines import bigram, uniform, unigram, xz_bits_per_character
from mlx_nanogpt_cli.app import app
from mlx_nanogpt_cli.describe import describe_run
from mlx_nanogpt_cli.training_display import short_sample
from rich.console import Console

HOST = NOBODY.split("/")[2]
NO_CORPUS = TINY[:-1]  # TINY without --data


def recorded(run: str = "runs/1") -> dict:
    config = json.loads((Path(run) / "config.json").read_text())
    return config["gpt"] | config["train"] | {"sources": config["corpus"]["sources"]}


def command_after(words: str, output: str) -> list[str]:
    """The arguments of the command that `output` tells the user to type after `words`."""
    program, *arguments = shlex.split(re.search(rf"{words}\s+(mlx-gpt .*)", output).group(1))
    return arguments


def is_a_sentence(result) -> bool:
    """Whether the program ended as it does for a mistake of the user's: with one line that says so, no traceback."""
    return result.status == 1 and result.err.splitlines()[-1].startswith("Error: ") and "Traceback" not in result.err


# ---- train


def test_nanoluxs_command_line_works_verbatim(mlx_gpt):
    nanolux = "--n_embd=64 --batch_size=32 --block_size=64 --head_size=16 --num_iter=2".split()
    assert mlx_gpt("train", *nanolux, "--eval_iters=1", "--data=play.txt").status == 0
    expected = asdict(GPTConfig(TOKENIZER.vocab_size)) | asdict(TrainConfig(num_iter=2, eval_iters=1))
    assert recorded() == expected | {"sources": ["play.txt"]}


def test_dashes_and_underscores_are_alike(mlx_gpt):
    mlx_gpt("train", *TINY)
    mlx_gpt("train", *(option.replace("-", "_").replace("__", "--", 1) for option in TINY))
    assert recorded("runs/1") == recorded("runs/2")


def test_every_field_of_the_configurations_is_an_option_with_its_default():
    options = {option.name: option for option in typer.main.get_command(app).commands["train"].params}
    for field in (*fields(GPTConfig), *fields(TrainConfig)):
        if field.name != "vocab_size":  # the text's to say
            assert options[field.name].default == field.default, field.name


def test_every_option_has_an_effect(mlx_gpt):
    chosen = {
        "block_size": 6, "n_layer": 2, "n_embd": 12, "head_size": 3, "dropout": 0.25, "num_iter": 3, "batch_size": 2,
        "learning_rate": 0.002, "seed": 42, "backend": "eager", "eval_interval": 2, "eval_iters": 3, "bias": "all",
        "activation": "gelu", "gradient_accumulation_steps": 2, "warmup_iters": 1, "lr_decay_iters": 3, "min_lr": 0.001,
        "weight_decay": 0.1, "beta1": 0.8, "beta2": 0.9, "grad_clip": 1.0, "dtype": "bfloat16", "train_fraction": 0.7,
        "patience": 9,
    }  # fmt: skip
    options = [f"--{name}={value}" for name, value in chosen.items()] + ["--tied"]
    assert mlx_gpt("train", "--data=play.txt", "--run-dir=mine", "--device=cpu", *options).status == 0
    assert recorded("mine") == chosen | {"tied": True, "sources": ["play.txt"], "vocab_size": TOKENIZER.vocab_size}
    assert [each.device for each in open_run(Path("mine")).history()] == ["cpu", "cpu"]


def test_offline_tiny_shakespeare_asked_for_by_name_is_a_sentence(mlx_gpt):
    result = mlx_gpt("train", *NO_CORPUS, "--data=tinyshakespeare")
    assert is_a_sentence(result) and HOST in result.err and "--data pastiche" in result.err
    assert not Path("runs").exists()


def test_offline_the_built_in_corpus_is_trained_on_and_named_everywhere(mlx_gpt):
    result = mlx_gpt("train", *NO_CORPUS)
    assert result.status == 0
    assert result.out.count("Using the built-in corpus, pastiche, instead") == 1
    header, table = result.out.split("iteration  train loss")
    assert "Corpus    pastiche: 1,115,394 characters" in header and "tinyshakespeare" not in table
    assert "pastiche's validation split" in table and "nats per character" in table
    assert recorded()["sources"] == ["pastiche"]
    assert {each.corpus for each in open_run(Path("runs/1")).history()} == {"pastiche"}
    assert "pastiche" in mlx_gpt("generate", "--tokens=1").err


def test_what_is_piped_shows_everything_and_has_no_control_codes(mlx_gpt):
    result = mlx_gpt("train", *TINY)
    assert (result.status, result.err) == (0, "")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", result.out)
    lines = result.out.splitlines()
    for name, value in {
        "Device": "CPU|GPU",
        "Versions": rf"mlx-nanogpt {version('mlx-nanogpt')}, mlx {version('mlx')}, Python 3",
        "Backend": "compiled",
        "Corpus": f"play.txt: {len(TEXT):,} characters, {TOKENIZER.vocab_size} different",
        "Model": r"\d,\d{3} parameters",
        "Training": "4 x 8 = 32 tokens",
        "Run": "runs/1",
    }.items():
        assert any(re.match(rf"  {name} .*({value})", line) for line in lines), name
    rows = [line.split() for line in lines if re.match(r" +\d+ +\d+\.\d{4} ", line)]
    assert [row[0] for row in rows] == ["2", "4"]
    assert re.search(r"s of training, .* s of evaluation. Final loss \d\.\d{4} on the training split", result.out)
    assert "NanoLux" not in result.out
    sample = result.out.split("A sample of 200 tokens\n")[1].rsplit("\n\nNext:", 1)[0]
    assert len(sample) >= 200 - 1 and set(sample) <= set(TEXT)


def test_a_run_of_nanoluxs_model_ends_with_its_table_and_says_where_it_departs(mlx_gpt, monkeypatch):
    monkeypatch.setattr(benchmark, "NANOLUX_GPT", tiny_gpt(n_layer=1))
    monkeypatch.setattr(benchmark, "NANOLUX_TRAIN", TrainConfig(num_iter=20, batch_size=4, eval_interval=2))
    result = mlx_gpt("train", *TINY)
    for metric in (
        "Train 1st epoch", "Average epoch training time", "Time to estimate losses", "Total training time",
        "Final loss (train)", "Final loss (valid)",
    ):  # fmt: skip
        assert result.out.count(metric) == 1
    assert all(
        each in result.out for each in ("Reactant", "Zygote", "M4 Pro", "504.00 s", "873.00 s", "1.7820", "1.7811")
    )
    assert "num_iter 4 (there 20), eval_iters 1 (there 200)." in result.out
    assert "The losses here are on play.txt, the published ones on tiny Shakespeare." in result.out
    assert "NanoLux" not in mlx_gpt("train", *TINY, "--num-iter=1").out  # not one epoch, of which the table tells


def test_a_short_sample_is_shown_under_every_row_but_the_last(mlx_gpt, monkeypatch):
    out = mlx_gpt("train", *TINY, "--num-iter=6").out
    lines = out[out.index("iteration  train") :].splitlines()[1:6]
    assert [line.split()[0] for line in lines[::2]] == ["2", "4", "6"]
    texts = [line.removeprefix(" " * 11) for line in lines[1::2]]
    assert all(40 < len(text) <= 69 and text[0] != " " for text in texts)
    tokens = gpt.generate(trained_run_of(2), [TOKENIZER.start_token], 60, TrainConfig.seed)
    assert " / ".join(TOKENIZER.decode(tokens).split("\n")).startswith(texts[0].rstrip("\u2026"))


def trained_run_of(iterations: int) -> gpt.GPT:
    """The model of TINY after so many iterations."""
    config = {"n_layer": 1, "eval_interval": 2, "eval_iters": 1, "num_iter": iterations, "seed": TrainConfig.seed}
    return trained_run("shorter", **config).load_model()


def test_a_short_sample_is_one_line_of_the_screens_width_and_steers_no_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    line = short_sample(["To be\n\tor \x1b[31mnot", " to be, \u65e5\u672c that is the question"])
    assert line.plain == " " * 11 + "To be / \\u0009or \\u001B[31mn\u2026"


def test_a_resumed_run_says_where_it_goes_on(mlx_gpt):
    assert "  Run       runs/1\n" in mlx_gpt("train", *TINY).out
    assert "runs/1, going on from iteration 4\n" in mlx_gpt("train", "--resume=runs/1", "--num-iter=6").out


@pytest.mark.parametrize("run_dir", [None, "a folder/run", "run [new]", "[/]"])
def test_the_next_command_works_verbatim(mlx_gpt, run_dir):
    out = mlx_gpt("train", *TINY, *([f"--run-dir={run_dir}"] if run_dir else [])).out
    assert f"  Run       {run_dir or 'runs/1'}\n" in out
    result = mlx_gpt(*command_after("Next:", out))
    assert result.status == 0 and len(result.out) == 500 + 1


def test_a_corpus_is_named_as_it_is(mlx_gpt):
    Path("play.txt").rename("[draft] play.txt")
    assert "Corpus    [draft] play.txt: " in mlx_gpt("train", *NO_CORPUS, "--data=[draft] play.txt").out


def test_the_losses_on_the_screen_are_those_of_the_history(mlx_gpt):
    out = mlx_gpt("train", *TINY).out
    for each in open_run(Path("runs/1")).history():
        assert re.search(rf" {each.iteration} +{each.train_loss:.4f} +{each.valid_loss:.4f} ", out)


# ---- presets and settings files


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
        "quick", settings | {"eval_iters": 1, "lr_decay_iters": 2, "gradient_accumulation_steps": 2, "backend": "eager"}
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
    assert list(settings) == [key for key in KEYS if key != "init_from"]
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
        "311,361 .* 6/4/64/64 .* 2,048 .* 5,000",
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
            "preset 'lapto' is not known; did you mean laptop? The presets are nanolux, laptop",
        ),
        (
            ["config", "--preset=lapto"],
            "preset 'lapto' is not known; did you mean laptop? The presets are nanolux, laptop",
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


def settings_row(out: str) -> list[str]:
    return re.findall(r"^  Settings  (.*)$", out, re.M)


def test_the_header_tells_every_setting_that_is_not_the_default(mlx_gpt):
    shown = "bias all, tied, activation gelu, train_fraction 0.7, warmup_iters 1, lr_decay_iters 3, min_lr 0.001, "
    shown += "weight_decay 0.1, beta1 0.8, beta2 0.9, grad_clip 1.0, eval_interval 2, eval_iters 1, patience 9, dtype bfloat16"
    options = [f"--{name.replace(' ', '=')}" for name in shown.split(", ")]
    out = mlx_gpt(
        "train", *TINY, *options, "--gradient-accumulation-steps=3", "--learning-rate=0.002", "--backend=eager"
    ).out
    assert settings_row(out) == [shown]
    assert "  Training  4 iterations of 3 x 4 x 8 = 96 tokens, rate 0.002, dropout 0, seed 1337\n" in out


def test_the_header_of_the_defaults_is_no_longer_than_it_was():
    lines = describe_run(tiny_run(**asdict(TrainConfig())), DATA)
    assert list(lines) == ["Device", "Versions", "Backend", "Corpus", "Model", "Training", "Export", "Run"]
    assert lines["Training"] == "5,000 iterations of 32 x 8 = 256 tokens, rate 0.001, dropout 0, seed 1337"


# ---- stop and go on


def test_ctrl_c_saves_and_prints_a_command_that_goes_on(mlx_gpt):
    options = [*TINY, "--num-iter=100000", "--eval-interval=50", "--run-dir=a run"]  # more than any machine gets done
    with in_a_process("-m", "mlx_nanogpt_cli", "train", *options) as process:
        head = ""
        while not re.search(r"^ +50 ", head, re.M) and (line := process.stdout.readline()):
            head += line
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "Stopping after what is under way, and saving (Ctrl-C again stops at once, unsaved)."
    stopped_at = int(re.search(r"Stopped at iteration (\d+); everything is kept in a run\.", out).group(1))
    run = open_run(Path("a run"))
    assert 50 <= run.position().iteration == stopped_at < 100_000
    end = (stopped_at // 50 + 2) * 50
    result = mlx_gpt(*command_after("Go on with:", out), f"--num-iter={end}")
    assert result.status == 0
    assert run.position().iteration == end
    assert [each.iteration for each in run.history()] == list(range(50, end + 1, 50))


def test_a_kill_saves_as_ctrl_c_does():
    options = [*TINY, "--num-iter=100000", "--eval-interval=50", "--run-dir=mine"]
    with in_a_process("-m", "mlx_nanogpt_cli", "train", *options) as process:
        while (line := process.stdout.readline()) and not re.match(" +50 ", line):
            pass
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 130 and open_run(Path("mine")).position().iteration >= 50


def test_ctrl_c_while_writing_is_130_without_a_traceback():
    trained_run()
    with in_a_process("-m", "mlx_nanogpt_cli", "generate", "--tokens=1000000") as process:
        process.stdout.read(20)
        process.send_signal(signal.SIGINT)
        process.stdout.close()
        err = process.stderr.read()
    assert process.wait() == 130 and "Traceback" not in err


@pytest.mark.parametrize("times", [1, 3, 5, 6, 10])
def test_a_run_stopped_anywhere_can_be_resumed(mlx_gpt, times):
    run = tiny_run(dropout=0.1)
    finish(run, asked(times))
    assert mlx_gpt("train", f"--resume={run.path}").status == 0
    assert same(checkpoint_arrays(run), checkpoint_arrays(trained_run(dropout=0.1)))


def test_resume_shows_the_rows_so_far_and_may_extend_the_run(mlx_gpt):
    mlx_gpt("train", *TINY)
    mlx_gpt("train", *TINY, "--num-iter=8")
    result = mlx_gpt("train", "--resume=runs/1", "--num-iter=8")
    assert [line.split()[0] for line in result.out.splitlines() if re.match(r" +\d+ +\d+\.\d{4} ", line)] == list(
        "2468"
    )
    assert recorded("runs/1") == recorded("runs/2")
    assert same(*(checkpoint_arrays(open_run(Path("runs") / name)) for name in "12"))


@pytest.mark.parametrize(
    "option", ["--n-embd=32", "--n-layer=2", "--head-size=4", "--block-size=4", "--batch-size=8", "--seed=3"]
)
def test_resume_with_another_shape_is_refused(mlx_gpt, option):
    mlx_gpt("train", *TINY)
    before = checkpoint_arrays(open_run(Path("runs/1")))
    result = mlx_gpt("train", "--resume=runs/1", "--num-iter=8", option)
    name, value = option.lstrip("-").replace("-", "_").split("=")
    assert is_a_sentence(result) and f"has {name} " in result.err and f"cannot go on with {value}" in result.err
    assert same(before, checkpoint_arrays(open_run(Path("runs/1")))) and recorded()["num_iter"] == 4


def test_resume_may_repeat_what_the_run_has_already(mlx_gpt):
    mlx_gpt("train", *TINY)
    assert mlx_gpt("train", *TINY, "--resume=runs/1", "--num-iter=6").status == 0


def test_resume_with_a_changed_text_is_refused(mlx_gpt):
    mlx_gpt("train", *TINY)
    Path("play.txt").write_text(TEXT[::-1])
    result = mlx_gpt("train", "--resume=runs/1", "--num-iter=8")
    assert is_a_sentence(result) and "learned from another text" in result.err


def test_resume_finds_a_text_that_moved(mlx_gpt):
    mlx_gpt("train", *TINY)
    Path("play.txt").rename("moved.txt")
    assert is_a_sentence(mlx_gpt("train", "--resume=runs/1", "--num-iter=8"))
    assert mlx_gpt("train", "--resume=runs/1", "--num-iter=8", "--data=moved.txt").status == 0


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--resume=runs/1"], "at iteration 4 already; give a larger --num-iter"),
        (["--resume=runs/1", "--num-iter=3"], "at iteration 4 already; give a larger --num-iter"),
        (["--resume=runs/1", "--run-dir=other"], "--run-dir and --resume exclude each other"),
        (["--resume=nowhere"], "nowhere holds no run"),
        (["--run-dir=runs/1"], "runs/1 already holds a run"),
    ],
)
def test_a_resume_that_cannot_be_says_why(mlx_gpt, options, reason):
    mlx_gpt("train", *TINY)
    result = mlx_gpt("train", *(TINY if "--run-dir=runs/1" in options else []), *options)
    assert is_a_sentence(result) and reason in result.err


# ---- generate


@pytest.fixture
def run():
    return trained_run()


def test_standard_output_carries_the_text_alone(mlx_gpt, run):
    result = mlx_gpt("generate", "--tokens=40", "--prompt=to be ")
    assert result.status == 0 and "play.txt, iteration 8" in result.err
    assert result.out.startswith("to be ") and result.out.endswith("\n") and len(result.out) == 6 + 40 + 1


def test_the_same_seed_writes_the_same_text(mlx_gpt, run):
    texts = [mlx_gpt("generate", "--tokens=60", f"--seed={seed}").out for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_samples_are_written_with_the_seeds_that_follow(mlx_gpt, run):
    both = mlx_gpt("generate", "--tokens=30", "--num-samples=2", "--seed=7").out
    assert both == "".join(mlx_gpt("generate", "--tokens=30", f"--seed={seed}").out for seed in (7, 8))


@pytest.mark.parametrize("option", ["--temperature=0.3", "--top-k=2", "--top-p=0.3", "--prompt=or"])
def test_every_option_of_generate_has_an_effect(mlx_gpt, run, option):
    assert mlx_gpt("generate", "--tokens=60", option).out != mlx_gpt("generate", "--tokens=60").out


def test_temperature_0_needs_no_seed(mlx_gpt, run):
    assert len({mlx_gpt("generate", "--tokens=30", "--temperature=0", f"--seed={seed}").out for seed in range(3)}) == 1


def test_the_newest_run_writes_unless_one_is_named(mlx_gpt):
    trained_run()
    trained_run(seed=9)
    newest, first, second = (
        mlx_gpt("generate", "--tokens=60", *named).out for named in ([], ["--run=runs/1"], ["--run=runs/2"])
    )
    assert newest == second != first


def test_a_prompt_may_be_longer_than_the_context(mlx_gpt, run):
    out = mlx_gpt("generate", "--tokens=5", f"--prompt={TEXT[:100]}").out
    assert out.startswith(TEXT[:100]) and len(out) == 106


def test_a_reader_that_leaves_early_gets_no_traceback(run):
    command = f"{shlex.quote(sys.executable)} -m mlx_nanogpt_cli generate --tokens=3000 | head -c 10"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert len(result.stdout) == 10 and "Traceback" not in result.stderr


def test_the_best_weights_write_when_asked(mlx_gpt):
    run = worsened_run()
    last, best = mlx_gpt("generate", "--tokens=60"), mlx_gpt("generate", "--tokens=60", "--best")
    assert last.out != best.out
    assert "iteration 8 of 8" in last.err and f"iteration {run.position(best=True).iteration} of 8" in best.err


# ---- eval


def rows(out: str) -> dict[str, list[str]]:
    """The rows of the tables of `mlx-gpt eval`; those of a later table replace those of an earlier one."""
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    return {name.removeprefix("> "): values for name, *values in cells}


def expected_rows(run, tokens, train) -> dict[str, list[str]]:
    """By the library. A token is a character here."""
    *_, loss = gpt.evaluate_split(run.load_model(), tokens, "compiled")
    losses = {"this model": loss, "uniform guess": uniform(tokens, TOKENIZER.vocab_size)}
    xz = {}
    if train is not None:
        losses["bigram"] = bigram(train, tokens, TOKENIZER.vocab_size)
        losses["unigram"] = unigram(train, tokens, TOKENIZER.vocab_size)
        bits = xz_bits_per_character(TOKENIZER, tokens, None if tokens is train else train)
        xz = {"xz -9e": ["-", f"{bits:.4f}", "-"]}
    return xz | {
        name: [f"{each.mean:.4f}", f"{each.mean / math.log(2):.4f}", f"{math.exp(each.mean):.2f}"]
        for name, each in losses.items()
    }


@pytest.mark.parametrize("split, tokens", [("train", DATA.train_tokens), ("valid", DATA.valid_tokens)])
def test_eval_shows_the_model_beside_the_baselines_on_a_whole_split(mlx_gpt, run, split, tokens):
    result = mlx_gpt("eval", f"--split={split}")
    assert (result.status, result.err) == (0, "")
    assert "Run       runs/1: play.txt, iteration 8 of 8\n" in result.out
    assert (
        f"play.txt, {'training' if split == 'train' else 'validation'} split: {len(tokens) - 1:,} tokens" in result.out
    )
    assert rows(result.out) == expected_rows(run, tokens, DATA.train_tokens)


def test_eval_is_of_the_validation_split_unless_told_and_both_are_one_after_the_other(mlx_gpt, run):
    valid, both = mlx_gpt("eval").out, mlx_gpt("eval", "--split=both").out
    assert valid == mlx_gpt("eval", "--split=valid").out
    assert both.count("training split") == both.count("validation split") == 1
    assert rows(both) == rows(valid)  # the later of the two


def test_what_eval_pipes_has_no_control_codes_and_the_best_method_first(mlx_gpt, run):
    out = mlx_gpt("eval").out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", out)
    bits = [float(row[1]) for row in rows(out).values()]
    assert len(bits) == 5 and bits == sorted(bits)


def test_eval_marks_the_row_of_the_model(mlx_gpt, run, monkeypatch):
    names = [line.split("\u2502")[1].strip() for line in mlx_gpt("eval").out.splitlines() if line.startswith("\u2502")]
    assert sorted(names) == ["> this model", "bigram", "uniform guess", "unigram", "xz -9e"]
    console = Console(force_terminal=True, width=80)
    monkeypatch.setattr("mlx_nanogpt_cli.eval.console", console)
    bold = [line for line in mlx_gpt("eval").out.splitlines() if "\x1b[1m" in line and "\u2502" in line]
    assert len(bold) == 1 and "> this model" in bold[0]


@pytest.mark.parametrize("slow", ["bigram", "count_characters", "xz_bits_per_character"])
def test_eval_shows_the_models_loss_before_it_counts_and_compresses(mlx_gpt, run, monkeypatch, slow):
    monkeypatch.setattr(f"mlx_nanogpt_cli.eval.{slow}", Mock(side_effect=KeyboardInterrupt))
    result = mlx_gpt("eval")
    loss, _, perplexity = expected_rows(run, DATA.valid_tokens, None)["this model"]
    assert result.status == 130 and "validation split: " in result.out
    assert result.out.endswith(f"\nThis model: {loss} nats per token, perplexity {perplexity}\n")


def test_eval_of_the_best_weights_is_another(mlx_gpt):
    run = worsened_run()
    last, best = mlx_gpt("eval").out, mlx_gpt("eval", "--best").out
    assert float(rows(best)["this model"][0]) < float(rows(last)["this model"][0])
    assert f"iteration {run.position(best=True).iteration} of 8" in best and "iteration 8 of 8" in last
    assert rows(best)["bigram"] == rows(last)["bigram"]


def test_the_newest_run_is_evaluated_unless_one_is_named(mlx_gpt):
    trained_run()
    trained_run(seed=9)
    newest, first, second = (mlx_gpt("eval", *named).out for named in ([], ["--run=runs/1"], ["--run=runs/2"]))
    assert newest == second and rows(second)["this model"] != rows(first)["this model"]


def test_another_text_is_evaluated_whole_and_predicted_from_the_runs_own(mlx_gpt, run):
    other = TEXT[::-1][:301]
    Path("other.txt").write_text(other)
    result = mlx_gpt("eval", "--data=other.txt")
    assert result.status == 0 and "other.txt: 300 tokens in windows of 8" in result.out
    assert rows(result.out) == expected_rows(run, TOKENIZER.encode(other), DATA.train_tokens)


def test_another_text_is_evaluated_without_baselines_where_the_runs_own_is_gone(mlx_gpt, run):
    Path("play.txt").unlink()
    Path("other.txt").write_text(TEXT[:301])
    result = mlx_gpt("eval", "--data=other.txt")
    assert result.status == 0 and "No bigram, unigram and xz here" in result.out and "play.txt cannot be" in result.out
    assert rows(result.out) == expected_rows(run, TOKENS[:301], None)


def test_the_runs_own_text_keeps_its_splits_wherever_it_lies(mlx_gpt, run):
    before = mlx_gpt("eval").out
    Path("play.txt").rename("moved.txt")
    assert mlx_gpt("eval", "--data=moved.txt", "--split=valid").out == before.replace("play.txt, v", "moved.txt, v")
    result = mlx_gpt("eval")
    assert is_a_sentence(result) and "play.txt cannot be read" in result.err and result.out == ""


def test_eval_with_a_changed_text_is_refused(mlx_gpt, run):
    Path("play.txt").write_text(TEXT[::-1])
    result = mlx_gpt("eval")
    assert is_a_sentence(result) and "learned from another text than play.txt holds now" in result.err


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--run=nowhere"], "nowhere holds no run"),
        (["--data=missing.txt"], "missing.txt cannot be read"),
        (["--data=strange.txt"], "never seen '€'; leave them out"),
        (["--data=short.txt"], "the text has too few tokens (1)"),
        (["--data=empty.txt"], "empty.txt is empty"),
        (["--data=other.txt", "--split=valid"], "other.txt is not the text that the model learned from"),
    ],
)
def test_an_eval_that_cannot_be_is_a_sentence(mlx_gpt, run, options, reason):
    for name, text in {"strange": "to b€", "short": "t", "empty": "", "other": "to be or not"}.items():
        Path(f"{name}.txt").write_text(text)
    result = mlx_gpt("eval", *options)
    assert is_a_sentence(result) and reason in result.err


@pytest.mark.parametrize("command", ["eval", "generate"])
def test_weights_that_are_not_there_are_a_sentence(mlx_gpt, command):
    finish(tiny_run(), asked(2))  # a checkpoint, but no evaluation
    result = mlx_gpt(command, "--best")
    assert is_a_sentence(result) and "has no best weights yet" in result.err and result.out == ""
    tiny_run("untrained")
    result = mlx_gpt(command, "--run=untrained")
    assert is_a_sentence(result) and "has no checkpoint yet" in result.err and result.out == ""


@pytest.mark.parametrize("run_dir", [None, "a folder/run"])
def test_the_end_of_a_training_tells_of_better_weights_before_it(mlx_gpt, run_dir):
    options = [*TINY, "--learning-rate=0.5", "--eval-interval=1", "--num-iter=8", "--seed=3"]
    out = mlx_gpt("train", *options, *([f"--run-dir={run_dir}"] if run_dir else [])).out
    run = open_run(Path(run_dir or "runs/1"))
    best = min(run.history(), key=lambda each: each.valid_loss)
    assert f"The lowest validation loss was {best.valid_loss:.4f} at iteration {best.iteration}; its weights" in out
    result = mlx_gpt(*command_after("its weights are kept:", out))
    assert result.status == 0 and f"iteration {best.iteration} of 8" in result.err


def test_the_end_of_a_training_says_nothing_of_the_best_weights_if_they_are_the_last(mlx_gpt):
    out = mlx_gpt("train", *TINY).out
    losses = [each.valid_loss for each in open_run(Path("runs/1")).history()]
    assert losses[-1] < losses[0] and "The lowest validation loss" not in out


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--learning-rate=1", "--num-iter=40"], r"the training went wrong; try a lower --learning-rate than 1\."),
        (
            ["--learning-rate=1e-9"],
            r"the model has learned nothing; try more --num-iter than 4, or a lower --learning-rate than 1e-09\.",
        ),
    ],
)
def test_a_training_that_ends_above_a_uniform_guess_says_so(mlx_gpt, options, sentence):
    result = mlx_gpt("train", *TINY, *options)
    above = rf"The validation loss, [\d.]+, is above that of a uniform guess, {math.log(TOKENIZER.vocab_size):.3g}"
    assert result.status == 0 and re.search(f"^{above}: {sentence}$", result.out, re.M)


def test_a_training_that_learned_something_says_nothing_of_a_guess(mlx_gpt):
    assert "uniform guess" not in mlx_gpt("train", *TINY, "--learning-rate=0.01", "--num-iter=40").out


# ---- mistakes

BAD_TEXTS = {
    "missing": (None, "cannot be read"),
    "empty": (b"", "is empty"),
    "binary": (b"\0\1\2", "is not text"),
    "latin-1": ("café".encode("latin-1"), "is not UTF-8"),
    "too short": (b"ab", "use a longer text"),
    "too short for the context": (b"abcd" * 8, "block_size of 6 or less"),
}


@pytest.mark.parametrize("content, reason", BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_a_text_that_cannot_be_used_is_a_sentence_and_leaves_nothing_behind(mlx_gpt, content, reason):
    if content is not None:
        Path("bad.txt").write_bytes(content)
    result = mlx_gpt("train", *NO_CORPUS, "--data=bad.txt")
    assert is_a_sentence(result) and reason in result.err and result.out == ""
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "option, reason",
    [
        ("--head-size=5", "head_size 5 does not divide n_embd 16; these sizes do: 1, 2, 4, 8, 16"),
        ("--n-embd=0", "n_embd 0 is out of range"),
        ("--batch-size=-3", "batch_size -3 is out of range"),
        ("--num-iter=99999999999999", "num_iter 99999999999999 is out of range"),
        ("--seed=99999999999999999999999", "seed 99999999999999999999999 is out of range"),
        ("--learning-rate=nan", "learning_rate nan is out of range"),
        ("--dropout=1", "dropout 1.0 is out of range"),
        ("--block-size=5000", "block_size 5000 does not fit the text"),
        ("--run-dir=play.txt/run", "play.txt/run cannot be written"),
    ],
)
def test_a_bad_value_is_a_sentence_and_leaves_nothing_behind(mlx_gpt, option, reason):
    result = mlx_gpt("train", *TINY, option)
    assert is_a_sentence(result) and reason in result.err and result.out == ""
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "option, reason",
    [
        ("--prompt=to b€", "never seen '€'; leave them out: it knows"),
        ("--temperature=-1", "temperature -1.0 is out of range"),
        ("--top-k=0", "top_k 0 is out of range"),
        ("--top-p=1.5", "top_p 1.5 is out of range"),
        ("--seed=99999999999999999999999", "seed 99999999999999999999999 is out of range"),
        ("--run=nowhere", "nowhere holds no run"),
    ],
)
def test_a_bad_wish_is_a_sentence(mlx_gpt, run, option, reason):
    result = mlx_gpt("generate", option)
    assert is_a_sentence(result) and reason in result.err and result.out == ""


def test_a_sentence_shows_values_as_they_are(mlx_gpt):
    assert "[bold]x[/bold].txt" in mlx_gpt("train", *NO_CORPUS, "--data=[bold]x[/bold].txt").err


def test_no_run_yet_is_a_sentence_with_the_way_to_get_one(mlx_gpt):
    result = mlx_gpt("generate")
    assert is_a_sentence(result) and "train one with mlx-gpt train" in result.err


def test_a_damaged_checkpoint_is_a_sentence(mlx_gpt, run):
    run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:-1])
    for command in (["generate"], ["eval"], ["train", "--resume=runs/1", "--num-iter=12"]):
        result = mlx_gpt(*command)
        assert is_a_sentence(result) and "is damaged" in result.err and result.out == ""


@pytest.mark.skipif(mx.is_available(mx.gpu), reason="there is a GPU here")
@pytest.mark.parametrize("command", [["train", *TINY], ["generate"], ["eval"]])
def test_a_gpu_that_is_not_there_is_a_sentence(mlx_gpt, command):
    result = mlx_gpt(*command, "--device=gpu")
    assert is_a_sentence(result) and "--device gpu finds no GPU" in result.err


@pytest.mark.parametrize(
    "arguments",
    [["train", "--colour=red"], ["train", "--num-iter=many"], ["train", "--backend=zygote"], ["train", "--device=abacus"],
     ["generate", "--tokens=0"], ["generate", "--num-samples=0"], ["generate", "--seed=-1"], ["eval", "--split=test"], ["dance"]],
    ids=" ".join,
)  # fmt: skip
def test_a_command_that_makes_no_sense_is_a_usage_error(mlx_gpt, arguments):
    result = mlx_gpt(*arguments)
    assert result.status == 2 and result.err.startswith("Usage: ") and result.out == ""
    assert not Path("runs").exists()


# ---- the program


def test_it_tells_its_version(mlx_gpt):
    assert mlx_gpt("--version").out == f"mlx-gpt {version('mlx-nanogpt')}\n"


def test_python_m_is_the_same_program():
    with in_a_process("-m", "mlx_nanogpt_cli", "--version") as process:
        assert process.communicate()[0] == f"mlx-gpt {version('mlx-nanogpt')}\n"
    assert process.returncode == 0


def test_help_is_grouped_and_tells_the_defaults(mlx_gpt, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    result = mlx_gpt("train", "--help")
    assert result.status == 0
    assert all(
        f"─ {panel} ─" in result.out
        for panel in ("Text", "Model", "Training", "Optimizer", "Evaluation", "Machine", "Run")
    )
    assert re.search(r"--num-iter +<steps> +How often the weights are updated\. .*\[default: 5000\]", result.out)
    assert re.search(r"(?s)--data .*\[default: tinyshakespeare\]", result.out)  # on the lines below


@pytest.mark.skipif(mx.default_device() != mx.cpu, reason="only MLX's CPU backend needs a compiler")
def test_a_compiled_backend_that_cannot_compile_says_so(mlx_gpt, monkeypatch):
    assert "needs g++" not in mlx_gpt("train", *TINY).out or shutil.which("g++") is None
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "needs g++" in mlx_gpt("train", *TINY).out
    assert "needs g++" not in mlx_gpt("train", *TINY, "--backend=eager").out
