"""The configurations: NanoLux's defaults, no value that cannot work, and presets that are what they name."""

import math
from dataclasses import asdict

import pytest
from mlx_nanogpt import GPT, PRESETS, GPTConfig, TrainConfig, UserError, preset
from mlx_nanogpt.config import tokens_per_step
from mlx_nanogpt.measure.benchmark import NANOLUX_TRAIN

DEFAULTS = asdict(GPTConfig()) | asdict(TrainConfig())
PUBLISHED = ("nanolux", "laptop", "baby", "gpt2")


def test_the_defaults_are_nanoluxs():
    nanolux = {"n_embd": 64, "block_size": 64, "head_size": 16, "n_layer": 6, "batch_size": 32, "num_iter": 5000}
    nanolux |= {"learning_rate": 1e-3, "eval_interval": 500, "dropout": 0.0, "backend": "compiled"}
    assert DEFAULTS | nanolux == DEFAULTS


def test_the_width_and_the_head_size_give_the_number_of_heads():
    assert GPTConfig(n_embd=48, head_size=16).n_head == 3


BAD = {
    GPTConfig: {
        **dict.fromkeys(("vocab_size", "block_size", "n_layer", "n_embd"), (0, -1, 2.5, 10**12, 10**400)),
        "head_size": (0, -16, 2**17),
        "dropout": (-0.1, 1, 1.5, math.nan, math.inf),
    },
    TrainConfig: {
        **dict.fromkeys(("num_iter", "batch_size", "eval_interval", "eval_iters"), (0, -1, 2.5, 10**12)),
        "seed": (-1, 2**64),
        "learning_rate": (0, -1e-3, 2, math.nan, math.inf, 1e-46),
        "backend": ("zygote",),
    },
}
BAD = [(config, name, value) for config, names in BAD.items() for name, values in names.items() for value in values]


@pytest.mark.parametrize("config, name, value", BAD, ids=[f"{name}-{str(value)[:9]}" for _, name, value in BAD])
def test_a_bad_value_is_refused_by_name_with_a_remedy(config, name, value):
    with pytest.raises(UserError, match=r"; (give|choose) ") as error:
        config(**{name: value})
    assert name in str(error.value) and str(value) in str(error.value)


@pytest.mark.parametrize(
    "config, settings, reason",
    [
        (GPTConfig, {"n_embd": 12, "head_size": 5}, r"head_size 5 .* n_embd 12.*: 1, 2, 3, 4, 6, 12$"),
        (GPTConfig, {"n_embd": 30, "head_size": 3, "position": "rope"}, "head_size 3 is odd"),
        (GPTConfig, {"n_embd": 30, "head_size": 15, "position": "rope"}, "head_size 15 is odd"),
        (GPTConfig, {"n_embd": 10**400}, "n_embd 1000.* is out of range; give a whole number from 1 to 65536"),
        (TrainConfig, {"schedule": "linear"}, "schedule linear is never used without a decay; give lr_decay_iters"),
        (TrainConfig, {"muon_lr": 0.1}, "muon_lr 0.1 is never used by the optimizer adam; leave it out, or give the"),
        (TrainConfig, {"learning_rate": 1e-46}, "1e-46 is out of range; give a number from 1.17549435e-38 to 1"),
        (TrainConfig, {"min_lr": 0.1}, "min_lr 0.1 is out of range; give a number from 0 to learning_rate, 0.001"),
        (TrainConfig, {"min_lr": 1e-4}, "min_lr 0.0001 is never reached without a decay"),
        (TrainConfig, {"lr_decay_iters": 5, "warmup_iters": 5}, "lr_decay_iters 5 is not after warmup_iters 5"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_together_are_refused_with_the_reason(config, settings, reason):
    with pytest.raises(UserError, match=reason):
        config(**settings)


def test_the_smallest_rate_that_float32_holds_is_accepted():
    assert TrainConfig(learning_rate=1.17549435e-38)


def test_a_configuration_cannot_be_changed_behind_its_checks():
    with pytest.raises(AttributeError):
        GPTConfig().n_embd = -1


# ---- presets


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_differs_from_the_defaults_in_its_settings_and_only_there(name):
    gpt, train = preset(name)
    found = asdict(gpt) | asdict(train)
    changed = {key: value for key, value in found.items() if value != DEFAULTS[key]}
    assert changed == {key: value for key, value in PRESETS[name].settings.items() if key != "tokenizer"}
    assert PRESETS[name].description


@pytest.mark.parametrize("modern, older", [("modern", "nanolux"), ("baby-modern", "baby")])
def test_a_modern_preset_has_the_shape_and_the_tokens_of_the_older_one(modern, older):
    configs = [preset(name) for name in (modern, older)]
    shapes = [
        (gpt.n_layer, gpt.n_embd, gpt.head_size, gpt.block_size, train.num_iter * tokens_per_step(gpt, train))
        for gpt, train in configs
    ]
    assert shapes[0] == shapes[1] and configs[0][1].train_fraction == configs[1][1].train_fraction


@pytest.mark.parametrize("name", ["minute", "modern", "baby-modern", "hour"])
def test_the_rate_of_a_modern_preset_falls_until_its_last_step(name):
    _, train = preset(name)
    assert train.lr_decay_iters == train.num_iter and train.min_lr == 0


def test_the_presets_are_nanoluxs_and_nanogpts():
    sizes = {name: preset(name) for name in PRESETS}
    shapes = {name: (gpt.n_layer, gpt.n_head, gpt.n_embd, gpt.block_size) for name, (gpt, _) in sizes.items()}
    assert shapes == {
        "nanolux": (6, 4, 64, 64), "minute": (6, 4, 64, 64), "modern": (6, 4, 64, 64), "laptop": (4, 4, 128, 64),
        "baby": (6, 6, 384, 256), "baby-modern": (6, 6, 384, 256), "hour": (6, 4, 128, 128),
        "gpt2": (12, 12, 768, 1024),
    }  # fmt: skip
    keys = ("num_iter", "batch_size", "learning_rate", "min_lr", "warmup_iters", "lr_decay_iters", "beta2")
    schedules = {name: tuple(getattr(sizes[name][1], key) for key in keys) for name in PUBLISHED}
    assert schedules == {
        "nanolux": (5000, 32, 1e-3, 0, 0, 0, 0.999), "laptop": (2000, 12, 1e-3, 1e-4, 100, 2000, 0.99),
        "baby": (5000, 64, 1e-3, 1e-4, 100, 5000, 0.99), "gpt2": (600_000, 12, 6e-4, 6e-5, 2000, 600_000, 0.95),
    }  # fmt: skip
    assert sizes["nanolux"] == (GPTConfig(), NANOLUX_TRAIN) and NANOLUX_TRAIN.eval_iters == 1000
    assert tokens_per_step(*sizes["gpt2"]) == 491_520  # the half a million of nanoGPT's comment


def test_gpt2_has_124_million_parameters():
    V, T, L, C = 50257, 1024, 12, 768
    matrices = C * 3 * C + C * C + C * 4 * C + 4 * C * C  # of a block: c_attn, c_proj, c_fc, c_proj
    expected = V * C + T * C + L * (matrices + 2 * C) + C  # the head is the token embedding; norms without biases
    assert expected == 124_337_664
    assert GPT(preset("gpt2")[0]).num_parameters() == expected
