"""Data parallelism over `mx.distributed`: several processes, called ranks, train one model. Each computes its rows of a batch, and
their gradients are averaged. MLX connects them; a process alone is `ALONE`, which sends nothing.

All ranks call the collective methods in the same order, or they wait for each other for ever. A collective of MLX's ring whose
peer is gone may return what was in memory, or hang. So what was exchanged is used only after `_confirm`.
"""

import hashlib
import json
import math
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.optimizers import Optimizer
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from .config import TrainConfig
from .errors import UserError
from .machine import machine
from .machine.facts import model_checksum, package_versions
from .model import GPT, random_key, set_random_key
from .text.loss import SplitLoss

MOST_DRIFT = 1e-4  # between the weights of two ranks, relative to the largest; two kinds of chips may round differently
CLAIM_BYTES = 2**14
TICK_SECONDS = 0.5
STALL_SECONDS, STALL_FACTOR = 60.0, 10  # without progress, and relative to the longest wait so far
START_SECONDS = 1800.0  # without progress before a step is timed: rank 0 may download, or learn byte pairs
STALL_REASONS = "one was stopped, its machine sleeps, the link to it is cut, or MLX hangs"
RESTART = "see the message of that rank; then start all ranks again, with `resume` if there is a checkpoint"
# The variable that mlx.launch sets for a backend. Without a name MLX would try MPI, too, wherever it is installed.
BACKENDS = {"MLX_IBV_DEVICES": "jaccl", "NCCL_HOST_IP": "nccl", "MLX_HOSTFILE": "ring"}
# Seconds for a rank to listen before the next one calls: MLX waits a whole second after a failure.
HEAD_START = 0.1


class NotConnected(UserError):
    """MLX could not connect this rank to its neighbours."""


class LostRank(UserError):
    """Another rank is gone. A new start may help."""


