"""Build on Linux the graphs that MLX would build on a Mac's GPU, count them, and print the numbers as JSON.

    python tests/machine/gpu/mac_graph.py

MLX decides on the CPU to take some operations apart, such as LayerNorm. The functions that decide, `use_fallback`, are hidden
in its library. Here their machine code is replaced by Metal's answers. mx.compile fuses by streams and operations, never by
device, so the rest of the graph is a Mac's, too. Nothing is computed. Exit status 77: this MLX or this machine is another.
"""

import ctypes
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import mlx_nanogpt as gpt
import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_nanogpt.config import configurations
from mlx_nanogpt.evaluation import compile_losses
from mlx_nanogpt.generation import make_decode, make_reread
from mlx_nanogpt.model import GPT, Cache
from mlx_nanogpt.presets import PRESETS

FUSED = ("CrossEntropy", "LayerNorm", "RMSNorm", "RoPE", "ScaledDotProductAttention", "ScaledDotProductAttentionVJP")
OTHER_MACHINE = 77
PAGE = 4096
# Operations that move no data. `Contiguous` is among them: here it is applied only to contiguous arrays.
VIEWS = set(
    "AsStrided Broadcast Contiguous ExpandDims Flatten Reshape Slice Split Squeeze StopGradient Transpose Unflatten "
    "View".split()
)


class Library:
    """libmlx.so as it is loaded, and its functions `use_fallback`."""

    def __init__(self):
        lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "libmlx.so" in line]
        path, start, offset = lines[0][-1], int(lines[0][0].split("-")[0], 16), int(lines[0][2], 16)
        symbols = subprocess.run(["nm", "-C", path], capture_output=True, text=True, check=True).stdout
        found = re.findall(r"^(\w+) t mlx::core::fast::(\w+)::use_fallback\([^)]*\)$", symbols, re.MULTILINE)
        self.addresses = {name: start - offset + int(address, 16) for address, name in found}

    def answer(self, name: str, falls_back: bool) -> None:
        """Let `use_fallback` of the operation `name` return `falls_back`."""
        address = self.addresses[name]
        start = address - address % PAGE
        if ctypes.CDLL(None).mprotect(ctypes.c_void_p(start), 2 * PAGE, 7) != 0:
            raise OSError("the code cannot be made writable")
        code = bytes([0xB8, falls_back, 0, 0, 0, 0xC3])  # mov eax, falls_back; ret
        ctypes.memmove(address, code, len(code))


class MetalAttention:
    """`mx.fast.scaled_dot_product_attention` with the choices of MLX 0.32.4 for Metal before the M5."""

    def __init__(self, library: Library):
        self.library, self.function, self.in_gradient = library, mx.fast.scaled_dot_product_attention, False

    def __call__(self, q, k, v, *, scale, mask=None):
        queries, head_size = q.shape[2:]
        few = queries <= 8
        fused = head_size in ((64, 96, 128, 192, 256, 512) if few else (64, 72, 80, 96, 128, 192, 256))
        if self.in_gradient:
            fused = fused and not isinstance(mask, mx.array)
            if fused and few:
                raise RuntimeError("Metal's kernel for up to 8 queries has no logsumexp, which a gradient needs")
        elif head_size in ((192,) if few else (192, 256)):
            fused = False
        self.library.answer("ScaledDotProductAttention", not fused)
        return self.function(q, k, v, scale=scale, mask=mask)


def configured(preset: str | None = None, **changes) -> tuple[gpt.GPTConfig, gpt.TrainConfig]:
    return configurations((PRESETS[preset].settings if preset else {}) | changes)


def count_operations(*outputs: mx.array) -> int:
    """Count the operations that compute, each a kernel on a GPU, in a graph that is not yet computed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graph.dot"
        mx.export_to_dot(str(file), *outputs)
        names = re.findall(r'\[label ?="(\w+)', file.read_text())
    return sum(name not in VIEWS for name in names)


def step_graph(
    attention: MetalAttention, model: GPT, optimizer, config: gpt.TrainConfig, windows: mx.array, targets: mx.array
) -> int:
    mx.random.seed(0)  # else the random state holds the graphs of the steps before
    attention.in_gradient = True
    loss, _ = gpt.make_step(model, optimizer, config)(windows, targets)
    attention.in_gradient = False
    states = [model.state, optimizer.state, mx.random.state]
    return count_operations(loss, *(array for _, array in tree_flatten(states)))


def decode_graph(model: GPT, cache: Cache, tokens: mx.array, key: mx.array, length: mx.array) -> int:
    drawn, keys = make_decode(model, cache, gpt.make_sampler())(tokens, [key] * len(tokens), length)
    return count_operations(drawn, *keys, *cache.state)


def main() -> dict[str, int]:
    steps = {
        "default step": configured(),
        "student's step": configured(),
        "baby step": configured("baby"),
        "step of 8 tokens": configured(block_size=8, head_size=64),
        "bfloat16 step": configured(dtype="bfloat16"),
        "modern step": configured("modern"),
        "baby-modern step": configured("baby-modern"),
    }
    made = {}
    for name, (shape, train) in steps.items():  # before anything is lazy for ever
        model, optimizer = gpt.GPT(shape), gpt.make_optimizer(train)
        optimizer.init(model.trainable_parameters())
        windows = mx.zeros((train.batch_size, shape.block_size), mx.uint16)
        distributions = *windows.shape, shape.vocab_size
        targets = mx.zeros(distributions) if name == "student's step" else windows
        mx.eval(model.state, optimizer.state, windows, targets)
        made[name] = model, optimizer, train, windows, targets
    written = {}
    for prefix, preset in (("", None), ("modern ", "modern")):
        shape, _ = configured(preset)
        model = gpt.GPT(shape).eval()
        cache = Cache(model)
        written[prefix] = model, cache
        mx.eval(model.state, cache.state)
    eight = Cache(written[""][0], 8)
    sample, tokens, key, length = gpt.make_sampler(), mx.zeros((8,), mx.uint32), mx.random.key(1), mx.array(1)
    windows, text = mx.zeros((256, shape.block_size), mx.uint16), mx.zeros((1, shape.block_size), mx.uint32)
    mx.eval(eight.state, tokens, key, length, windows, text)

    library = Library()
    for name in FUSED:
        library.answer(name, False)
    attention = mx.fast.scaled_dot_product_attention = MetalAttention(library)
    mx.default_device = lambda: mx.gpu
    sizes = {}
    for prefix, (model, cache) in written.items():
        sizes[f"{prefix}evaluation"] = count_operations(compile_losses(model)(windows, windows))
        drawn, keys = make_reread(model, sample)(text, [key])
        sizes[f"{prefix}reread"] = count_operations(drawn, *keys)
        sizes[f"{prefix}decode"] = decode_graph(model, cache, tokens[:1], key, length)
    sizes["decode of 8 texts"] = decode_graph(written[""][0], eight, tokens, key, length)
    return sizes | {name: step_graph(attention, *parts) for name, parts in made.items()}


if __name__ == "__main__":
    if platform.machine() != "x86_64" or not shutil.which("nm") or not set(FUSED) <= Library().addresses.keys():
        sys.exit(OTHER_MACHINE)
    print(json.dumps(main()))
