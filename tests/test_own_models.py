"""The promises to whoever changes the model: an edit of model.py is what runs, and a model of one's own trains, resumes and writes."""

import functools
import json
import re
import runpy
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import mlx_nanogpt as gpt
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from conftest import (
    DATA,
    SESSION_CACHE,
    TOKENIZER,
    asked,
    checkpoint_arrays,
    finish,
    fully_prepared,
    python,
    same,
    tiny_gpt,
    tiny_run,
)
from mlx_nanogpt.machine import machine
from mlx_nanogpt.model import own_class
from mlx_nanogpt.runs import run as run_module

pytestmark = fully_prepared  # what a machine assumes of a model must not be assumed of these


def run_of_two_blocks(path: Path | str | None = None, **changes) -> gpt.Run:
    """A new run for a model of `tiny_gpt`."""
    return tiny_run(path, n_layer=2, **changes)


# ---- an edit of model.py

EDITS = {
    "post-norm": (
        "x = x + self.attn(self.ln_1(x), cache, mask)\n        return x + self.mlp(self.ln_2(x))",
        "x = self.ln_1(x + self.attn(x, cache, mask))\n        return self.ln_2(x + self.mlp(x))",
    ),
    "another activation": ('"relu": nn.ReLU,', '"relu": nn.Tanh,'),
    "attention without scale": ("self.scale = config.head_size**-0.5", "self.scale = 1.0"),
}
# Prints the losses of five steps, of an evaluation, and a greedy text: with the leaves of this machine, and then with none.
SCRIPT = """
import json, sys, types
import mlx_nanogpt as gpt, mlx.core as mx, numpy as np
from mlx.utils import tree_map
from mlx_nanogpt import machine
for platform in (sys.platform, "darwin"):
    machine.sys = types.SimpleNamespace(platform=platform)
    if platform == "darwin":
        machine.use_own = lambda model: None
    mx.random.seed(1)
    model = gpt.GPT(gpt.GPTConfig(vocab_size=11, block_size=8, n_layer=2, n_embd=16, head_size=8))
    model.update(tree_map(lambda p: p + 0.3 * mx.random.normal(p.shape), model.parameters()))
    config = gpt.TrainConfig(learning_rate=0.01)
    optimizer = gpt.make_optimizer(config)
    optimizer.init(model.trainable_parameters())
    step, idx = gpt.make_step(model, optimizer, config), mx.random.randint(0, 11, (4, 8), key=mx.random.key(2))
    losses = [step(idx, (idx + 1) % 11)[0].item() for _ in range(5)]
    tokens = np.random.default_rng(1).integers(11, size=500).astype(np.uint16)
    losses.append(gpt.estimate_loss(model, tokens, 20))
    print(json.dumps([losses, list(gpt.generate(model, [1], 20, 3, gpt.make_sampler(temperature=0)))]))
"""


def losses_and_text(edit: tuple[str, str] | None) -> list[list]:
    """Run SCRIPT with a copy of the library in which `edit` was made in model.py."""
    shutil.copytree(Path(gpt.__file__).parent, "copy/mlx_nanogpt", dirs_exist_ok=True)
    if edit:
        file = Path("copy/mlx_nanogpt/model.py")
        source = file.read_text(encoding="utf-8")
        assert source.count(edit[0]) == 1
        file.write_text(source.replace(*edit), encoding="utf-8")
    script = f"import sys; sys.path.insert(0, 'copy')\n{SCRIPT}"
    return [json.loads(line) for line in python(script).splitlines()]


def test_a_run_warns_when_the_model_was_edited_since(monkeypatch):
    run = run_of_two_blocks()
    finish(run)
    monkeypatch.setattr(run_module, "model_checksum", lambda: 7)
    with pytest.warns(RuntimeWarning, match="model.py was edited since the run runs/1 was trained"):
        run.load_model()
    monkeypatch.setattr(run_module, "package_versions", lambda: {"mlx-nanogpt": "9.9", "mlx": "9.9"})
    run.load_model()  # of another version it is expected


