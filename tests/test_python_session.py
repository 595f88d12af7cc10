"""The promises to a person in a Python session or a notebook: short calls, a line for each object, and a cell that can be stopped."""

import html
import random
import re
import signal
import sys
import threading
from functools import cache
from itertools import islice
from pathlib import Path
from xml.etree import ElementTree

import mlx_nanogpt as gpt
import mlx.core as mx
import pytest
from mlx_nanogpt import UserError, open_run
from conftest import (
    DATA,
    MODERN,
    TEXT,
    byte_pairs,
    checkpoint_arrays,
    finish,
    in_a_process,
    python,
    same,
    tiny_gpt,
    tiny_run,
    tiny_train,
    trained_run,
)
from mlx_nanogpt.records import State
from mlx_nanogpt.runs.picture import HEIGHT, WIDTH, draw_losses

# ---- paths


def qwen3(path: Path | str) -> Path | str:
    trained_run(path, **MODERN)
    return path


TAKE_PATHS = {
    "open_run": lambda path: gpt.open_run(qwen3(path("runs/9"))).path,
    "create_run": lambda path: gpt.create_run(tiny_gpt(), tiny_train(), DATA, run_dir=path("x")).path,
    "init_from": lambda path: gpt.create_run(tiny_gpt(), tiny_train(), DATA, init_from=path("x")).init_from,
    "load_corpus": lambda path: gpt.load_corpus(path("play.txt"), "pastiche").identity,
    "prepare": lambda path: [*gpt.prepare([path("play.txt")], path("out"))][-1],
    "prepare one": lambda path: [*gpt.prepare(path("play.txt"), path("out"))][-1],
    "open_token_folder": lambda path: [[*gpt.prepare("play.txt", "out")], gpt.open_token_folder(path("out")).corpus],
    "export_run": lambda path: gpt.export_run(gpt.open_run(qwen3("runs/9")), path("out")),
    "export_gguf": lambda path: (
        pytest.importorskip("gguf") and gpt.export_gguf(gpt.open_run(qwen3("runs/9")), path("my.gguf"))
    ),
    "load_pretrained": lambda path: gpt.load_pretrained(qwen3(path("runs/9")))[1],
    "load_pretrained exported": lambda path: [
        gpt.export_run(gpt.open_run(qwen3("runs/9")), "out"),
        gpt.load_pretrained(path("out"))[1],
    ],
}


@pytest.mark.parametrize("call", TAKE_PATHS.values(), ids=TAKE_PATHS)
def test_a_string_and_a_path_are_the_same(call, tmp_path, monkeypatch):
    results = []
    for path in (str, Path):
        folder = tmp_path / path.__name__
        folder.mkdir()
        monkeypatch.chdir(folder)
        Path("play.txt").write_text(TEXT)
        results.append((call(path), sorted(map(str, Path().rglob("*")))))
    assert results[0] == results[1]


# ---- settings


def test_a_preset_is_both_configurations_and_may_be_changed():
    settings = gpt.PRESETS["minute"].settings | {"num_iter": 300, "lr_decay_iters": 300, "n_layer": 2}
    gpt_config, train_config = gpt.preset("minute", num_iter=300, n_layer=2)
    assert settings == {name: getattr(gpt_config, name, getattr(train_config, name, None)) for name in settings}


def test_a_preset_and_a_setting_that_do_not_exist_are_refused_with_those_that_do():
    with pytest.raises(UserError, match="preset 'minit' is not known; did you mean minute.* nanolux, minute,"):
        gpt.preset("minit")
    with pytest.raises(UserError, match="n_layers is not a setting; did you mean n_layer?"):
        gpt.preset("minute", n_layers=3)


def test_a_run_has_the_vocabulary_and_the_split_of_its_text_whatever_the_settings_say():
    data = gpt.tokenize(gpt.load_corpus("play.txt"), train_fraction=0.7)
    run = gpt.create_run(tiny_gpt(vocab_size=65), tiny_train(num_iter=1, train_fraction=0.9), data)
    assert run.gpt_config.vocab_size == data.tokenizer.vocab_size != 65 and run.train_config.train_fraction == 0.7
    list(gpt.train(run, data))
    assert open_run(run.path) == run


def test_a_star_brings_the_public_names_and_a_tab_shows_them():
    names: dict = {}
    exec("from mlx_nanogpt import *", names)
    assert set(dir(gpt)) == set(gpt.__all__) == names.keys() - {"__builtins__"}


# ---- a line for each object


