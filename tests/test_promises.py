"""Promises about more than one module: the order of the modules, and a floor that no honest model goes below."""

import ast
import re
from pathlib import Path

import mlx_nanogpt as gpt
import mlx.core as mx
import pytest
from conftest import python

LIBRARY = Path(gpt.__file__).parent
MODULES = {
    ".".join(path.relative_to(LIBRARY).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
    for path in LIBRARY.rglob("*.py")
    if path.parent.name != "examples"  # which print
}
CORE = ("config", "model", "training", "evaluation", "generation", "runs.run")  # what is read first
THE_DOOR = "machine"  # to its rooms


# ---- the layers


def test_the_library_alone_loads_neither_typer_nor_rich():
    loaded = python("import sys, mlx_nanogpt; print(*sorted({name.partition('.')[0] for name in sys.modules}))").split()
    assert "mlx" in loaded
    assert not {"typer", "rich", "click", "mlx_nanogpt_cli"} & set(loaded)
    assert not {"tokenizers", "huggingface_hub"} & set(loaded)  # extras, for those who use them


def test_the_library_never_prints():
    for module, tree in MODULES.items():
        nodes = list(ast.walk(tree))
        names = {node.id for node in nodes if isinstance(node, ast.Name)}
        attributes = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
        assert not {"print", "input"} & names and not {"sys.stdout", "sys.stderr"} & attributes, module


def test_all_names_of_the_library_are_public_and_typed():
    imports = [node for node in MODULES["__init__"].body if isinstance(node, ast.ImportFrom)]
    names = [alias.asname or alias.name for node in imports for alias in node.names]
    assert sorted(gpt.__all__) == sorted(name for name in names if name != "_machine")  # imported for what it does
    assert (Path(gpt.__file__).parent / "py.typed").exists()


def imported(module: str) -> set[str]:
    """The modules of ours that `module` imports."""
    found = set()
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = module.split(".")[: -node.level]
            named = [*folder, *(node.module or "").split(".")] if node.module else folder
            # "from . import x" names a module x, "from .x import y" the module x, or y in the folder x
            for name in (".".join([*named, alias.name]) for alias in node.names):
                found.add(name if name in MODULES else ".".join(named))
    return found - {module}


def test_arrows_point_one_way():
    rest = {module: imported(module) for module in MODULES if not module.endswith("__init__")}
    while settled := {module for module, needs in rest.items() if not needs & rest.keys()}:
        rest = {module: needs for module, needs in rest.items() if module not in settled}
    assert rest == {}, "these import each other in a circle"


@pytest.mark.parametrize("module", ["config", "errors", "files", "text.pastiche", "text.characters"])
def test_the_ground_floor_stands_on_little_of_ours(module):
    assert imported(module) <= {"errors", "config", "text.grammar"}


def test_hardware_has_one_door():
    for module in MODULES:
        rooms = {name for name in imported(module) if name.startswith(("machine.gpu", "machine.linux_cpu"))}
        assert module.startswith(THE_DOOR) or not rooms, module


@pytest.mark.parametrize("module", CORE)
def test_the_core_knows_no_platform(module):
    source = ast.unparse(MODULES[module])  # without comments
    assert not re.search(r"linux|darwin|sys\.platform|openblas|metal\.is_available", source, re.IGNORECASE)


AS_A_MAC = """
import os, sys, sysconfig, types
sysconfig.get_config_vars()  # it remembers those of this system
sys.platform = "darwin"
sys.modules["_scproxy"] = types.SimpleNamespace(_get_proxies=dict, _get_proxy_settings=dict)  # urllib imports it there
os.environ.pop("MLX_BFS_MAX_WIDTH", None)
import pytest
assert pytest.main(["--collect-only", "-qq", "-n0", "-p", "no:cacheprovider", *sys.argv[1:]]) == 0
assert "mlx_nanogpt.machine.linux_cpu.machine" not in sys.modules and "MLX_BFS_MAX_WIDTH" not in os.environ
"""


@pytest.mark.slow
def test_a_macs_suite_is_collected_without_what_sets_up_linux():
    assert "test_blas.py" in python(AS_A_MAC, Path(__file__).parent / "machine")


# ---- the floor of pastiche


@pytest.fixture(scope="module")
def pastiche():
    return gpt.tokenize(gpt.load_corpus("pastiche"))


def test_a_trained_model_stays_above_the_floor(pastiche):
    config = gpt.GPTConfig(pastiche.tokenizer.vocab_size, block_size=16, n_layer=1, n_embd=32, head_size=8)
    train_config = gpt.TrainConfig(num_iter=60, eval_interval=60, eval_iters=1, learning_rate=1e-2)
    run = gpt.create_run(config, train_config, pastiche)
    list(gpt.train(run, pastiche))
    loss = gpt.estimate_loss(run.load_model(), pastiche.valid_tokens, 400, "eager")
    assert pastiche.floor < loss < 3  # it learned something, but nothing that the text cannot teach


class Leaky(gpt.GPT):
    """Looks one token ahead, as with an inverted or missing mask: it sees every target but the last."""

    def __call__(self, idx: mx.array) -> mx.array:
        ahead = 20.0 * (idx[:, 1:, None] == mx.arange(self.config.vocab_size))  # (B, T - 1, V)
        return mx.concatenate([ahead, mx.zeros_like(ahead[:, :1])], axis=1)


def test_a_model_that_sees_the_future_falls_below_the_floor(pastiche):
    config = gpt.GPTConfig(pastiche.tokenizer.vocab_size, block_size=16, n_layer=1, n_embd=8, head_size=8)
    assert gpt.estimate_loss(Leaky(config), pastiche.valid_tokens, 400, "eager") < pastiche.floor
