"""The recorder brings what training yields onto the disk: it locks a run, restores its state, and writes each record before it
passes it on. A snapshot is written at its step, so before any checkpoint with that step.

The history is written before the checkpoint. If a crash comes in between, the history has one line too many, the log some, and the
next process drops them. The best weights are written after the checkpoint. If a crash comes in between, the next process that
trains writes them.
"""

import json
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

from ..errors import DeviceFailed, UserError, is_of_device
from ..evaluation import evaluation_mode
from ..files import DAMAGE, explaining_damage, locked
from ..generation import generate
from ..machine.failures import explain_failure
from ..machine.volume import check_lock
from ..model import GPT, random_key, set_random_key
from ..optimizer import make_optimizer
from ..ranks import ALONE, Ranks
from ..records import (
    Diverged,
    Done,
    Evaluating,
    Evaluation,
    Progress,
    Record,
    Sample,
    Saved,
    Snapshot,
    State,
    since_best,
)
from ..text.tokenizer import decode_documents
from .checkpoint import MODEL, OPTIMIZER, RANDOM, Contents, Position, checksum, open_arrays, read_arrays, write_arrays
from .log import Line, is_logged, to_text
from .run import BEST, CHECKPOINT, FILES, HISTORY, LOG, MAY_CHANGE, Run, open_run, quote
from .snapshots import SNAPSHOTS, write_snapshot
from .teachers import load_teachers