def test_what_a_session_shows_is_a_line(run):
    assert repr(tiny_run("new")) == "<Run new: play.txt, iteration 0 of 8>"
    best = min(evaluation.valid_loss for evaluation in run.history())
    assert repr(run) == f"<Run runs/1: play.txt, iteration 8 of 8, lowest validation loss {best:.4f}>"
    train, valid = len(DATA.train_tokens), len(DATA.valid_tokens)
    tokens = f"{train:,} tokens to train on, {valid:,} to validate"
    assert repr(DATA) == f"<Dataset play.txt: {tokens}, vocabulary {DATA.tokenizer.vocab_size}>"
    assert repr(gpt.Corpus(("a", "b"), TEXT)) == f"<Corpus a + b: {len(TEXT):,} characters>"
    assert len(repr(byte_pairs())) < 80


def test_a_damaged_run_is_shown_with_its_damage(run):
    run.checkpoint.write_bytes(b"?")
    assert "checkpoint.safetensors is damaged" in repr(run) and "\n" not in repr(run)


def test_a_notebook_shows_the_curves_of_a_run_and_the_line(run):
    curves, line = run._repr_html_().split("<div>")
    assert line == html.escape(repr(run)[1:-1]) + "</div>"
    picture = ElementTree.fromstring(curves)
    dots, lines = (picture.findall(f"{{*}}{kind}") for kind in ("circle", "polyline"))
    losses = [evaluation.valid_loss for evaluation in run.history()]
    heights = [float(dot.get("cy")) for dot in dots]
    assert len(dots) == 2 and sorted(heights) == [heights[losses.index(loss)] for loss in sorted(losses, reverse=True)]
    assert [len(line.get("points").split()) for line in lines] == [
        2,
        2,
        2,
        2,
        0,
        2,
    ]  # each curve, and its sample beside its name


def test_a_picture_of_many_steps_is_small_and_inside_its_frame():
    steps = [gpt.Progress(10 * i, 1 / i, 0.0, 0.0, 0.0) for i in range(1, 5000)]
    curves = draw_losses(steps, 50_000)
    points = [point.split(",") for line in re.findall('points="(.*?)"', curves) for point in line.split()]
    assert all(0 <= float(x) <= WIDTH and 0 <= float(y) <= HEIGHT for x, y in points) and len(curves) < 10_000


def test_a_run_without_losses_or_with_damage_is_a_line_in_a_notebook(run):
    new = tiny_run("a<b>")
    assert new._repr_html_() == "<div>Run a&lt;b&gt;: play.txt, iteration 0 of 8</div>"
    run.checkpoint.write_bytes(b"?")
    assert run._repr_html_().startswith("<div>Run runs/1: play.txt, ") and "is damaged" in run._repr_html_()
    assert run._repr_html_().count("is damaged") == 1


# ---- write


def test_a_run_writes_text_after_a_prompt(run):
    ids = run.tokenizer.encode("to be").tolist()
    written = gpt.generate(run.load_model(), ids, 30, 7, gpt.make_sampler(0.8, 5, 0.9))
    text = run.write("to be", tokens=30, seed=7, temperature=0.8, top_k=5, top_p=0.9)
    assert text == "to be" + run.tokenizer.decode(written) and len(text) == 35
    assert (
        run.write(tokens=30, seed=7) == run.write("\n", 30, seed=7)[1:]
    )  # after the start token, which is not written


def test_without_a_seed_each_text_is_another_one(run):
    model = run.load_model()
    assert run.write(tokens=40) != run.write(tokens=40)
    assert [*gpt.generate(model, [0], 40)] != [*gpt.generate(model, [0], 40)]


def test_a_run_that_trains_may_write_and_does_not_notice():
    run, undisturbed = tiny_run(dropout=0.2), trained_run(dropout=0.2)
    for record in gpt.train(run, DATA):
        if isinstance(record, gpt.Saved):
            run.write(tokens=2)
    assert same(checkpoint_arrays(run), checkpoint_arrays(undisturbed))


@pytest.mark.parametrize(
    "wrong, named", [({"prompt": "Ж"}, "never seen"), ({"top_k": 0}, "top_k 0"), ({"seed": -1}, "seed -1")]
)
def test_what_cannot_be_written_is_refused(run, wrong, named):
    with pytest.raises(UserError, match=named):
        run.write(**wrong)


# ---- a cell that is stopped

SETTINGS = {"num_iter": 24, "eval_interval": 12, "dropout": 0.2}


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def goes_on(run: gpt.Run) -> bool:
    """Whether `run`, trained to its end, has the weights and the losses of one that was never stopped."""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finish(run)
    arrays, losses = never_stopped()
    return same(checkpoint_arrays(run), arrays) and losses_of(run) == losses


@cache
def never_stopped() -> tuple[dict[str, mx.array], list[tuple[int, float]]]:
    run = trained_run(**SETTINGS)
    arrays = checkpoint_arrays(run)
    mx.eval(arrays)  # from the file, which the next test does not have
    return arrays, losses_of(run)


def losses_of(run: gpt.Run) -> list[tuple[int, float]]:
    return [(line.iteration, line.valid_loss) for line in run.history()]