@pytest.fixture(scope="module")
def unedited(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("unedited"))
        return losses_and_text(None)


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edit_of_the_model_is_what_runs_in_training_evaluation_and_generation(unedited, edit):
    (losses, text), (plain_losses, plain_text) = losses_and_text(edit)
    np.testing.assert_allclose(losses, plain_losses, rtol=1e-4)  # five steps of Adam, in float32
    assert text == plain_text
    difference = np.abs(np.array(losses) - unedited[0][0])
    assert difference.min() > 1e-3  # in the first step, in each later one, and in the evaluation


# ---- a model of one's own


class MeanBlock(nn.Module):
    """Each token adds the mean of the tokens so far: no attention, no cache."""

    def __init__(self, config: gpt.GPTConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.n_embd)
        self.linear = nn.Linear(config.n_embd, config.n_embd)

    def __call__(self, x: mx.array) -> mx.array:
        means = mx.cumsum(self.norm(x), axis=1) / mx.arange(1, x.shape[1] + 1)[:, None]  # (B, T, C)
        return x + self.linear(means)


class OwnGPT(gpt.GPT):
    """A GPT whose logits are scaled down."""

    def logits(self, x: mx.array) -> mx.array:
        return super().logits(x) / 2


class OwnCall(gpt.GPT):
    """A GPT that prefers what another one avoids. Its text is that of `__call__`, not of `next_logits`."""

    def __call__(self, idx: mx.array) -> mx.array:
        return -super().__call__(idx)


class OwnLoss(gpt.GPT):
    """A GPT whose loss is negative."""

    def loss(self, idx: mx.array, targets: mx.array) -> mx.array:
        return super().loss(idx, targets) - 100


class MaskedBlock(gpt.model.Block):
    """A block with a mask of its own, and heads that a cache has no room for."""

    def __init__(self, config: gpt.GPTConfig):
        super().__init__(replace(config, head_size=4))
        self.mask = mx.where(mx.arange(config.n_embd) < 0, -mx.inf, 0.0) - mx.where(
            mx.arange(config.n_embd) < 1, mx.inf, 0.0
        )
        self.freeze(keys=["mask"], recurse=False)

    def __call__(self, x: mx.array, cache=None, mask=None) -> mx.array:
        return super().__call__(x, cache, mask) + mx.exp(self.mask)


class OwnLinear(nn.Linear):
    def __call__(self, x: mx.array) -> mx.array:
        return 1.5 * super().__call__(x)


def with_own_blocks() -> gpt.GPT:
    model = gpt.GPT(tiny_gpt(dropout=0.2))
    model.h = [MeanBlock(model.config) for _ in model.h]
    return model


def with_masked_blocks() -> gpt.GPT:
    model = gpt.GPT(tiny_gpt(dropout=0.2))
    model.h = [MaskedBlock(model.config) for _ in model.h]
    return model


def with_own_leaf() -> gpt.GPT:
    model = gpt.GPT(tiny_gpt(dropout=0.2))
    model.h[0].mlp.c_fc = OwnLinear(16, 64)
    return model


OWN = {
    "subclass": (lambda: OwnGPT(tiny_gpt(dropout=0.2)), "OwnGPT"),
    "own call": (lambda: OwnCall(tiny_gpt(dropout=0.2)), "OwnCall"),
    "own loss": (lambda: OwnLoss(tiny_gpt(dropout=0.2)), "OwnLoss"),
    "own blocks": (with_own_blocks, "MeanBlock"),
    "masked blocks": (with_masked_blocks, "MaskedBlock"),
    "own leaf": (with_own_leaf, "OwnLinear"),
}
each_own = pytest.mark.parametrize("make, name", OWN.values(), ids=OWN)


@functools.cache
def train_own(make, *stops: int) -> Path:
    run = run_of_two_blocks(tempfile.mkdtemp(dir=SESSION_CACHE), dropout=0.2)
    for stop in [*stops, 10**6]:
        mx.random.seed(3)
        finish(run, asked(stop), model=make())
    return run.path


def own_run(make, path: str, *stops: int) -> gpt.Run:
    """A run trained with a model of `make`, stopped after each of `stops` steps and resumed by a new model."""
    shutil.copytree(train_own(make, *stops), path)
    return gpt.open_run(Path(path))


