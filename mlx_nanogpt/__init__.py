"""mlx_nanogpt: NanoGPT native to Apple silicon, on MLX. Text becomes tokens, tokens become batches, batches move a GPT,
the GPT writes text.

    import mlx_nanogpt as gpt

    data = gpt.tokenize(gpt.load_corpus("pastiche"))
    model_config = gpt.GPTConfig(vocab_size=data.tokenizer.vocab_size)
    run = gpt.create_run(model_config, gpt.TrainConfig(num_iter=500), data)
    for event in gpt.train(run, data):
        print(event)
"""

from .linux_cpu.blas import IN_USE as BLAS  # before anything imports mlx.core

from .text.baselines import bigram, count_characters, uniform, unigram, xz_bits_per_character  # noqa: E402
from .benchmark import (  # noqa: E402
    MATRIX_SIZE,
    PUBLISHED,
    SEED_TRAIN,
    STEADY,
    BackendResult,
    BenchResult,
    SeedMetrics,
    Spread,
    Stage,
    bench,
    describe_machine,
    seed_differences,
    seed_metrics,
)
from .run import RUNS, Evaluation, Run, create_run, newest_run, open_run, package_versions  # noqa: E402
from .config import PRESETS, Activation, Backend, Bias, Dtype, GPTConfig, Preset, TrainConfig  # noqa: E402
from .config import configurations  # noqa: E402
from .text.corpus import (  # noqa: E402
    PASTICHE,
    STANDARD_INPUT,
    TINYSHAKESPEARE,
    Corpus,
    CorpusIdentity,
    CorpusUnavailable,
    FolderFiles,
    count_kinds,
    folder_files,
    holds_texts,
    holds_tokens,
    load_corpus,
)
from .text.dataset import Dataset, tokenize  # noqa: E402
from .errors import UserError  # noqa: E402
from .text.loss import SplitLoss
from .evaluation import evaluate_split, make_evaluate  # noqa: E402
from .generation import generate, make_sampler  # noqa: E402
from .exchange.gpt2 import (  # noqa: E402
    export_gpt2,
    export_obstacles,
    gpt2_tokenizer,
    load_gpt2,
    load_pretrained,
    tokenizer_of_folder,
)
from .model import GPT, adapted, loss_fn  # noqa: E402
from .text.token_files import Prepared, Preparing, open_prepared, prepare  # noqa: E402
from .settings import preset_settings, read_settings, write_settings  # noqa: E402
from .text.byte_pairs import BPETokenizer
from .text.characters import CharTokenizer
from .text.tokenizer import Tokenizer, TokenizerName, tokenizer_from_json  # noqa: E402
from .training import (  # noqa: E402
    Diverged,
    Done,
    Evaluating,
    Event,
    Progress,
    Sample,
    Saved,
    check_fits,
    make_optimizer,
    make_step,
    start_from,
    train,
)

# fmt: off
__all__ = [
    "Activation", "adapted", "Backend", "BackendResult", "bench", "BenchResult", "Bias", "bigram", "BLAS",
    "BPETokenizer", "CharTokenizer", "check_fits", "configurations", "Corpus", "CorpusIdentity", "CorpusUnavailable",
    "count_characters", "create_run", "Dataset", "describe_machine", "Diverged", "Done", "Dtype", "evaluate_split",
    "Evaluating", "Evaluation", "Event", "export_gpt2", "export_obstacles", "generate", "GPT", "gpt2_tokenizer",
    "GPTConfig", "holds_tokens", "load_corpus", "load_gpt2", "load_pretrained", "loss_fn", "make_evaluate",
    "make_optimizer", "make_sampler", "make_step", "MATRIX_SIZE", "newest_run", "open_prepared", "open_run",
    "package_versions", "PASTICHE", "prepare", "Prepared", "Preparing", "Preset", "preset_settings", "PRESETS",
    "Progress", "PUBLISHED", "read_settings", "Run", "RUNS", "Saved", "seed_differences", "seed_metrics", "SEED_TRAIN",
    "SeedMetrics", "SplitLoss", "Spread", "Stage", "STANDARD_INPUT", "start_from", "TINYSHAKESPEARE", "tokenize",
    "Tokenizer", "tokenizer_from_json", "tokenizer_of_folder", "TokenizerName", "train", "TrainConfig", "uniform",
    "unigram", "UserError", "write_settings", "xz_bits_per_character",
]