class Recorder:
    """The only writer of `run` for the time of a context. Ranks other than 0 write nothing.

    Entering removes the half-written files of killed processes. It raises `UserError` if another process writes the run, or if the
    directory is gone, is damaged, or holds another run by now.
    """

    def __init__(self, run: Run, sample_tokens: int = 0, ranks: Ranks = ALONE):
        self.run, self.sample_tokens, self.ranks = run, sample_tokens, ranks
        self.log: list[Line] = []
        self.saved: int | None = None  # the iteration of the checkpoint
        self.until_unlocked = ExitStack()

    def __enter__(self) -> "Recorder":
        if self.ranks.is_first:
            with self.until_unlocked, explaining_damage(self.run.path):
                self.folder = self.until_unlocked.enter_context(locked(self.run.path))
                self.folder.sweep(*FILES, SNAPSHOTS)
                may_change = {name: getattr(self.run.train_config, name) for name in MAY_CHANGE}
                if open_run(self.run.path).extended(**may_change) != self.run:
                    raise UserError(f"{self.run.path} holds another run by now", "name the directory where the run is")
                self.until_unlocked = self.until_unlocked.pop_all()
            check_lock(self.folder)
        return self

    def __exit__(self, *_: object) -> None:
        self.until_unlocked.close()

    @property
    def path(self) -> Path:
        """Where the run is now: its directory may have been moved. Raises `UserError` if it was deleted."""
        return self.folder.current_path()

    def restore(self, model: GPT | None = None) -> State:
        """The state of the checkpoint, in `model` or in a new GPT; or that of the beginning. All ranks get rank 0's.

        Seeds MLX's global random state. Raises `UserError` if files are damaged or lost, if the run is past its last iteration, or if
        it belongs to a model of another class.
        """
        run, config = self.run, self.run.train_config
        own = run.check_model(model) if self.ranks.is_first else None
        teachers = load_teachers(run.path, run.teachers) if self.ranks.is_first else []
        if teachers and model and (type(model).loss, type(model).token_losses) != (GPT.loss, GPT.token_losses):
            raise UserError("a model with a loss of its own cannot learn from teachers", "train it without them")
        mx.random.seed(config.seed)  # after the teachers, whose first weights are drawn, too
        model = model or GPT(run.gpt_config)
        state = State(model, make_optimizer(config), teachers=teachers)
        state.optimizer.init(model.trainable_parameters())
        if self.ranks.is_first:
            load_checkpoint(run, state)
            # a kill in an evaluation may have left its sample
            self.log = [line for line in run.log() if not isinstance(line, Sample) or line.iteration <= state.evaluated]
            self.saved = state.iteration if run.checkpoint.exists() else None
        self._broadcast(state)
        if state.iteration > config.num_iter:
            raise UserError(
                f"the run {run.path} is at iteration {state.iteration} already",
                f"give a larger `num_iter` than {config.num_iter}",
            )
        if self.ranks.is_first:
            self._complete_best(state)
            run.write_config(self.folder, own)  # with the changes of `extended`, and the versions in use now
        return state

    def record(self, records: Iterable[Record], state: State) -> Generator[Record, None, None]:
        """Yield each of `records`, which move `state`, after it is on the disk; yield also `Sample` and `Saved`."""
        try:
            for record in records:
                after: list[Record] = []
                match record:
                    case Progress() if is_logged(record.iteration):
                        self.log.append(record)
                    case Evaluating(windows=0) | Done(end="interrupted") if self.saved != state.iteration:
                        yield self.save(state)  # also before an evaluation, which may be long and be killed
                    case Evaluation():
                        after = [*self._sample(state), self.save(state)]
                    case Snapshot():
                        self._write_snapshot(state)
                yield record
                yield from after
        except Diverged as error:
            raise Diverged(f"{error.problem}, so training stopped{self._name_checkpoint()}", error.remedy) from None
        except RuntimeError as error:
            if isinstance(failure := explain_failure(error), DeviceFailed):
                problem = f"{failure.problem}, so training stopped{self._name_checkpoint()}"
                raise DeviceFailed(problem, failure.remedy) from error
            raise

    def save(self, state: State) -> Saved:
        """Replace the log, and then the checkpoint. At an evaluation, write the history before the checkpoint, and after it the best
        weights if the validation loss is the lowest.

        Raises `UserError` if that fails. If the checkpoint fails, the older one is untouched.
        """
        if not self.ranks.is_first:
            return Saved(state.iteration, self.run.path)
        trees = {MODEL: state.model.parameters(), OPTIMIZER: state.optimizer.state, RANDOM: random_key()}
        parts = {part: dict(tree_flatten({part: tree})) for part, tree in trees.items()}
        lines = "".join(json.dumps(asdict(evaluation)) + "\n" for evaluation in state.history)
        checksums = {name: checksum(part) for name, part in parts.items()}
        position = Position(state.iteration, state.train_seconds)
        contents = Contents(position, len(state.history), zlib.crc32(lines.encode()), checksums)
        with self._explaining_save(f"the checkpoint of iteration {state.iteration}"):
            self.folder.write(LOG, to_text(self.log))
            if _is_evaluated(state):
                self.folder.write(HISTORY, lines)
            write_arrays(self.folder, CHECKPOINT, parts, contents)
        if _is_best(state):
            self._write_best(parts[MODEL], contents)
        self.saved = state.iteration
        return Saved(state.iteration, self.path)

    def _name_checkpoint(self) -> str:
        if not self.ranks.is_first:  # it writes none
            return ""
        if self.saved is None:
            return " (no checkpoint had been written)"
        return f" (the checkpoint of iteration {self.saved} is kept)"

    def _sample(self, state: State) -> list[Sample]:
        """Let the model write from an empty prompt. MLX's global random state stays."""
        if not (self.sample_tokens and self.ranks.is_first):
            return []
        start, seed = self.run.tokenizer.start_token, self.run.train_config.seed
        with evaluation_mode(state.model):
            tokens = list(generate(state.model, [start], self.sample_tokens, seed))
        mx.clear_cache()  # as after an evaluation
        sample = Sample(state.iteration, decode_documents(self.run.tokenizer, tokens))
        self.log.append(sample)
        return [sample]

    def _write_snapshot(self, state: State) -> None:
        if self.ranks.is_first:
            with self._explaining_save(f"the snapshot of iteration {state.iteration}"):
                write_snapshot(self.folder, state.iteration, state.model)

    def _broadcast(self, state: State) -> None:
        """Give all ranks the state of rank 0."""
        history = [asdict(evaluation) for evaluation in state.history]
        state.iteration, state.train_seconds, history = self.ranks.broadcast(
            [state.iteration, state.train_seconds, history]
        )
        state.history = [Evaluation(**evaluation) for evaluation in history]
        self.ranks.broadcast_state(state.model, state.optimizer)

    def _complete_best(self, state: State) -> None:
        """Write the best weights if a crash came between the checkpoint and them."""
        if not _is_best(state):
            return
        contents = self.run.contents()
        try:
            whole = open_arrays(self.run.path / BEST)[0].position == contents.position
        except (OSError, *DAMAGE):
            whole = False
        if not whole:
            self._write_best(dict(tree_flatten({MODEL: state.model.parameters()})), contents)

    def _write_best(self, model: Mapping[str, mx.array], contents: Contents) -> None:
        what = f"the best weights, of iteration {contents.position.iteration},"
        with self._explaining_save(what, "the checkpoint has them, too"):
            write_arrays(self.folder, BEST, {MODEL: model}, contents)

    @contextmanager
    def _explaining_save(self, what: str, kept: str = "") -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:
            if is_of_device(error):
                raise
            failure = f"{what} could not be written"
            try:
                path = self.path
            except UserError as gone:
                raise UserError(f"{failure}: {gone.problem}", gone.remedy) from error
            is_saved = self.folder.holds(CHECKPOINT)
            kept = kept or ("the checkpoint before it is untouched" if is_saved else "there is no checkpoint before it")
            raise UserError(
                f"{failure} into {path} ({getattr(error, 'strerror', None) or error})",
                f"{kept}: make room or make the directory writable, then continue with `resume` {quote(path)}",
            ) from error