class Ranks:
    """The processes that train one model, as one of them sees them. Rank 0 has the run directory."""

    def __init__(self, group: mx.distributed.Group | None = None, backend: str = ""):
        self.group, self.backend = group, backend
        self.rank: int = group.rank() if group else 0
        self.size: int = group.size() if group else 1
        self.hosts: list[str] = []  # the name of each rank's machine
        self.sums = 0  # how many were started by `_start_sum`
        self.watchdog: Watchdog | None = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def share(self) -> slice:
        """This rank's rows of a batch: every `size`-th."""
        return slice(self.rank, None, self.size)

    def name_of(self, rank: int) -> str:
        return f"rank {rank} ({self.hosts[rank]})"

    def own_part(self, config: TrainConfig) -> TrainConfig:
        """Return `config` with the rows of rank 0, which has the most. Raises `UserError` if a rank would have none."""
        if config.batch_size < self.size:
            raise UserError(
                f"batch_size {config.batch_size} has no row for each of {self.size} ranks",
                f"give a `batch_size` of {self.size} or more, or start fewer ranks",
            )
        return replace(config, batch_size=math.ceil(config.batch_size / self.size))

    def average(self, loss_and_grad: Callable, batch_size: int) -> Callable:
        """Return a function of this rank's rows that returns the mean loss and gradient over all `batch_size` rows of a batch, with
        the same bits in all ranks. `loss_and_grad` returns those of this rank's rows."""
        if self.size == 1:
            return loss_and_grad
        # a rank with more rows than another counts for more
        weight = len(range(batch_size)[self.share]) * self.size / batch_size

        def over_ranks(*args: Any) -> tuple[mx.array, dict]:
            means = loss_and_grad(*args)
            if weight != 1:
                means = tree_map(lambda array: array * weight, means)
            loss, grads = nn.average_gradients(means, self.group)
            return loss, grads

        return over_ranks

    def use_own_dropout(self, model: GPT, batch_size: int) -> None:
        """Let each dropout of `model` draw the mask of a whole batch and take this rank's rows of it, in place. So the masks are
        those of one process, and the random state stays the same in all ranks."""
        if self.size > 1:
            for module in model.modules():
                if isinstance(module, nn.Dropout) and type(module).__module__.startswith("mlx") and module._p_1 < 1:
                    module.__class__ = RowsOfDropout
                    module._batch_size, module._share = batch_size, self.share

    def any(self, should_stop: Callable[[], bool]) -> Callable[[], bool]:
        """Return a function that is true on all ranks one call after `should_stop` was true on any, and stays so. One call later,
        so that the device works on a step while the host asks."""
        if self.size == 1:
            return should_stop
        answer = False
        asked: Callable[[], int] | None = None

        def any_should_stop() -> bool:
            nonlocal answer, asked
            if answer:
                return True
            if asked:
                answer = asked() > 0
                self.note_progress()  # the step before the last one has ended
            asked = self._start_sum(int(should_stop()))
            if answer:
                asked()  # all ranks took part in the last step, which is saved now
            return answer

        return any_should_stop

    def sum(self, own: Sequence[SplitLoss]) -> SplitLoss:
        """Return the sum of the losses of all ranks' shares, where this rank has `own`. It adds the numbers in the order of one
        process, and so has its bits."""
        losses = list(own)
        if self.size > 1:
            count = self._start_sum(len(own))()
            padded = np.zeros((1, math.ceil(count / self.size), 2))
            padded[0, : len(own)] = [(loss.tokens, loss.nats) for loss in own] or 0
            bits = mx.distributed.all_gather(mx.array(padded.view(np.uint32)), group=self.group)
            everyones = np.array(bits).view(np.float64).swapaxes(0, 1).reshape(-1, 2)  # (count or more, 2)
            self._confirm()
            losses = [SplitLoss(int(tokens), nats) for tokens, nats in everyones[:count].tolist()]
        return sum(losses, SplitLoss())

    def note_progress(self) -> None:
        """Tell the watchdog that this rank computed something."""
        if self.watchdog:
            self.watchdog.note_progress()

    def broadcast(self, value: Any) -> Any:
        """Broadcast a JSON value from rank 0."""
        if self.size == 1:
            return value
        text = np.frombuffer(json.dumps(value).encode(), np.uint8)
        length = self._start_sum(len(text) if self.is_first else 0)()
        text = self._of_first(mx.array(text) if self.is_first else mx.zeros(length, mx.uint8))
        self._confirm()
        return json.loads(bytes(np.array(text)))

    def broadcast_state(self, model: GPT, optimizer: Optimizer) -> None:
        """Broadcast rank 0's weights, optimizer state and random state, bit for bit. Call this before you build a compiled step."""
        if self.size > 1:
            model.update(self._tree_of_first(model.parameters()))
            optimizer.state = self._tree_of_first(optimizer.state)
            set_random_key(self._of_first(random_key()))
            self._confirm()

    def check_same(self, model: GPT) -> None:
        """Raise `UserError` if this rank's weights differ from rank 0's."""
        if self.size == 1:
            return
        drifts = {}
        for name, own in sorted(tree_flatten(model.parameters())):
            firsts = self._of_first(own)
            drifts[name] = (mx.abs(own - firsts).max() / mx.maximum(mx.abs(firsts).max(), 1e-3)).item()
        self._confirm()
        apart = [name for name, drift in drifts.items() if not drift <= MOST_DRIFT]  # also if it is not a number
        if apart:
            name = apart[0]
            raise UserError(
                f"the weights of {self.name_of(self.rank)} differ from those of rank 0 ({name}, by {drifts[name]:.1e} of the "
                "largest)",
                "continue from the last checkpoint with `resume`; if it happens again, leave this machine out",
            )

    def compare(self, claims: Mapping[str, str], remedy: str) -> None:
        """Raise `UserError` on all ranks if a rank has other `claims` than rank 0; it names the rank and the claim."""
        if self.size == 1:
            return
        digests = {name: hashlib.sha256(value.encode()).hexdigest() for name, value in claims.items()}
        text = json.dumps({"host": platform.node()} | digests).encode().ljust(CLAIM_BYTES)  # JSON may end in spaces
        gathered = mx.distributed.all_gather(mx.array(np.frombuffer(text, np.uint8))[None], group=self.group)
        rows = np.array(gathered)
        self._confirm()
        everyones = [json.loads(bytes(row)) for row in rows]
        self.hosts = [digests.pop("host") for digests in everyones]
        for rank, digests in enumerate(everyones):
            for name in sorted(digests.keys() | everyones[0].keys()):
                if digests.get(name) != everyones[0].get(name):
                    here = f"here it is {claims[name]}" if name in claims else "here it is not given"
                    raise UserError(f"{self.name_of(rank)} has another {name} than {self.name_of(0)} ({here})", remedy)

    def _start_sum(self, number: int) -> Callable[[], int]:
        """Start to add the `number` of each rank. Return a function that waits for the sum, and raises `LostRank` unless all ranks took
        part in it, and so in all that was exchanged before."""
        self.sums += 1
        proof = self.sums * self.size  # another one each time: what was in memory may be an older one
        pair = mx.distributed.all_sum(mx.array([number, self.sums]), group=self.group)
        mx.async_eval(pair)

        def wait() -> int:
            total, proved = pair.tolist()
            if proved != proof:
                raise lost_connection(self.name_of(self.rank))
            return total

        return wait

    def _confirm(self) -> None:
        """Raise `LostRank` unless all ranks took part in all that was exchanged so far."""
        self._start_sum(0)()

    def _tree_of_first(self, tree: Any) -> Any:
        # by name: a state that was read from a file has another order
        return tree_unflatten([(name, self._of_first(array)) for name, array in sorted(tree_flatten(tree))])

    def _of_first(self, array: mx.array) -> mx.array:
        """Return rank 0's `array`, computed. As bytes, because a sum of numbers would lose the sign of a zero."""
        own = array.reshape(-1).view(mx.uint8)
        sent = mx.distributed.all_sum(own if self.is_first else mx.zeros_like(own), group=self.group)
        result = sent.view(array.dtype).reshape(array.shape)
        mx.eval(result)  # one after the other, in the same order everywhere
        return result


