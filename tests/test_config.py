"""The promises of the configurations: NanoLux's defaults, and no value that cannot work."""

import math
from dataclasses import asdict

import pytest
from mlx_nanogpt import GPT, PRESETS, GPTConfig, TrainConfig, UserError, configurations
from mlx_nanogpt.config import tokens_per_step
from mlx_nanogpt.measure.benchmark import NANOLUX_TRAIN


def test_the_defaults_are_nanoluxs():
    model, training = GPTConfig(), TrainConfig()
    assert (model.n_embd, model.block_size, model.head_size, model.n_layer) == (64, 64, 16, 6)
    assert (training.batch_size, training.num_iter, training.learning_rate, training.eval_interval) == (
        32,
        5000,
        1e-3,
        500,
    )
    assert model.dropout == 0 and training.backend == "compiled"


def test_the_width_and_the_head_size_give_the_number_of_heads():
    assert GPTConfig(n_embd=48, head_size=16).n_head == 3


BAD = [
    *(
        (GPTConfig, name, value)
        for name in ("vocab_size", "block_size", "n_layer", "n_embd")
        for value in (0, -1, 10**12)
    ),
    *((GPTConfig, "head_size", value) for value in (0, -16, 2**17)),
    *((GPTConfig, "dropout", value) for value in (-0.1, 1, 1.5, math.nan, math.inf)),
    *((TrainConfig, name, value) for name in ("num_iter", "batch_size", "eval_interval") for value in (0, -1, 10**12)),
    *((TrainConfig, "eval_iters", value) for value in (0, -1, 10**12)),
    *((TrainConfig, "seed", value) for value in (-1, 2**64)),
    *((TrainConfig, "learning_rate", value) for value in (0, -1e-3, 2, math.nan, math.inf)),
    (TrainConfig, "backend", "zygote"),
    (GPTConfig, "n_layer", 2.5),
    (TrainConfig, "num_iter", 2.5),
]


@pytest.mark.parametrize("config, name, value", BAD)
def test_a_bad_value_is_refused_by_name_with_a_remedy(config, name, value):
    with pytest.raises(UserError, match=r"; (give|choose) ") as error:
        config(**{name: value})
    assert name in str(error.value) and str(value) in str(error.value)


def test_a_head_size_that_does_not_divide_the_width_names_those_that_do():
    with pytest.raises(UserError, match=r"head_size 5 .* n_embd 12.*: 1, 2, 3, 4, 6, 12$"):
        GPTConfig(n_embd=12, head_size=5)


def test_a_configuration_cannot_be_changed_behind_its_checks():
    with pytest.raises(AttributeError):
        GPTConfig().n_embd = -1


# ---- presets

DEFAULTS = asdict(GPTConfig()) | asdict(TrainConfig())


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_configuration_that_differs_from_the_defaults_where_it_says_so_and_only_there(name):
    gpt, train = configurations(PRESETS[name].settings)
    found = asdict(gpt) | asdict(train)
    assert {key: value for key, value in found.items() if value != DEFAULTS[key]} == {
        key: value for key, value in PRESETS[name].settings.items() if key != "tokenizer"
    }
    assert PRESETS[name].description


PUBLISHED = ("nanolux", "laptop", "baby", "gpt2")


@pytest.mark.parametrize("modern, older", [("modern", "nanolux"), ("baby-modern", "baby")])
def test_a_modern_preset_has_the_shape_and_the_tokens_of_the_older_one(modern, older):
    configs = [configurations(PRESETS[name].settings) for name in (modern, older)]
    shapes = [
        (gpt.n_layer, gpt.n_embd, gpt.head_size, gpt.block_size, train.num_iter * tokens_per_step(gpt, train))
        for gpt, train in configs
    ]
    assert shapes[0] == shapes[1] and configs[0][1].train_fraction == configs[1][1].train_fraction


@pytest.mark.parametrize("name", ["minute", "modern", "baby-modern"])
def test_the_rate_of_a_modern_preset_falls_until_its_last_step(name):
    _, train = configurations(PRESETS[name].settings)
    assert train.lr_decay_iters == train.num_iter and train.min_lr == 0


@pytest.mark.parametrize(
    "settings, reason",
    [
        ({"schedule": "linear"}, "schedule linear is never used without a decay; give lr_decay_iters, too"),
        ({"muon_lr": 0.1}, "muon_lr 0.1 is never used by the optimizer adam; leave it out, or give the optimizer muon"),
    ],
)
def test_a_setting_that_has_no_effect_is_refused(settings, reason):
    with pytest.raises(UserError, match=reason):
        TrainConfig(**settings)


@pytest.mark.parametrize("size", [3, 15])
def test_pairs_of_channels_need_an_even_head(size):
    with pytest.raises(UserError, match=f"head_size {size} is odd"):
        GPTConfig(n_embd=30, head_size=size, position="rope")


def test_the_presets_are_nanoluxs_and_nanogpts():
    sizes = {name: configurations(preset.settings) for name, preset in PRESETS.items()}
    shapes = {name: (gpt.n_layer, gpt.n_head, gpt.n_embd, gpt.block_size) for name, (gpt, _) in sizes.items()}
    assert shapes == {
        "nanolux": (6, 4, 64, 64), "minute": (6, 4, 64, 64), "modern": (6, 4, 64, 64), "laptop": (4, 4, 128, 64),
        "baby": (6, 6, 384, 256), "baby-modern": (6, 6, 384, 256), "gpt2": (12, 12, 768, 1024),
    }  # fmt: skip
    steps = {name: (train.num_iter, train.batch_size) for name, (_, train) in sizes.items() if name in PUBLISHED}
    assert steps == {"nanolux": (5000, 32), "laptop": (2000, 12), "baby": (5000, 64), "gpt2": (600_000, 12)}
    schedules = {
        name: (train.learning_rate, train.min_lr, train.warmup_iters, train.lr_decay_iters, train.beta2)
        for name, (_, train) in sizes.items()
        if name in PUBLISHED
    }
    assert schedules == {
        "nanolux": (1e-3, 0, 0, 0, 0.999), "laptop": (1e-3, 1e-4, 100, 2000, 0.99),
        "baby": (1e-3, 1e-4, 100, 5000, 0.99), "gpt2": (6e-4, 6e-5, 2000, 600_000, 0.95),
    }  # fmt: skip
    assert sizes["nanolux"] == (GPTConfig(), NANOLUX_TRAIN) and NANOLUX_TRAIN.eval_iters == 1000
    tokens = sizes["gpt2"][1].gradient_accumulation_steps * 12 * 1024
    assert tokens == 491_520  # the half a million of nanoGPT's comment


def test_gpt2_has_124_million_parameters():
    V, T, L, C = 50257, 1024, 12, 768
    matrices = C * 3 * C + C * C + C * 4 * C + 4 * C * C  # of a block: c_attn, c_proj, c_fc, c_proj
    expected = V * C + T * C + L * (matrices + 2 * C) + C  # the head is the token embedding; norms without biases
    assert expected == 124_337_664
    assert GPT(configurations(PRESETS["gpt2"].settings)[0]).num_parameters() == expected


def test_a_rate_that_float32_may_round_to_zero_is_refused():
    with pytest.raises(UserError, match="learning_rate 1e-46 is out of range; give a number from 1.17549435e-38 to 1"):
        TrainConfig(learning_rate=1e-46)
    assert TrainConfig(learning_rate=1.17549435e-38)


def test_a_number_of_hundreds_of_digits_is_out_of_range():
    with pytest.raises(UserError, match="n_embd 1000.* is out of range; give a whole number from 1 to 65536"):
        GPTConfig(n_embd=10**400)
