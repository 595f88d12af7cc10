"""The promises of the configurations: NanoLux's defaults, and no value that cannot work."""

import math

import pytest

from mlx_nanogpt import GPTConfig, TrainConfig, UserError


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