class RowsOfDropout(nn.Dropout):
    """The dropout of a rank; see `Ranks.use_own_dropout`."""

    _batch_size: int
    _share: slice

    def __call__(self, x: mx.array) -> mx.array:
        if self._p_1 == 1 or not self.training:
            return x
        rows = len(range(self._batch_size)[self._share])
        whole = mx.random.bernoulli(self._p_1, (self._batch_size, x.size // rows))
        return mx.where(whole[self._share].reshape(x.shape), x * (1 / self._p_1), 0)


ALONE = Ranks()


@contextmanager
def join(
    options: Mapping[str, str], on_lost: Callable[[LostRank], object], lost: threading.Event | None = None
) -> Iterator[Ranks]:
    """Join the other ranks for the time of the body, if a launcher started this process as a rank; otherwise yield `ALONE`.

    `options` are how this rank was started, and must equal those of rank 0. `on_lost` has to end the process: it is called when
    another rank is gone, from a watchdog's thread or from this one. Set `lost` if you notice that first.

    MLX waits for its neighbours without a time limit, and no thread of this process runs meanwhile. Raises `NotConnected` if MLX
    cannot connect this rank, and `UserError` if a rank has other options, versions or kind of device than rank 0.
    """
    if not is_rank():
        yield ALONE
        return
    ranks = _connect()
    ranks.hosts = [platform.node()] * ranks.size
    ranks.watchdog = Watchdog(ranks.name_of(ranks.rank), on_lost, lost or threading.Event())
    ranks.watchdog.start()
    try:
        device = f"{mx.default_device().type.name}, {type(machine()).__name__}, {len(machine().streams())} stream(s)"
        claims = {"kind of device": device, "model.py": str(model_checksum())} | package_versions() | dict(options)
        ranks.compare(claims, "start all ranks with the same options and versions, on machines of one kind")
        yield ranks
        ranks.broadcast(None)  # none leaves while another waits for it
    except LostRank as error:
        ranks.watchdog.on_lost(error)
        raise
    except RuntimeError as error:
        if str(error).startswith(f"[{ranks.backend}]"):
            ranks.watchdog.on_lost(lost_connection(ranks.name_of(ranks.rank)))
        raise
    finally:
        ranks.watchdog.is_over = True


def is_rank(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether a launcher started this process as one of several ranks."""
    hostfile = Path(environment.get("MLX_HOSTFILE", "none"))
    is_alone = hostfile.is_file() and not hostfile.read_bytes().strip()  # mlx.launch writes an empty line for one rank
    return "MLX_RANK" in environment and not is_alone


def _connect() -> Ranks:
    backend = next((name for variable, name in BACKENDS.items() if variable in os.environ), "ring")
    try:
        time.sleep(HEAD_START * int(os.environ["MLX_RANK"]))  # the last rank calls first
        return Ranks(mx.distributed.init(strict=True, backend=backend), backend)
    except (RuntimeError, ValueError) as error:
        raise NotConnected(
            f"MLX cannot connect rank {os.environ['MLX_RANK']} to its neighbours ({error})",
            "start all ranks with mlx-gpt launch or mlx.launch, with free ports, or unset MLX_RANK to train alone",
        ) from error


class Watchdog(threading.Thread):
    """A thread that calls `on_lost` when the rank `name` cannot continue: `lost` is set, or it made no progress for too long.

    The main thread may wait in a collective that never returns, so `on_lost` has to end the process. Time is counted in ticks of
    this thread, so that a sleep of the machine, or a stop of this process, does not count.
    """

    def __init__(self, name: str, on_lost: Callable[[LostRank], object], lost: threading.Event):
        super().__init__(daemon=True)
        self.rank_name, self.on_lost, self.lost = name, on_lost, lost
        self.ticks, self.longest_wait = 0, 0
        self.notes = 0  # the first marks the start of a step, the second its length
        self.is_over = False

    def note_progress(self) -> None:
        if self.notes:
            self.longest_wait = max(self.longest_wait, self.ticks)
        self.notes += 1
        self.ticks = 0

    def limit(self) -> float:
        """Return the seconds without progress after which this rank is ended."""
        limit = max(STALL_SECONDS, STALL_FACTOR * self.longest_wait * TICK_SECONDS)
        return limit if self.notes > 1 else max(limit, START_SECONDS)

    def run(self) -> None:
        is_lost = False
        while not is_lost and self.ticks * TICK_SECONDS <= self.limit():
            is_lost = self.lost.wait(TICK_SECONDS)
            self.ticks += 1
            if self.is_over:
                return
        stall = LostRank(f"{self.rank_name} has waited {self.limit():.0f} s for the others: {STALL_REASONS}", RESTART)
        self.on_lost(lost_connection(self.rank_name) if is_lost else stall)


def lost_connection(name: str) -> LostRank:
    return LostRank(f"{name} lost its connection: another rank ended with an error, was killed, or crashed", RESTART)