def load_checkpoint(run: Run, state: State) -> None:
    """Load the checkpoint of `run` into `state` and MLX's random state; before the first one nothing changes. Call this before you
    build a compiled step, which captures the arrays.

    Raises `UserError` if the file is damaged or of another shape, if it was lost, or if it is missing in a run that was to start
    from weights.
    """
    if not run.checkpoint.exists():
        run.check_not_lost(run.checkpoint)
        if run.init_from is not None:
            raise UserError(
                f"the run {run.path} was to start from the weights of {run.init_from}, and was stopped before it had them",
                "start it anew with the same `run_dir`",
            )
        return
    parts = {MODEL: state.model.parameters(), OPTIMIZER: state.optimizer.state, RANDOM: random_key()}
    contents, found = read_arrays(run.checkpoint, parts)
    state.model.update(found[MODEL])
    state.optimizer.state = found[OPTIMIZER]
    set_random_key(found[RANDOM])
    state.iteration, state.train_seconds = contents.position.iteration, contents.position.train_seconds
    state.history = run.history()


def start_from(run: Run, model: GPT) -> None:
    """Save the weights of `model` as the checkpoint of iteration 0 of `run`, which is new.

    Seeds MLX's global random state. Raises `UserError` if the run has weights already, or the file cannot be written.
    """
    own = run.check_model(model)
    mx.random.seed(run.train_config.seed)
    state = State(model, make_optimizer(run.train_config))
    state.optimizer.init(model.trainable_parameters())
    with Recorder(run) as recorder:
        if run.checkpoint.exists():
            raise UserError(f"the run {run.path} has weights already", "start a new run")
        run.write_config(recorder.folder, own)
        recorder.save(state)


def _is_evaluated(state: State) -> bool:
    return bool(state.history) and state.evaluated == state.iteration


def _is_best(state: State) -> bool:
    """Whether the state was just evaluated, and has the lowest validation loss so far."""
    return _is_evaluated(state) and since_best(state.history) == 0
