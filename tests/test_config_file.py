"""Presets and settings files: every setting holds, and every mistake is a sentence."""

import random
import sys
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from mlx_nanogpt import PRESETS, GPTConfig, TrainConfig, UserError
from conftest import OTHER_SETTINGS
from mlx_nanogpt.config import SETTINGS, configurations
from mlx_nanogpt.config_file import KEYS, preset_settings, read_config_file, write_config_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = Path("mine.toml")
# Every key with a value that is not the default.
OTHERS = {
    "data": ["play.txt"],
    "valid_data": ["verse.txt"],
    "documents": "lines",
    "tokenizer": "bpe",
    "vocab_size": 300,
    "init_from": "runs/1",
    "teacher": ["runs/2"],
} | OTHER_SETTINGS


def read(text: str | bytes) -> dict:
    FILE.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_config_file(FILE)


def refusal(text: str | bytes) -> str:
    with pytest.raises(UserError) as error:
        read(text)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- settings


def test_every_field_of_the_configurations_is_a_key():
    own = [field.name for field in (*fields(GPTConfig), *fields(TrainConfig))]
    assert sorted(KEYS) == sorted(["data", "valid_data", "documents", "tokenizer", "init_from", "teacher", *own])


def test_every_setting_has_another_value_to_be_tested_with():
    assert OTHER_SETTINGS.keys() == SETTINGS.keys(), "give a new setting a line in OTHER_SETTINGS of conftest.py"
    assert not [name for name, field in SETTINGS.items() if OTHER_SETTINGS[name] == field.default]


def test_every_key_holds():
    defaults = asdict(GPTConfig()) | asdict(TrainConfig())
    gpt, train = configurations(read(write_config_file(OTHERS)))
    found = asdict(gpt) | asdict(train)
    for key in KEYS[7:]:
        assert found[key] == OTHERS[key] != defaults[key], key


def test_what_is_written_is_read_and_is_what_anybody_else_reads():
    text = write_config_file(OTHERS)
    assert read(text) == OTHERS
    assert tomllib.loads(text) == OTHERS | {"data": "play.txt", "valid_data": "verse.txt", "teacher": "runs/2"}


@pytest.mark.parametrize(
    "text, settings",
    [
        ("", {}),
        ("n_layer = 4\n", {"n_layer": 4}),
        (b"\xef\xbb\xbfn_layer = 4\r\nseed = 3\r\n", {"n_layer": 4, "seed": 3}),  # of Windows
        ('data = "a.txt"', {"data": ["a.txt"]}),
        ('data = ["a.txt"]', {"data": ["a.txt"]}),
        ('data = ["a.txt", "b.txt"]', {"data": ["a.txt", "b.txt"]}),
    ],
)
def test_a_file_holds_its_settings_and_no_others(text, settings):
    assert read(text) == settings


@pytest.mark.parametrize(
    "name",
    ['"quoted" \\ and\\n', "'", '"""', "naïve ☕ 𝄞", "".join(map(chr, range(1, 0x20))), "\x7f\x80\u2028", "#", " x "],
)
def test_any_name_survives_the_file(name):
    text = write_config_file({"data": [name, "b"], "bias": name}, [f"about {name}"])
    assert tomllib.loads(text) == {"data": [name, "b"], "bias": name}
    assert text.splitlines()[0].startswith("# about ")


def test_a_name_that_is_not_unicode_is_a_sentence():
    with pytest.raises(UserError, match="caf.udce9.txt' is not Unicode.*; rename"):
        write_config_file({"data": ["caf\udce9.txt"]})


# ---- mistakes