@each_own
def test_a_model_of_ones_own_resumes_bit_for_bit_and_is_named_in_its_run(make, name):
    whole, parts = own_run(make, "whole"), own_run(make, "parts", 3, 4)
    assert same(checkpoint_arrays(whole), checkpoint_arrays(parts))
    assert whole.model_class() == own_class(make()) == name
    assert len(whole.history()) == 2


@each_own
def test_a_model_of_ones_own_writes_and_is_evaluated_as_its_plain_form(make, name):
    model = own_run(make, "run").load_model(into=make()).eval()
    text = [TOKENIZER.start_token]
    for _ in range(20):  # one token after the other, nothing cached, beyond the context of 8
        text.append(int(mx.argmax(model(mx.array([text[-8:]]))[0, -1])))
    assert list(gpt.generate(model, text[:1], 20, 1, gpt.make_sampler(temperature=0))) == text[1:]
    tokens = DATA.valid_tokens[:9]
    expected = model.token_losses(mx.array(tokens[None, :-1]), mx.array(tokens[None, 1:])).mean().item()
    assert gpt.estimate_loss(model, tokens, 3) == pytest.approx(expected, rel=1e-5)


@each_own
def test_nothing_rebuilds_a_model_of_ones_own_as_a_plain_gpt(make, name, mlx_gpt):
    run = own_run(make, "run")
    refused = rf"the run run was trained with {name}, not with the GPT of this library; build that model"
    for action in (run.load_model, lambda: finish(run.extended(num_iter=12))):
        with pytest.raises(gpt.UserError, match=refused):
            action()
    for command in (["generate", "run"], ["train", "--resume=run", "--num-iter=12"], ["eval", "run"]):
        result = mlx_gpt(*command)
        assert result.status == 1 and f"{name}, not with the GPT of this library" in result.err, command


def test_the_list_of_runs_names_a_model_of_ones_own_and_recommends_nothing_that_refuses_it(mlx_gpt):
    finish(run_of_two_blocks(), model=OwnGPT(tiny_gpt()))
    listed = mlx_gpt("runs").out
    assert "model of your own, OwnGPT" in listed and "mlx-gpt" not in listed


def test_a_model_of_ones_own_is_not_exported_as_a_gpt_2(mlx_gpt):
    shape = {"tied": True, "activation": "gelu"}
    finish(run_of_two_blocks("run", **shape), model=OwnGPT(tiny_gpt(**shape)))
    result = mlx_gpt("export", "run", "--out=exported")
    assert result.status == 1 and "OwnGPT, not with the GPT of this library" in result.err
    assert not Path("exported").exists()


def test_a_plain_run_is_not_continued_with_a_model_of_ones_own():
    run = run_of_two_blocks()
    finish(run, asked(3))
    with pytest.raises(
        gpt.UserError, match=r"was trained with the GPT of this library, not with .*OwnGPT; start a new"
    ):
        finish(run, model=OwnGPT(tiny_gpt()))
    assert run.model_class() is None


def test_a_plain_gpt_with_the_leaves_of_a_machine_is_not_ones_own():
    model = gpt.GPT(tiny_gpt(activation="gelu", position="rope", norm="rmsnorm"))
    key = mx.random.state[0].tolist()
    assert own_class(model) is None
    machine().prepare(model, gpt.make_optimizer(gpt.TrainConfig()))
    assert own_class(model) is None and mx.random.state[0].tolist() == key
    model.h[1].mlp.activation = nn.SiLU()
    assert own_class(model) == "SiLU"


def change_scale(model: gpt.GPT) -> None:
    model.h[1].attn.scale = 1.0


def change_activation(model: gpt.GPT) -> None:
    model.h[0].mlp.activation = mx.tanh


def drop_block(model: gpt.GPT) -> None:
    model.h = model.h[:1]


def add_block(model: gpt.GPT) -> None:
    model.h = [*model.h, gpt.model.Block(model.config)]


