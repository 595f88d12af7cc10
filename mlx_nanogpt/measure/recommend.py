"""What to train in a given time: candidates train for a short while each, and a curve through their losses says how low each would get."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

import mlx.core as mx

from ..config import tokens_per_step
from ..config_file import preset
from ..errors import UserError
from ..evaluation import estimate_loss
from ..model import GPT
from ..optimizer import make_optimizer
from ..records import State
from ..text.baselines import count_characters
from ..text.batches import training_batch
from ..text.dataset import Dataset
from ..training import check_finite, check_fits, make_step
from .length import Pace
from .timing import flops_per_token

SHARE = 0.1  # of the time, for all candidates together
PRESET = "modern"
# From the smallest to the largest: what differs from the preset. An evaluation reads as many tokens of each.
SIZES: tuple[dict[str, object], ...] = (
    {},
    {"n_embd": 128, "head_size": 32, "block_size": 128, "eval_iters": 100},
    {"n_embd": 256, "head_size": 64, "block_size": 256, "eval_iters": 50, "dropout": 0.1},
    {"n_embd": 384, "head_size": 64, "block_size": 256, "eval_iters": 25, "dropout": 0.2, "batch_size": 64},
)
FIRST_STEPS, FACTOR = 50, 3  # a candidate is evaluated after 50 steps, then after 150, 450, ...
WARMUP = 0.1  # of the steps up to an evaluation, in which the rate rises
EVALUATED = 2**15  # tokens

EXPONENT = 0.75  # the loss falls to its limit with this power of the tokens, as those of the preset do in benchmarks/recipes.md
REPETITIONS = 15.4
FRESH_PASSES = 4  # over the text, which teach about as much as new text does (the same paper)
MOST_PASSES = 16  # more help little, and a model begins to learn its text by heart


class Candidate:
    """A model that trains on `data`, the tokens of a tokenizer of this `kind`, with these `changes` to the preset. After each trial
    `points` has one more pair: the tokens that it has read, and its bits per character."""

    def __init__(self, kind: str, data: Dataset, changes: Mapping[str, object]):
        self.kind, self.data, self.changes = kind, data, changes
        gpt, self.train = preset(PRESET, **changes, warmup_iters=0, lr_decay_iters=0)  # `try_on` sets the rate
        self.gpt = replace(gpt, vocab_size=data.tokenizer.vocab_size)
        mx.random.seed(self.train.seed)
        self.model, self.optimizer = GPT(self.gpt), make_optimizer(self.train)
        self.optimizer.init(self.model.trainable_parameters())
        self.step = make_step(self.model, self.optimizer, self.train)
        self.step_tokens = tokens_per_step(self.gpt, self.train)
        self.bits_per_nat = len(data.valid_tokens) / count_characters(data.tokenizer, data.valid_tokens) / math.log(2)
        self.work = flops_per_token(self.model) * self.step_tokens
        self.steps, self.points, self.seconds = 0, list[tuple[int, float]](), list[float]()  # of each trial

    @property
    def next_steps(self) -> int:
        return (FACTOR - 1) * self.steps or FIRST_STEPS

    def try_on(self) -> None:
        """Train for `next_steps`, while the rate rises and falls to 0, and evaluate. Raises `Diverged` if the loss is not finite."""
        count, shape = self.next_steps, (self.train.batch_size, self.gpt.block_size)
        began = started = time.perf_counter()
        arrays = State(self.model, self.optimizer).arrays
        self.model.train()
        for i in range(count):
            self._set_rate((i + 0.5) / count)
            tokens, places = self.data.train_tokens, self.data.beginnings
            batch = training_batch(tokens, self.train.seed, self.steps, *shape, beginnings=places)
            loss, _ = self.step(*map(mx.array, batch))
            mx.async_eval(loss, arrays)
            self.steps += 1
            if i == 0:  # it compiles
                mx.eval(loss)
                first, started = time.perf_counter() - started, time.perf_counter()
        check_finite([loss.item()], self.steps, self.train)
        step = (time.perf_counter() - started) / (count - 1)
        windows, started = -(-EVALUATED // self.gpt.block_size), time.perf_counter()
        nats = estimate_loss(self.model, self.data.valid_tokens, windows)
        seconds = (time.perf_counter() - started) / windows * self.train.eval_iters * self.train.batch_size
        self.pace = Pace(step, 2 * seconds, max(first - step, 0.0))
        self.points.append((self.steps * self.step_tokens, nats * self.bits_per_nat))
        self.seconds.append(time.perf_counter() - began)

    def _set_rate(self, share: float) -> None:
        """Set the rate after a `share` of a trial: it rises along a line and falls along a cosine."""
        falling = (1 + math.cos(math.pi * (share - WARMUP) / (1 - WARMUP))) / 2
        now = share / WARMUP if share < WARMUP else falling
        for own, highest in zip(self.optimizer.optimizers, (self.train.muon_lr, self.train.learning_rate)):
            own.learning_rate = now * highest

    def useful_steps(self, seconds: float) -> int:
        """The steps of a run of `seconds`, or of `MOST_PASSES` over the text if these are fewer."""
        most = MOST_PASSES * len(self.data.train_tokens) // self.step_tokens
        return min(self.pace.steps_within(seconds, self.train.eval_interval), max(most, 1))

    def useful_seconds(self, seconds: float) -> float:
        """Seconds of `useful_steps`: at most `seconds`."""
        steps = self.useful_steps(seconds)
        return min(seconds, self.pace.seconds(steps, -(-steps // self.train.eval_interval)))

    def passes(self, seconds: float) -> float:
        """How often `useful_steps` read the text."""
        return self.useful_steps(seconds) * self.step_tokens / len(self.data.train_tokens)

    def predict(self, seconds: float) -> float:
        """Bits per character after `useful_steps`, from a line through the last two points."""
        text = len(self.data.train_tokens)
        (before, higher), (now, lower) = [(excess(tokens, text), bits) for tokens, bits in self.points[-2:]]
        then = excess(self.useful_steps(seconds) * self.step_tokens, text)
        return lower + (higher - lower) * (then - now) / (before - now)


def excess(tokens: float, text: int) -> float:
    """How far a loss is above its limit after `tokens` tokens, in a unit of its own. `text` is the number of tokens to train on: one that
    is read again counts less each time (Muennighoff et al. 2023, with their constant)."""
    again = max(tokens / text - 1, 0.0)
    worth = min(tokens, text) + text * REPETITIONS * (1 - math.exp(-again / REPETITIONS))
    return worth**-EXPONENT


def try_candidates(datasets: Mapping[str, Dataset], seconds: float) -> Iterator[Candidate]:
    """Try what a run of `seconds` may train, with the tokens of each kind of tokenizer, for `SHARE` of that time. Yield a candidate before
    each of its trials. In the end each was tried twice or more, and those that promise most were tried longest.

    Seeds MLX's global random state. Raises `UserError` if not even the smallest model fits the text, the memory or the time, and
    `Diverged` if a loss is not finite.
    """
    end, tried = time.perf_counter() + SHARE * seconds, list[Candidate]()
    for own in _from_small_to_large(datasets, seconds, tried):
        try:
            check_fits(own.gpt, own.train, own.data)
        except UserError:
            if tried:
                break  # no larger one does
            raise
        if tried and sum(tried[-1].seconds) * own.work / tried[-1].work > end - time.perf_counter():
            break
        yield own
        own.try_on()
        left = end - time.perf_counter()
        if own.next_steps * own.pace.step > left and not tried:
            problem = f"the time is too short to try models: a step takes {own.pace.step:.2g} s, and {max(left, 0):.2g} s are left for {own.next_steps}"
            raise UserError(problem, "give more `minutes`")
        yield own
        own.try_on()
        tried.append(own)
    while ready := [own for own in tried if FACTOR * own.seconds[-1] <= end - time.perf_counter()]:
        best = min(ready, key=lambda own: own.predict(seconds))
        yield best
        best.try_on()


def _from_small_to_large(
    datasets: Mapping[str, Dataset], seconds: float, tried: list[Candidate]
) -> Iterator[Candidate]:
    """Yield the candidates of each size. The kind that was better so far comes first, because there may be no time for the other."""
    for changes in SIZES:
        best = {own.kind: own.predict(seconds) for own in sorted(tried, key=lambda own: -own.predict(seconds))}
        for kind in sorted(datasets, key=lambda kind: best.get(kind, 0.0)):
            yield Candidate(kind, datasets[kind], changes)