def test_leaving_the_loop_at_any_record_loses_no_step():
    count = len(finish(tiny_run(**SETTINGS)))
    assert count > 10
    for i in range(1, count, 4):
        run = tiny_run(**SETTINGS)
        for record in islice(gpt.train(run, DATA), i):
            iteration = record.iteration
        assert run.position().iteration >= iteration and goes_on(run)


def test_the_seconds_of_the_steps_before_a_break_count():
    run = tiny_run(num_iter=20, eval_interval=10)
    for record in gpt.train(run, DATA):
        if record.iteration == 10:  # the last progress before an evaluation
            break
    assert run.position().train_seconds > 0


def test_a_break_and_another_one_and_then_the_end_are_as_one():
    run = tiny_run(**SETTINGS)
    for left in (10, 20):
        for record in gpt.train(run, DATA):
            if isinstance(record, gpt.Progress) and record.iteration == left:
                break
    assert goes_on(run)


@pytest.mark.parametrize("kind", [gpt.Progress, gpt.Evaluating, gpt.Evaluation, gpt.Saved])
def test_ctrl_c_in_the_body_of_the_loop_saves(kind):
    run = tiny_run(**SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        for record in gpt.train(run, DATA):
            if isinstance(record, kind):
                interrupt()
    assert run.position().iteration >= record.iteration > 0
    assert goes_on(run)


OURS = ("training.py", "recorder.py", "interrupt.py", "evaluation.py", "checkpoint.py", "files.py", "batches.py")


def iteration_of(frame) -> int:
    """The iteration of the state that `frame` or one that called it moves."""
    while frame:
        if isinstance(state := frame.f_locals.get("state"), State):
            return state.iteration
        frame = frame.f_back
    return 0


def train_traced(run: gpt.Run, at: int = 0) -> tuple[int, int]:
    """Train `run`, and press Ctrl-C at line number `at` of our code; return the number of lines that ran, and the iteration at that
    line."""
    lines = iteration = 0

    def trace(frame, event: str, _):
        nonlocal lines, iteration
        if not frame.f_code.co_filename.endswith(OURS):
            return None
        if event == "line":
            lines += 1
            if lines == at:
                iteration = iteration_of(frame)
                interrupt()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        finish(run)
        assert not at
    except KeyboardInterrupt:
        assert at
    finally:
        sys.settrace(before)
    return lines, iteration


def test_ctrl_c_at_any_line_of_the_library_loses_no_step():
    lines, _ = train_traced(tiny_run(**SETTINGS))
    for at in random.Random(1).sample(range(1, lines), 3):
        run = tiny_run(**SETTINGS)
        _, iteration = train_traced(run, at)
        assert run.position().iteration >= iteration and goes_on(run), at


def test_a_second_ctrl_c_does_not_wait():
    calls = iter(range(100))

    def twice() -> bool:
        if next(calls) == 3:
            interrupt()
            assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
            interrupt()
        return False

    run = tiny_run(**SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        finish(run, twice)
    assert not run.checkpoint.exists()
    assert goes_on(run)


def test_a_program_with_a_handler_of_its_own_keeps_it():
    asked: list[int] = []
    signal.signal(signal.SIGINT, lambda *_: asked.append(1))
    try:
        finish(tiny_run(), lambda: interrupt() or bool(asked[3:]))
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert len(asked) == 4


def test_a_thread_may_train():
    run, seen = tiny_run(), set()
    thread = threading.Thread(target=finish, args=(run, lambda: seen.add(signal.getsignal(signal.SIGINT))))
    thread.start()
    thread.join()
    assert seen == {signal.default_int_handler} and run.position().iteration == 8


def test_weights_that_are_no_numbers_replace_none_that_are():
    run, model = tiny_run(**SETTINGS), None
    model = gpt.GPT(run.gpt_config)
    for record in gpt.train(run, DATA, model=model):
        if record.iteration == 20:
            model.wte.weight = mx.full(model.wte.weight.shape, mx.nan)
            break
    assert run.position().iteration == 12
    run.load_model()


CELL = """
import mlx_nanogpt as gpt
records = gpt.train(gpt.open_run("runs/1"), gpt.tokenize(gpt.load_corpus("play.txt")))
for record in records:
    print(record.iteration, flush=True)
"""


def test_ctrl_c_of_a_person_saves():
    run = tiny_run(num_iter=10**8, eval_interval=10**8)
    with in_a_process("-c", CELL) as process:
        seen = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == -signal.SIGINT and "KeyboardInterrupt" in err
    assert run.position().iteration >= max(map(int, [seen, *out.split()]))


def test_a_program_that_ends_before_its_loop_saves():
    run = tiny_run(num_iter=100, eval_interval=100)
    python(CELL.split("for")[0] + "next(records)")
    assert run.position().iteration >= 10