@pytest.mark.parametrize(
    "text, reason",
    [
        ("\nn_layers = 4", ", line 2: n_layers is not a setting; did you mean n_layer?"),
        ("n-layer = 4", ", line 1: n-layer is not a setting; did you mean n_layer?"),
        ('"learningrate" = 4', ", line 1: learningrate is not a setting; did you mean learning_rate?"),
        ("max_iters = 4", ", line 1: max_iters is not a setting; did you mean num_iter?"),
        ("n_head = 4", ", line 1: n_head is not a setting; did you mean head_size?"),
        (
            "xyzzy = 4",
            ", line 1: xyzzy is not a setting; the settings are data, valid_data, documents, tokenizer, vocab_size, init_from, teacher, t",
        ),
        ("vocab_size = 65", ": vocab_size needs tokenizer bpe; leave it out, or set the tokenizer"),
        ('run_dir = "x"', ", line 1: run_dir is not a setting;"),
        ('resume = "x"', ", line 1: resume is not a setting;"),
        ('device = "cpu"', ", line 1: device is not a setting;"),
        ('preset = "laptop"', ", line 1: preset is not a setting;"),
        ('config = "a.toml"', ", line 1: config is not a setting;"),
        ("seed = 3\n[model]\nn_layer = 4", ", line 2: settings are not grouped; take them out of the table 'model'"),
        ("n_layer.x = 4", ", line 1: settings are not grouped; take them out of the table 'n_layer'"),
        ('"a\\nb" = 1', ": a\\u000Ab is not a setting;"),
        ("n_layer = 4\nn_layer = 5", " is not TOML: Cannot overwrite a value (at line 2, column 12); correct it there"),
        ("n_layer = four", " is not TOML: Invalid value (at line 1, column 11); correct it there"),
        ("n_layer = 4\nseed =", " is not TOML: Invalid value (at line 2, column 7); correct it there"),
        ("n_layer 4", "line 1, column 9"),
        ("data = " + "[" * 10_000, " is not TOML: "),
        ("n_layer = " + "9" * 5000, " is not TOML: "),
        ("n_layer = 0x" + "f" * 5000, ", line 1: n_layer has more than the 64 bits of TOML's whole numbers"),
        ("grad_clip = 9223372036854775808", ", line 1: grad_clip has more than the 64 bits of TOML's whole numbers"),
        ('n_layer = "4"', ": n_layer '4' is not a number; give a whole number from 1 to 1000"),
        ("n_layer = 4.0", ": n_layer 4.0 is out of range; give a whole number from 1 to 1000"),
        ("n_layer = true", ": n_layer True is not a number; give a whole number"),
        ("learning_rate = nan", ": learning_rate nan is out of range; give a number"),
        ('learning_rate = "1e-3"', ": learning_rate '1e-3' is not a number; give a number"),
        ("learning_rate = 2024-01-01", "is not a number; give a number"),
        ("tied = 1", ": tied 1 is not known; choose one of: true, false"),
        ('tokenizer = "words"', ": tokenizer 'words' is not known; choose one of: char, bpe, gpt2"),
        ("init_from = 3", ": init_from 3 is not a name; give a name in quotes"),
        ('bias = "some"', ": bias 'some' is not known; choose one of: lecture, all, none"),
        ("bias = [1]", ": bias [1] is not known; choose one of: lecture, all, none"),
        ("n_embd = 100", ": head_size 16 does not divide n_embd 100"),
        ("data = 3", ": data 3 does not name a text;"),
        ("data = []", ": data [] does not name a text;"),
        ('data = ""', ": data '' does not name a text;"),
        ('data = ["a", 3]', ": data ['a', 3] does not name a text;"),
        ('data = "a\\u0000b"', ": data 'a\\x00b' does not name a text;"),
        (b"seed = 3\n# caf\xe9", ", line 2: byte 0xe9 is not UTF-8; save it as UTF-8"),
    ],
)
def test_a_mistake_is_a_sentence_that_names_the_file_and_the_place(text, reason):
    message = refusal(text)
    assert message.startswith("mine.toml") and reason in message


def test_a_line_that_is_not_certain_is_left_out():
    assert refusal('data = """\nnope = 1\n"""\nnope = 2').startswith("mine.toml: nope is not a setting")


@pytest.mark.parametrize(
    "path, reason",
    [
        ("nowhere.toml", "nowhere.toml cannot be read .No such file or directory.; name"),
        (".", "cannot be read .Is a directory.; name"),
        ("/dev/zero", "/dev/zero has more than 1,048,576 bytes, too many for settings"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_sentence(path, reason):
    if path == "/dev/zero" and not Path(path).exists():
        pytest.skip("there is no endless file here")
    with pytest.raises(UserError, match=reason):
        read_config_file(Path(path))


def test_a_damaged_file_is_a_configuration_or_a_sentence():
    rng, whole = random.Random(11), write_config_file(OTHERS, ["about"]).encode()
    outcomes = {"read": 0, "refused": 0}
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 1, 1, 2, 8])):
            at = rng.randrange(len(damaged))
            match rng.randrange(4):
                case 0:
                    damaged[at] = rng.randrange(256)
                case 1:
                    damaged.insert(at, rng.choice(b"0123456789.-+eE_\"'[]{}#=\n\\ tfinax"))
                case 2:
                    del damaged[at]
                case 3:
                    damaged[at:] = damaged[at : at + rng.randrange(20)]
            damaged = damaged or bytearray(b"\n")
        try:
            settings = read(bytes(damaged))
        except UserError as error:
            assert str(error).startswith("mine.toml")
            outcomes["refused"] += 1
        else:
            assert settings.keys() <= set(KEYS)
            configurations(settings)
            assert read(write_config_file(settings)) == settings
            outcomes["read"] += 1
    assert min(outcomes.values()) > 40  # both happen


# ---- presets


@pytest.mark.parametrize("name, nearest", [("lapto", "laptop"), ("gpt-2", "gpt2"), ("nano_lux", "nanolux")])
def test_an_unknown_preset_is_refused_with_the_nearest_and_all(name, nearest):
    expected = f"preset '{name}' is not known; did you mean {nearest}? The presets are {', '.join(PRESETS)}"
    with pytest.raises(UserError) as error:
        preset_settings(name)
    assert str(error.value) == expected


def test_the_settings_of_a_preset_are_a_copy():
    preset_settings("laptop")["n_layer"] = 99
    assert preset_settings("laptop")["n_layer"] == 4
