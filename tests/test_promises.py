"""The promises that belong to no single module: the layers of the house, and a floor that no honest model goes below."""

import ast
from pathlib import Path

import mlx.core as mx
import pytest
from conftest import python

import mlx_nanogpt as gpt

MODULES = {path.stem: ast.parse(path.read_text()) for path in Path(gpt.__file__).parent.glob("*.py")}


# ---- the layers


def test_the_library_alone_loads_neither_typer_nor_rich():
    loaded = python("import sys, mlx_nanogpt; print(*sorted({name.partition('.')[0] for name in sys.modules}))").split()
    assert "mlx" in loaded
    assert not {"typer", "rich", "click", "mlx_nanogpt_cli"} & set(loaded)
    assert not {"tokenizers", "huggingface_hub"} & set(loaded)  # extras, for those who use them


@pytest.mark.parametrize("module", MODULES)
def test_the_library_never_prints(module):
    nodes = list(ast.walk(MODULES[module]))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    attributes = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
    assert not {"print", "input"} & names and not {"sys.stdout", "sys.stderr"} & attributes


def test_all_names_of_the_library_are_public_and_typed():
    imports = [node for node in MODULES["__init__"].body if isinstance(node, ast.ImportFrom)]
    names = [each.asname or each.name for node in imports for each in node.names]
    assert sorted(gpt.__all__) == sorted(names)
    assert (Path(gpt.__file__).parent / "py.typed").exists()


def imported(module: str) -> set[str]:
    """The modules of ours that `module` imports."""
    nodes = [node for node in ast.walk(MODULES[module]) if isinstance(node, ast.ImportFrom) and node.level]
    return {name for node in nodes for name in ([node.module] if node.module else [each.name for each in node.names])}


def test_arrows_point_one_way():
    rest = {module: imported(module) for module in MODULES if module != "__init__"}
    while settled := {module for module, needs in rest.items() if not needs & rest.keys()}:
        rest = {module: needs for module, needs in rest.items() if module not in settled}
    assert rest == {}, "these import each other in a circle"


@pytest.mark.parametrize("module", ["config", "pastiche", "tokenizer", "errors", "files"])
def test_the_ground_floor_stands_on_nothing_of_ours(module):
    assert imported(module) <= {"errors"}


# ---- the floor of the built-in corpus


@pytest.fixture(scope="module")
def pastiche():
    return gpt.tokenize(gpt.load_corpus("pastiche"))


def test_a_trained_model_stays_above_the_floor(pastiche):
    config = gpt.GPTConfig(pastiche.tokenizer.vocab_size, block_size=16, n_layer=1, n_embd=32, head_size=8)
    train_config = gpt.TrainConfig(num_iter=60, eval_interval=60, eval_iters=1, learning_rate=1e-2)
    run = gpt.create_run(config, train_config, pastiche)
    list(gpt.train(run, pastiche))
    loss = gpt.make_evaluate(run.load_model(), "eager")(pastiche.valid, 400)
    assert pastiche.floor < loss < 3  # it has learned something, and nothing that it could not know


class Leaky(gpt.GPT):
    """Looks one token ahead, as an inverted or missing mask would let it: all but the last target are in plain sight."""

    def __call__(self, idx: mx.array) -> mx.array:
        ahead = 20.0 * (idx[:, 1:, None] == mx.arange(self.config.vocab_size))  # (B, T - 1, V)
        return mx.concatenate([ahead, mx.zeros_like(ahead[:, :1])], axis=1)


def test_a_model_that_sees_the_future_falls_below_the_floor(pastiche):
    config = gpt.GPTConfig(pastiche.tokenizer.vocab_size, block_size=16, n_layer=1, n_embd=8, head_size=8)
    assert gpt.make_evaluate(Leaky(config), "eager")(pastiche.valid, 400) < pastiche.floor
