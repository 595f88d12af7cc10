"""`mlx-gpt train`: a text in, a run directory out."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import mlx_nanogpt as gpt
import typer
from mlx_nanogpt import Dataset, GPTConfig, Run, UserError
from mlx_nanogpt.config import configurations
from mlx_nanogpt.config_file import lengthen
from mlx_nanogpt.exchange.pretrained import is_run
from mlx_nanogpt.model import adapt
from mlx_nanogpt.optimizer import end_of_learning
from mlx_nanogpt.ranks import Ranks
from mlx_nanogpt.runs.create import check_teachers
from mlx_nanogpt.runs.find import named_run, own_dataset, read_for
from mlx_nanogpt.runs.run import MAY_CHANGE
from mlx_nanogpt.runs.trackers import TrackerName, Trackers, check_installed
from mlx_nanogpt.text.corpus import TINYSHAKESPEARE
from mlx_nanogpt.text.identity import STANDARD_INPUT
from mlx_nanogpt.text.tokenizer import Tokenizer
from mlx_nanogpt.training import check_fits

from ..options import shared, training
from ..options.settings import option_name, with_settings
from ..options.start import ConfigOption, PresetOption, starting_settings
from ..options.texts import default_documents, load_dataset, read_data
from ..process.caffeinate import keep_awake
from ..process.ranks import INTERRUPTED, describe_ranks, join_ranks, receive_run, resume_command, share_run
from ..process.retries import count_retries, note_checkpoint, report_failures, train_with_retries
from ..screen.conclusion import conclude
from ..screen.consoles import console, print_header, print_notes
from ..screen.describe import describe_run, describe_tests, describe_weights, forecast
from ..screen.time_limit import TimeLimit
from ..screen.training_display import follow, follow_silently

OF_A_MODEL = {field.name for field in fields(GPTConfig)} - {"dropout"} | {"tokenizer"}  # vocab_size among them
MAY_CHANGE_ON_RESUME = {*MAY_CHANGE, "resume", "data", "valid_data", "device", "report_to", "caffeinate", "retries"}
ENDS = {
    "out of patience": "no better validation loss in {patience} evaluations",
    "at the target": "the validation loss is no higher than {target_loss:g}",
}


@with_settings
def train(
    ctx: typer.Context,
    data: training.DataOption = [TINYSHAKESPEARE],
    tokenizer: shared.TokenizerOption = "char",
    vocab_size: shared.VocabSizeOption = None,
    documents: shared.DocumentsOption = None,
    valid_data: shared.ValidDataOption = [],
    device: shared.DeviceOption = "auto",
    preset: PresetOption = None,
    minutes: training.MinutesOption = None,
    config: ConfigOption = None,
    init_from: training.StartOption = None,
    run_dir: training.RunDirOption = None,
    resume: training.ResumeOption = None,
    teacher: training.TeacherOption = [],
    report_to: training.ReportToOption = [],
    caffeinate: training.CaffeinateOption = True,
    retries: training.RetriesOption = None,
    **settings: Any,
) -> None:
    """Train a GPT on a text and keep it in a run directory.

    The defaults are the settings of NanoLux's published benchmark. Ctrl-C saves, and prints the command to resume.

    A --preset or a --config replaces the defaults; options replace both.
    """
    shared.use_device(device)
    given, limit = shared.given_options(ctx), TimeLimit(minutes)
    if {"minutes", "num_iter"} <= given.keys():
        raise UserError("`minutes` and `num_iter` exclude each other: the minutes decide the number", "leave out one")
    if "report_to" in given:
        given["report_to"] = report_to = list(dict.fromkeys(report_to))
    if times := count_retries(retries):
        is_piped = STANDARD_INPUT in (*data, *valid_data)
        if resume and "data" not in given:
            is_piped |= gpt.open_run(resume).corpus.is_piped
        raise typer.Exit(train_with_retries(times, sys.argv[1:], is_piped))
    with join_ranks(given) as ranks, keep_awake(caffeinate) as sleep:
        if not ranks.is_first:
            follow_silently(*receive_run(ranks, given), ranks)
            return  # the exit status is rank 0's
        check_installed(report_to)
        if resume:
            run, dataset = _resume_run(resume, given)
        else:
            chosen = _choose_settings(preset, config, given)
            data = chosen.get("data", data)
            texts = {"data": data, "valid_data": valid_data, "documents": documents}
            defaults = texts | {"tokenizer": tokenizer, "init_from": init_from, "teacher": teacher} | settings
            run, dataset = _create_run(run_dir, defaults | chosen, chosen, given, ranks, limit)
        options = _options_to_resume(given) + _changes(given)
        if ranks.size > 1:
            share_run(ranks, run, options)
        _print_header(run, dataset, ranks, given, data, sleep, limit)
        run, done = _train(run, dataset, ranks, report_to, options, limit)
    if done.end == "interrupted":
        _print_how_to_resume(run, done.iteration, given)
        raise typer.Exit(INTERRUPTED)
    if done.end in ENDS:
        reason = ENDS[done.end].format(**asdict(run.train_config))
        console.print(f"\nStopped at iteration {done.iteration}: {reason}.")
    conclude(run, dataset)
    limit.conclude()


# ---- choose the run and the text


def _choose_settings(preset: str | None, config: Path | None, given: dict) -> dict:
    """Return the options that are `given`, and for the rest the settings of the preset or the file."""
    start = starting_settings(preset, config, given)
    if "init_from" in given:  # its model is fixed: the preset or the file only sets how to train it
        start = {name: value for name, value in start.items() if name not in OF_A_MODEL}
    return start | given


def _create_run(
    run_dir: Path | None, values: dict, chosen: dict, given: dict, ranks: Ranks, limit: TimeLimit
) -> tuple[Run, Dataset]:
    """Create a run, and load its text.

    `values` has all settings, `chosen` those from the command line, a preset or a file, `given` those from the command line.
    """
    # the tokenizer determines vocab_size
    gpt_config, train_config = configurations({**values, "vocab_size": GPTConfig.vocab_size})
    model, tokenizer = _load_start(values["init_from"], chosen)
    documents = values["documents"]
    if tokenizer and documents is None:
        documents = default_documents(values["data"], values["init_from"], tokenizer)
    text = read_data(values["data"], "data" in chosen, values["valid_data"], documents)
    if isinstance(text, Dataset) and "train_fraction" in given:  # that of a preset or a file does not count here
        raise UserError(
            f"{text.corpus.name} holds tokens, split already",
            "leave out `train_fraction`, or prepare the text again with another",
        )
    if isinstance(text, Dataset) and tokenizer and text.tokenizer.marks and tokenizer.end_token is not None:
        tokenizer = tokenizer.with_marks()
    if isinstance(text, Dataset) and tokenizer not in (None, text.tokenizer):
        raise UserError(
            f"{text.corpus.name} holds the tokens of another tokenizer than that of {values['init_from']}",
            "give the text itself",
        )
    dataset = load_dataset(text, train_config.train_fraction, values["tokenizer"], chosen, tokenizer)
    gpt_config = model.config if model else replace(gpt_config, vocab_size=dataset.tokenizer.vocab_size)
    teachers = [gpt.open_run(named_run(name)) for name in dict.fromkeys(values["teacher"])]
    others = [own for own in teachers if own.corpus.sha256 != dataset.corpus.sha256]
    print_notes(f"{own.path} learned from another text, {own.corpus.name}" for own in others)
    check_fits(gpt_config, ranks.own_part(train_config), dataset, [own.gpt_config for own in teachers])
    if teachers and ranks.size > 1:
        raise UserError("several ranks cannot learn from a `teacher`", "train in one process, without mlx-gpt launch")
    if limit.minutes:
        check_teachers(teachers, gpt_config, train_config, dataset)  # before it is measured with them
        models = [own.load_model() for own in teachers]
        num_iter = limit.choose_length(gpt_config, ranks.own_part(train_config), models)
        train_config = lengthen(train_config, num_iter)
    run = gpt.create_run(gpt_config, train_config, dataset, run_dir, values["init_from"], teachers)
    if model:
        gpt.start_from(run, model)
    return run, dataset


def _load_start(init_from: str | None, chosen: dict) -> tuple[gpt.GPT | None, Tokenizer | None]:
    """Load the model to start from, changed as `chosen`, and its tokenizer; None and None without `init_from`."""
    if init_from is None:
        return None, None
    for name in ("tokenizer", "vocab_size"):
        if name in chosen:
            raise UserError(
                f"`{name}` and `init_from` exclude each other: the model has a tokenizer", "leave out one of them"
            )
    model, tokenizer = gpt.load_pretrained(init_from)
    changes = {field.name: chosen[field.name] for field in fields(GPTConfig) if field.name in chosen}
    return adapt(model, **changes), tokenizer


def _resume_run(path: Path, given: dict) -> tuple[Run, Dataset]:
    """Open the run at `path`, extended as `given`, and load its text."""
    run = gpt.open_run(path)
    run.check_model(None)
    _check_unchanged(run, given)
    dataset = own_dataset(run, read_for(run, given.get("data"), given.get("valid_data", ())))
    iteration = run.position().iteration
    num_iter = given.get("num_iter", run.train_config.num_iter)
    finished = num_iter < iteration or any(evaluation.iteration == num_iter for evaluation in run.history())
    if end_of_learning(run.train_config) <= iteration and (
        finished or iteration < num_iter
    ):  # else an evaluation is left
        problem = f"the rate of the run {run.path} is 0 from iteration {end_of_learning(run.train_config):,} on, so it would learn nothing"
        raise UserError(problem, f"start a new run from its weights, with `init_from` {shlex.quote(str(run.path))}")
    if finished:
        raise UserError(
            f"the run {run.path} is at iteration {iteration} already", f"give a larger `num_iter` than {iteration}"
        )
    return run.extended(**{name: given[name] for name in MAY_CHANGE if name in given}), dataset


def _check_unchanged(run: Run, given: dict) -> None:
    """Raise `UserError` if an option in `given` would change a setting that stays."""
    settings = asdict(run.gpt_config) | asdict(run.train_config)
    for name in given.keys() - MAY_CHANGE_ON_RESUME:
        if name not in settings:
            raise UserError(f"`{name}` and `resume` exclude each other", "leave out one of them")
        if given[name] != settings[name]:
            raise UserError(
                f"the run {run.path} has {name} {settings[name]} and cannot be resumed with {given[name]}",
                "leave the option out, or start a new run without `resume`",
            )


# ---- print the header, train, print the end


def _print_header(
    run: Run, dataset: Dataset, ranks: Ranks, given: dict, data: Sequence[str], sleep: str | None, limit: TimeLimit
) -> None:
    origin = "".join(f" --{name} {shlex.quote(str(given[name]))}" for name in ("preset", "config") if name in given)
    lines = describe_run(run, dataset)
    if "init_from" in given and is_run(given["init_from"]):
        lines["Start"] = f"from the weights of {describe_weights(gpt.open_run(given['init_from']))}"
    lines |= describe_tests(data)
    if "resume" in given and not run.checkpoint.exists():
        lines["Run"] += ", started over: it has no checkpoint"
    if time := limit.describe(run) or forecast(run, ranks.own_part(run.train_config)):
        lines["Time"] = time
    if ranks.size > 1:
        lines["Ranks"] = describe_ranks(ranks)
    if "report_to" in given:
        lines["Trackers"] = ", ".join(given["report_to"])
        if "tensorboard" in given["report_to"]:
            lines["Trackers"] += f" (look with tensorboard --logdir {shlex.quote(str(run.path.parent))})"
    print_header(f"mlx-gpt train{origin}", lines | ({"Sleep": sleep} if sleep else {}))


def _train(
    run: Run, dataset: Dataset, ranks: Ranks, report_to: list[TrackerName], options: list[str], limit: TimeLimit
) -> tuple[Run, gpt.Done]:
    """Train `run`, which --resume and `options` resume; return it, with the path it has by then, and its last record."""
    with Trackers(report_to, run, _print_failure) as trackers, report_failures(run, options):
        trained, done = follow(run, dataset, ranks, [trackers.note, note_checkpoint, limit.note])
    if trained.path != run.path:
        console.print(f"\n{run.path} was moved during training; the run is now {trained.path}.", soft_wrap=True)
    return trained, done


def _print_failure(name: str, reason: str) -> None:
    console.print(f"{name} failed; training continues without it: {reason}", style="yellow", soft_wrap=True)


def _print_how_to_resume(run: Run, iteration: int, given: dict) -> None:
    piped = ", pipe in the same text" if run.corpus.is_piped else ""
    console.print(f"\nStopped at iteration {iteration}; everything is kept in {run.path}. To resume{piped}:")
    console.print(f"  {resume_command(run.path, _options_to_resume(given))}", soft_wrap=True)


def _changes(given: dict) -> list[str]:
    """The options in `given` that change a resumed run, for a start before they are saved."""
    changed = [f"{option_name(name)}={given[name]}" for name in MAY_CHANGE if {name, "resume"} <= given.keys()]
    return changed + ["--no-caffeinate"] * (not given.get("caffeinate", True))


def _options_to_resume(given: dict) -> list[str]:
    """The options of mlx-gpt train that, with --resume, resume a run as it was started."""
    names = ("data", "valid_data") if "resume" in given else ()  # else the run names its text
    again = [(name, text) for name in names for text in given.get(name, ())]
    again += [(name, str(given[name])) for name in ("device", "retries") if name in given]
    again += [("report_to", name) for name in given.get("report_to", ())]
    return [word for name, value in again for word in (option_name(name), value)]
