"""mlx_nanogpt: NanoGPT native to Apple silicon, on MLX. Text becomes tokens, tokens become batches, batches move a GPT,
the GPT writes text.

    import mlx_nanogpt as gpt

    data = gpt.tokenize(gpt.load_corpus("my.txt"))
    run = gpt.create_run(*gpt.preset("minute"), data)
    for record in gpt.train(run, data):
        print(record)
    print(run.write("The "))

Here are the names for users; what is more special is in its module.
"""

# First: what this loads and sets has to be there before mlx.core.
from . import machine as _machine  # isort: skip

from .config import GPTConfig, TrainConfig
from .config_file import preset
from .errors import DeviceFailed, UserError
from .evaluation import estimate_loss, evaluate
from .exchange.export import export_run
from .exchange.gguf_file import export_gguf
from .exchange.pretrained import load_pretrained
from .generation import generate, make_sampler
from .measure.benchmark import bench
from .model import GPT
from .optimizer import make_optimizer
from .pages.page import page
from .presets import PRESETS
from .records import Diverged, Done, Evaluating, Evaluation, Progress, Record, Sample, Saved, Snapshot
from .runs.create import create_run
from .runs.find import newest_run
from .runs.recorder import start_from
from .runs.run import Run, open_run
from .text.byte_pairs import BPETokenizer
from .text.characters import CharTokenizer
from .text.corpus import load_corpus
from .text.dataset import Dataset, tokenize
from .text.identity import Corpus
from .text.loss import SplitLoss
from .text.prepare import prepare
from .text.token_files import open_token_folder
from .training import make_step, train

__all__ = [
    "GPT",
    "PRESETS",
    "BPETokenizer",
    "CharTokenizer",
    "Corpus",
    "Dataset",
    "DeviceFailed",
    "Diverged",
    "Done",
    "Evaluating",
    "Evaluation",
    "GPTConfig",
    "Progress",
    "Record",
    "Run",
    "Sample",
    "Saved",
    "Snapshot",
    "SplitLoss",
    "TrainConfig",
    "UserError",
    "bench",
    "create_run",
    "estimate_loss",
    "evaluate",
    "export_gguf",
    "export_run",
    "generate",
    "load_corpus",
    "load_pretrained",
    "make_optimizer",
    "make_sampler",
    "make_step",
    "newest_run",
    "open_run",
    "open_token_folder",
    "page",
    "prepare",
    "preset",
    "start_from",
    "tokenize",
    "train",
]


def __dir__() -> list[str]:
    return __all__  # what a tab shows
