"""The ranks of a training, and what they compute together. One process alone is a group of one, in which nothing is sent.

All ranks call the collective functions in the same order, or they wait for each other for ever.
"""

import json
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.optimizers import Optimizer
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from ..config import TrainConfig
from ..errors import UserError
from ..model import GPT
from ..text.loss import SplitLoss
from .lifeline import Lifeline

MOST_DRIFT = 1e-4  # between the weights of two ranks, of the largest one; chips of two kinds may round differently


class Ranks:
    """A process of a group that trains one model. Rank 0, the first, has the run directory."""

    def __init__(self, group: mx.distributed.Group | None = None, backend: str = "", lifeline: Lifeline | None = None):
        self.group, self.backend, self.lifeline = group, backend, lifeline
        self.rank: int = group.rank() if group else 0
        self.size: int = group.size() if group else 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def hosts(self) -> list[str]:
        """The name of each rank's machine; none in a group of one."""
        return self.lifeline.hosts if self.lifeline else []

    @property
    def share(self) -> slice:
        """The rows of a batch, or other things in a row, that are this rank's: every `size`-th."""
        return slice(self.rank, None, self.size)

    def own_part(self, config: TrainConfig) -> TrainConfig:
        """`config` with the rows that the first rank, which has the most, computes of each batch. Raises `UserError` if a rank
        would have none."""
        if config.batch_size < self.size:
            raise UserError(
                f"batch_size {config.batch_size} has no row for each of {self.size} ranks",
                f"give a `batch_size` of {self.size} or more, or start fewer ranks",
            )
        return replace(config, batch_size=math.ceil(config.batch_size / self.size))

    def average(self, loss_and_grad: Callable, batch_size: int) -> Callable:
        """`loss_and_grad` of this rank's rows as a function that returns the mean loss and gradient over all `batch_size` rows
        of a batch. The result has the same bits in all ranks."""
        if self.size == 1:
            return loss_and_grad
        # a rank with more rows than another counts for more
        weight = len(range(batch_size)[self.share]) * self.size / batch_size

        def over_ranks(*batch: mx.array) -> tuple[mx.array, dict]:
            means = loss_and_grad(*batch)
            if weight != 1:
                means = tree_map(lambda each: each * weight, means)
            loss, grads = nn.average_gradients(means, self.group)
            return loss, grads

        return over_ranks

    def use_own_dropout(self, model: GPT, batch_size: int) -> None:
        """Let each dropout of `model` draw the mask of a whole batch and take this rank's rows of it, in place. So the masks are
        those of one process, and the random state stays the same in all ranks."""
        if self.size > 1:
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.__class__ = RowsOfDropout
                    module._batch_size, module._share = batch_size, self.share

    def any(self, should_stop: Callable[[], bool]) -> Callable[[], bool]:
        """A function of which all ranks get the same answer: whether `should_stop` returned true in one of them, one call ago.
        The call before, so that the device works on a step while the host asks. Once true, it stays so."""
        if self.size == 1:
            return should_stop
        answer = False
        asked: mx.array | None = None

        def any_should_stop() -> bool:
            nonlocal answer, asked
            if answer:
                return True
            if asked is not None:
                answer = asked.item() > 0
                self.note_progress()  # the step before the last one has ended
            asked = mx.distributed.all_sum(mx.array(float(should_stop())), group=self.group)
            mx.async_eval(asked)
            return answer

        return any_should_stop

    def sum(self, own: Sequence[SplitLoss]) -> SplitLoss:
        """The sum of losses of which each rank has its share, `own`. It has the bits of the sum that one process would add up:
        the same numbers in the same order."""
        losses = list(own)
        if self.size > 1:
            count = int(mx.distributed.all_sum(mx.array(len(own)), group=self.group).item())
            padded = np.zeros((1, math.ceil(count / self.size), 2))
            padded[0, : len(own)] = [(each.tokens, each.nats) for each in own] or 0
            bits = mx.distributed.all_gather(mx.array(padded.view(np.uint32)), group=self.group)
            everyones = np.array(bits).view(np.float64).swapaxes(0, 1).reshape(-1, 2)  # (count or more, 2)
            losses = [SplitLoss(int(tokens), nats) for tokens, nats in everyones[:count].tolist()]
        return sum(losses, SplitLoss())

    def broadcast(self, value: Any) -> Any:
        """The `value` of the first rank, which JSON can hold."""
        if self.size == 1:
            return value
        text = np.frombuffer(json.dumps(value).encode(), np.uint8)
        length = self._of_first(mx.array([len(text)])).item()
        text = self._of_first(mx.array(text) if self.is_first else mx.zeros(length, mx.uint8))
        return json.loads(bytes(np.array(text)))

    def broadcast_state(self, model: GPT, optimizer: Optimizer) -> None:
        """Give all ranks the weights, the optimizer's state and MLX's random state of the first, bit for bit. Call this before
        you build a compiled step."""
        if self.size > 1:
            model.update(self._tree_of_first(model.parameters()))
            optimizer.state = self._tree_of_first(optimizer.state)
            high, low = self._of_first(mx.random.state[0]).tolist()
            mx.random.seed(high << 32 | low)

    def check_same(self, model: GPT) -> None:
        """Raise `UserError` if the weights of this rank are others than those of the first."""
        if self.size == 1:
            return
        drifts = {}
        for name, own in sorted(tree_flatten(model.parameters())):
            firsts = self._of_first(own)
            drifts[name] = (mx.abs(own - firsts).max() / mx.maximum(mx.abs(firsts).max(), 1e-3)).item()
        apart = [name for name, drift in drifts.items() if not drift <= MOST_DRIFT]  # also if it is no number
        if apart:
            name = apart[0]
            raise UserError(
                f"the weights of rank {self.rank} differ from those of rank 0 ({name}, by {drifts[name]:.1e} of the largest)",
                "go on from the last checkpoint with `resume`; if it happens again, leave this machine out",
            )

    def note_progress(self) -> None:
        """Tell the lifeline that something was computed."""
        if self.lifeline:
            self.lifeline.note_progress()

    def busy(self) -> AbstractContextManager:
        """A context in which the first rank does something that the others wait for, however long it takes."""
        return self.lifeline.busy() if self.lifeline else nullcontext()

    def _tree_of_first(self, tree: Any) -> Any:
        # by name: a state that was read from a file has another order
        return tree_unflatten([(name, self._of_first(array)) for name, array in sorted(tree_flatten(tree))])

    def _of_first(self, array: mx.array) -> mx.array:
        """The `array` of the first rank, computed. As bytes, for a sum of numbers would lose the sign of a zero."""
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
