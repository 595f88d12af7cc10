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
from ..text.batches import training_batch
from ..text.dataset import Dataset
from ..training import check_finite, check_fits, make_step
from .length import Pace, evaluation_seconds
from .timing import flops_per_token, time_once

SHARE = 0.1  # of the time, for all candidates together
PRESET = "modern"
# From the smallest to the largest: what differs from the preset. `eval_iters` keeps the tokens of an evaluation the same.
SIZES: tuple[dict[str, object], ...] = (
    {},
    {"n_embd": 128, "head_size": 32, "block_size": 128, "eval_iters": 100},
    {"n_embd": 256, "head_size": 64, "block_size": 256, "eval_iters": 50, "dropout": 0.1},
    {"n_embd": 384, "head_size": 64, "block_size": 256, "eval_iters": 25, "dropout": 0.2, "batch_size": 64},
)
FIRST_STEPS, FACTOR = 50, 3  # a candidate is evaluated after 50 steps, then after 150, 450, ...
WARMUP = 0.1  # of the steps up to an evaluation, in which the rate rises
EVALUATED = (2**12, 2**15)  # tokens of two evaluations after a trial: they differ in time by their tokens alone

EXPONENT = 0.75  # the loss falls to its limit with this power of the tokens, as those of the preset do in benchmarks/recipes.md
# Of a text that is read again and again (Muennighoff et al. 2023): after so many more passes it has taught 1 - 1/e of what they can, and
# the first ones teach about as much as new text does.
REPETITIONS, FRESH_PASSES = 15.4, 4
MOST_PASSES = 16  # more help little, and a model begins to learn its text by heart


