"""mlx_nanogpt: NanoGPT native to Apple silicon, on MLX. Text becomes tokens, tokens become batches, batches move a GPT,
the GPT writes text.

    import mlx_nanogpt as gpt

    corpus = gpt.load_corpus("pastiche")
    tokenizer = gpt.CharTokenizer.of(corpus.text)
    model_config = gpt.GPTConfig(vocab_size=tokenizer.vocab_size)
    run = gpt.create_run(model_config, gpt.TrainConfig(num_iter=500), tokenizer, corpus)
    for event in gpt.train(run, tokenizer.encode(corpus.text)):
        print(event)
"""

from .blas import IN_USE as BLAS  # before anything imports mlx.core

from .benchmark import (  # noqa: E402
    MATRIX_SIZE,
    PUBLISHED,
    SEED_TRAIN,
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
from .checkpoint import RUNS, CorpusIdentity, Evaluation, Run, create_run, newest_run, open_run  # noqa: E402
from .config import Backend, GPTConfig, TrainConfig  # noqa: E402
from .corpus import PASTICHE, TINYSHAKESPEARE, Corpus, CorpusUnavailable, load_corpus  # noqa: E402
from .data import split_boundary  # noqa: E402
from .errors import UserError  # noqa: E402
from .evaluation import make_evaluate  # noqa: E402
from .generation import START_TOKEN, generate, make_sampler  # noqa: E402
from .model import GPT, loss_fn  # noqa: E402
from .tokenizer import CharTokenizer  # noqa: E402
from .training import (  # noqa: E402
    Diverged,
    Done,
    Evaluating,
    Event,
    Progress,
    Saved,
    check_fits,
    make_optimizer,
    make_step,
    train,
)