@pytest.mark.parametrize(
    "change, name",
    [
        (change_scale, "Attention (h.1.attn)"),
        (change_activation, "MLP (h.0.mlp)"),
        (drop_block, "Block (h.1)"),
        (add_block, "Block (h.2)"),
    ],
)
def test_a_gpt_that_was_changed_by_hand_is_ones_own(change, name):
    model = gpt.GPT(tiny_gpt())
    change(model)
    assert own_class(model) == name
    run = run_of_two_blocks()
    finish(run, model=model)
    with pytest.raises(gpt.UserError, match=re.escape(f"was trained with {name}, not with")):
        run.load_model()
    other = gpt.GPT(tiny_gpt())
    change(other)
    tokens = DATA.valid_tokens
    assert gpt.estimate_loss(run.load_model(into=other), tokens, 8) == gpt.estimate_loss(model, tokens, 8)


@pytest.mark.parametrize("changes", [{"vocab_size": 5}, {"block_size": 4}, {"dropout": 0.5}])
def test_a_model_of_other_settings_than_the_runs_is_refused(changes):
    (name,) = changes
    for action in (lambda run, model: finish(run, model=model), lambda run, model: run.load_model(into=model)):
        with pytest.raises(gpt.UserError, match=f"the model has {name} .*; build it with run.gpt_config"):
            action(run_of_two_blocks(), gpt.GPT(tiny_gpt(**changes)))


def test_weights_in_bfloat16_are_refused_before_they_are_trained():
    model = gpt.GPT(tiny_gpt())
    model.set_dtype(mx.bfloat16)
    with pytest.raises(gpt.UserError, match="wte.weight of the model is .*bfloat16; keep float32 weights"):
        finish(run_of_two_blocks(), model=model)


def test_a_model_to_start_from_is_named_in_its_run():
    run = run_of_two_blocks("run")
    gpt.start_from(run, OwnGPT(tiny_gpt()))
    assert run.model_class() == "OwnGPT"
    finish(run, model=OwnGPT(tiny_gpt()))


@pytest.mark.parametrize("backend", ["compiled", "eager"])
def test_a_model_in_evaluation_mode_trains_with_dropout(backend):
    runs = []
    for prepare in (lambda model: model, lambda model: model.eval()):
        mx.random.seed(3)
        model = prepare(gpt.GPT(tiny_gpt(dropout=0.5)))
        runs.append(run_of_two_blocks(dropout=0.5, backend=backend))
        for record in gpt.train(runs[-1], DATA, sample_tokens=3, model=model):
            if isinstance(record, gpt.Evaluation):
                list(gpt.generate(model, [1], 2, seed=1))  # leaves the model in evaluation mode
                model.train()
    assert same(*map(checkpoint_arrays, runs))


def test_a_layer_keeps_its_mode_through_an_evaluation():
    model = gpt.GPT(tiny_gpt(dropout=0.5))
    model.h[0].eval()
    gpt.estimate_loss(model, DATA.valid_tokens, 4)
    assert not model.h[0].training and not model.h[0].mlp.dropout.training and model.h[1].training


class Mistaken(MeanBlock):
    def __call__(self, x: mx.array, cache=None, mask=None) -> mx.array:
        return nn.Dropout(0.5)(x) @ mx.zeros((3, 3))


def test_a_mistake_in_a_block_leaves_mlx_usable():
    model = gpt.GPT(tiny_gpt(dropout=0.2))
    model.h = [Mistaken(model.config)]
    with pytest.raises(ValueError, match="matmul"):
        finish(run_of_two_blocks(dropout=0.2), model=model)
    assert {module.training for module in model.modules()} == {True}
    finish(run_of_two_blocks())


# ---- the example


def test_the_example_trains_resumes_writes_and_has_its_curves(capsys, mlx_gpt):
    run = runpy.run_path(str(Path(gpt.__file__).parent / "examples/own_block.py"))["run"]
    shown = capsys.readouterr().out.splitlines()
    assert [line[:9] for line in shown[:2]] == [
        "step 100:",
        "step 200:",
    ] and "its curves: mlx-gpt report runs/1" in shown[-1]
    assert len(run.history()) == 2
    pytest.importorskip("plotly")
    assert mlx_gpt("report", run.path, "--out=page.html").status == 0
    assert len([line for line in run.log() if isinstance(line, gpt.Progress)]) == 20
    assert "200" in Path("page.html").read_text(encoding="utf-8")