class Candidate:
    """A model that trains on `data`, the tokens of a tokenizer of this `kind`, with these `changes` to the preset. After each trial
    `points` has one more pair: the tokens that it has read, and its bits per character. `pace` is that of the last trial; samples and
    checkpoints are not in it."""

    def __init__(self, kind: str, data: Dataset, changes: Mapping[str, object]):
        self.kind, self.data, self.changes = kind, data, changes
        gpt, self.train = preset(PRESET, **changes, warmup_iters=0, lr_decay_iters=0)  # `try_on` sets the rate
        self.gpt = replace(gpt, vocab_size=data.tokenizer.vocab_size)
        self.step_tokens = tokens_per_step(self.gpt, self.train)
        self.steps, self.points, self.seconds = 0, list[tuple[int, float]](), list[float]()  # of each trial
        self.pace = Pace(0.0, 0.0, 0.0)

    def start(self) -> None:
        """Make the model. Raises `UserError` if it does not fit the text or the memory."""
        check_fits(self.gpt, self.train, self.data)
        mx.random.seed(self.train.seed)
        self.model, self.optimizer = GPT(self.gpt), make_optimizer(self.train)
        self.optimizer.init(self.model.trainable_parameters())
        self.step = make_step(self.model, self.optimizer, self.train)
        self.work = flops_per_token(self.model) * self.step_tokens

    @property
    def next_steps(self) -> int:
        return (FACTOR - 1) * self.steps or FIRST_STEPS

    def try_on(self) -> None:
        """Train for `next_steps`, while the rate rises and falls to 0, and evaluate. Raises `Diverged` if the loss is not finite."""
        count, began = self.next_steps, time.perf_counter()
        started = began
        self.model.train()
        for i in range(count):
            self._set_rate((i + 0.5) / count)
            loss = self._take_step()
            self.steps += 1
            if i == 0:
                mx.eval(loss)
                first, started = time.perf_counter() - started, time.perf_counter()
        check_finite([loss.item()], self.steps, self.train)
        step = (time.perf_counter() - started) / (count - 1)
        once = self.pace.once or max(first - step, 0.0)  # the first step of all compiles
        measured = []
        for windows in (-(-tokens // self.gpt.block_size) for tokens in EVALUATED):
            now = time.perf_counter()
            nats = estimate_loss(self.model, self.data.valid_tokens, windows)
            measured.append((windows, time.perf_counter() - now))
        self.pace = Pace(step, evaluation_seconds(self.train, *measured), once)
        self.points.append((self.steps * self.step_tokens, self.data.bits_per_character(nats)))
        self.seconds.append(time.perf_counter() - began)

    def measure_step(self) -> float:
        """Seconds of a step, from two that leave the weights as they are."""
        self._set_rate(0.0)
        first, second = [time_once(lambda: mx.eval(self._take_step())) for _ in range(2)]
        self.pace = Pace(second, 0.0, max(first - second, 0.0))
        return second

    def _take_step(self) -> mx.array:
        """Start the next step; return its loss."""
        tokens, places = self.data.train_tokens, self.data.beginnings
        shape = self.train.batch_size, self.gpt.block_size
        batch = training_batch(tokens, self.train.seed, self.steps, *shape, beginnings=places, order=self.train.order)
        loss, _ = self.step(*map(mx.array, batch))
        mx.async_eval(loss, State(self.model, self.optimizer).arrays)
        return loss

    def _set_rate(self, share: float) -> None:
        """Set the rate after a `share` of a trial: it rises along a line and falls along a cosine."""
        falling = (1 + math.cos(math.pi * (share - WARMUP) / (1 - WARMUP))) / 2
        now = share / WARMUP if share < WARMUP else falling
        for own, highest in zip(self.optimizer.optimizers, (self.train.muon_lr, self.train.learning_rate)):
            own.learning_rate = now * highest

    def steps_within(self, seconds: float) -> int:
        """The steps of a run of `seconds`, or of `MOST_PASSES` over the text if these are fewer, but at least those that were tried."""
        most = max(MOST_PASSES * len(self.data.train_tokens) // self.step_tokens, self.steps)
        return max(min(self.pace.steps_within(seconds, self.train.eval_interval), most), 1)

    def ends_early(self, seconds: float) -> bool:
        """Whether a run has read the text `MOST_PASSES` times before the end of `seconds`."""
        return self.steps_within(seconds) < self.pace.steps_within(seconds, self.train.eval_interval)

    def passes(self, seconds: float) -> float:
        """How often a run of `seconds` reads the text."""
        return self.steps_within(seconds) * self.step_tokens / len(self.data.train_tokens)

    def predict(self, seconds: float) -> float:
        """Bits per character after a run of `seconds`, from a line through the last two points."""
        text = len(self.data.train_tokens)
        (before, higher), (now, lower) = [(excess(tokens, text), bits) for tokens, bits in self.points[-2:]]
        if before == now:
            return lower  # the text has nothing more to teach
        then = min(
            excess(self.steps_within(seconds) * self.step_tokens, text), now
        )  # not back to before the last trial
        return max(lower + (higher - lower) * (then - now) / (before - now), 0.0)


def excess(tokens: float, text: int) -> float:
    """How far a loss is above its limit after `tokens` tokens, in a unit of its own. `text` is the number of tokens to train on: one that
    is read again counts less each time (Muennighoff et al. 2023)."""
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

    def promise(kind: str) -> float:
        """The best prediction with these tokens; 0 if there is none yet."""
        return min((own.predict(seconds) for own in tried if own.kind == kind), default=0.0)

    for changes in SIZES:
        # the better tokens first, because there may be no time for the others
        for kind in sorted(datasets, key=promise):
            own = Candidate(kind, datasets[kind], changes)
            try:
                own.start()
            except UserError:
                if tried:
                    continue  # the other tokens may fit
                raise
            if tried and sum(tried[-1].seconds[:2]) * own.work / tried[-1].work > end - time.perf_counter():
                continue
            yield own
            if not tried and (needed := FACTOR * FIRST_STEPS * own.measure_step()) > SHARE * seconds:
                problem = f"{seconds / 60:g} minutes are too short to try models: {FACTOR * FIRST_STEPS} steps of the smallest take {needed:.2g} s"
                raise UserError(problem, f"give `minutes` {math.ceil(needed / SHARE / 60) + 1} or more")
            own.try_on()
            yield own
            own.try_on()
            tried.append(own)

    def may_go_on(own: Candidate) -> bool:
        # a trial beyond the end of the run tells nothing of it
        return FACTOR * own.steps <= own.steps_within(seconds) and FACTOR * own.seconds[-1] <= end - time.perf_counter()

    while ready := [own for own in tried if may_go_on(own)]:
        best = min(ready, key=lambda own: own.predict(seconds))
        yield best
        best.try_on()
