"""The promises of the seed's table: its six metrics as defined, and an honest list of what may not be compared."""

import pytest

from mlx_nanogpt import PUBLISHED, Evaluation, GPTConfig, TrainConfig, seed_differences, seed_metrics


def evaluation(iteration: int, train_seconds: float, eval_seconds: float, loss: float) -> Evaluation:
    return Evaluation(iteration, loss, loss + 0.5, 1000, train_seconds, 100, eval_seconds, "play.txt", "cpu")


def test_the_metrics_are_those_of_the_seed():
    metrics = seed_metrics([evaluation(500, 9, 2, 3.0), evaluation(1000, 4, 3, 2.0), evaluation(1500, 6, 4, 1.0)])
    assert (metrics.first_epoch, metrics.average_epoch) == (9, 5)  # the first, which compiles, is not in the average
    assert (metrics.estimate, metrics.total) == (3, 28)
    assert (metrics.train_loss, metrics.valid_loss) == (1.0, 1.5)


def test_one_epoch_has_no_average():
    assert seed_metrics([evaluation(500, 9, 2, 3.0)]).average_epoch is None


def test_the_published_columns_are_the_published_ones():
    assert (PUBLISHED["Reactant"].total, PUBLISHED["Reactant"].valid_loss) == (504, 1.78198)
    assert (PUBLISHED["Zygote"].total, PUBLISHED["Zygote"].valid_loss) == (873, 1.78110)


def test_the_seeds_own_protocol_departs_in_nothing():
    assert seed_differences(GPTConfig(vocab_size=99), TrainConfig(eval_iters=1000, seed=3, backend="eager")) == {}


@pytest.mark.parametrize("gpt, train, name", [({"n_layer": 2}, {}, "n_layer"), ({}, {"num_iter": 10}, "num_iter")])
def test_a_departure_is_named_with_both_values(gpt, train, name):
    here, there = (gpt | train)[name], {"n_layer": 6, "num_iter": 5000}[name]
    assert seed_differences(GPTConfig(**gpt), TrainConfig(**{"eval_iters": 1000} | train)) == {name: (here, there)}
