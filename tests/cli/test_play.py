"""The promises of `mlx-gpt play`: what a line, an empty line and each command do, and what Ctrl-C stops in a terminal."""

import os
import pty
import re
import select
import signal
import time
from types import SimpleNamespace

import mlx_nanogpt as gpt
import pytest
from conftest import LONGEST, TOKENIZER, Result, in_a_process, tiny_gpt, trained_run
from helpers import pipe
from mlx_nanogpt_cli.commands import play as command
from mlx_nanogpt_cli.options import writing

KNOWN = gpt.CharTokenizer("\0abc")
GREEDY = "--temperature=0", "--tokens=12"


@pytest.fixture
def play(mlx_gpt, monkeypatch, run):
    """Pipe lines into the program, which answers all of them, or some."""

    def answer(lines: str, *options: str, status: int = 0) -> Result:
        pipe(monkeypatch, lines)
        result = mlx_gpt("play", "--tokens=40", *options)
        assert result.status == status, result.err
        return result

    return answer


@pytest.fixture
def documents(monkeypatch):
    """A model that writes the pieces of `texts`, each up to the end of a document or the last token; `after` are the tokens before."""
    documents = SimpleNamespace(texts=[], after=[])

    def write(prompt, tokens, seeds, end):
        assert KNOWN.decode([end]) == "\0"
        documents.after.append(KNOWN.decode(prompt))
        return [iter(KNOWN.encode(documents.texts.pop(0)).tolist())]

    monkeypatch.setattr(writing, "find_model", lambda *_: (gpt.GPT(tiny_gpt(vocab_size=4)), KNOWN, trained_run()))
    monkeypatch.setattr(command, "make_writer", lambda *_: write)
    return documents


# ---- texts


def test_each_line_is_continued_as_generate_would_and_nothing_else_is_on_standard_output(play, mlx_gpt):
    result = play("to be \nor", "--seed=7", "--tokens=20")
    texts = [("to be ", 7), ("or", 8)]  # the second has the next seed
    alone = [mlx_gpt("generate", f"--prompt={text}", "--tokens=20", f"--seed={seed}").out for text, seed in texts]
    assert result.out == "".join(alone)
    assert result.err == "runs/1: play.txt, iteration 8 of 8, best weights\n"


def test_an_empty_line_goes_on_with_the_text(play, mlx_gpt):
    whole = mlx_gpt("generate", "--prompt=to be ", "--temperature=0", "--tokens=24").out
    out = play("to be \n\n", *GREEDY).out
    assert out[:18] + out[19:] == whole and out[18] == "\n"


def test_an_empty_line_begins_the_next_document_where_one_has_ended_and_goes_on_with_one_that_was_cut(play, documents):
    documents.texts = ["cab", "b", "aaaa", "c"]
    assert play("\na\n\n\n", "--tokens=4").out == "cab\nab\naaaa\nc\n"
    assert documents.after == ["\0", "\0a", "\0", "\0aaaa"]


def test_retry_writes_another_continuation_and_undo_takes_it_back(play, documents):
    documents.texts = ["aaaa", "bbbb", "cccc", "ab"]
    result = play("c\n/retry\n\n/undo\n/undo\n\n", "--tokens=4")
    assert result.out == "caaaa\ncbbbb\ncccc\nab\n"
    assert documents.after == ["\0c", "\0c", "\0cbbbb", "\0caaaa"]
    assert result.err.splitlines()[1:] == ["cbbbb", "caaaa"]


def test_a_model_is_compiled_once_for_all_texts_of_the_same_settings(play, monkeypatch):
    made = []
    make_writer = command.make_writer
    monkeypatch.setattr(command, "make_writer", lambda *more: made.append(more) or make_writer(*more))
    play("to be\nor\n\n/retry\n/tokens 3\n/undo\nor\n")
    assert len(made) == 1
    play("to be\n/temperature 0.5\nor\n")
    assert len(made) == 3


# ---- commands


def test_a_setting_is_an_option_of_the_same_name_and_without_a_value_it_is_shown(play, mlx_gpt):
    alone = mlx_gpt("generate", "--prompt=or", "--tokens=30", "--temperature=2", "--top-k=5", "--top-p=0.8", "--seed=3")
    lines = "/tokens 30\n/temperature 2\n/top-k 5\n/top_p=0.8\n/seed 3\nor\n"
    result = play(lines)
    assert result.out == alone.out
    assert result.err.splitlines()[1:] == ["/tokens 30", "/temperature 2.0", "/top-k 5", "/top-p 0.8", "/seed 3"]
    assert play("/top-k default\n/seed 3\nor\n", "--top-k=1").out == play("or\n", "--seed=3").out
    assert len({play("/seed default\n", "--seed=3").err for _ in range(3)}) > 1
    shown = play("/temperature\n/seed\nor\n", "--temperature=0.5", "--seed=3")
    assert shown.err.splitlines()[1:] == ["/temperature 0.5", "/seed 3"]
    assert shown.out == play("or\n", "--temperature=0.5", "--seed=3").out


@pytest.mark.parametrize(
    "line, reason",
    [
        ("/top-k 0", "top_k 0 is out of range; give 1 or more"),
        ("/tokens 0", "greater"),
        ("/tokens many", "Invalid value for '/tokens': Input should be a valid integer"),
        ("/seed 9999999999999999999", "Invalid value for '/seed'"),
        ("/unknown maybe", "replace"),
        ("/run 9", "runs/9 holds no run"),
        ("/chat", "there is no command /chat; /help lists the commands"),
        ("/undo 3", "there is no command /undo 3; /help lists the commands"),
        ("/retry", "nothing is written yet; type a beginning"),
        ("to b€", "the model has never seen '€'; give /unknown skip or replace, or remove them"),
        ("/home/me", "the model has never seen '/'"),
        ("// or", "the model has never seen '/'"),
        ("\udce9", r"the model has never seen '\udce9'"),  # a byte that is not UTF-8
    ],
)
def test_what_cannot_be_done_is_a_sentence_and_changes_nothing(play, line, reason):
    result = play(f"{line}\nor\n", *GREEDY, status=1)
    assert "\nError: " in result.err and reason in " ".join(result.err.split())
    assert result.out == play("or\n", *GREEDY).out


def test_unknown_characters_are_left_out_or_replaced_if_the_user_wants_it(play):
    assert play("to b€e\n", "--unknown=skip").out.startswith("to be")
    assert play("/unknown replace\nto bé\n").out.startswith("to be")


def test_top_shows_the_likeliest_tokens_of_what_would_be_drawn(play, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    rows = play("to b\n/top\n/top-k 3\n/top\n").err.splitlines()
    chances = [float(re.fullmatch(r"“(?:.|\\u\w+|⏎)” +([\d.]+)% [█▏]+", row)[1]) for row in rows if row[0] == "“"]
    first, second = chances[:10], chances[10:]
    assert "100.0%" in play("/top-p 1e-50\n/top\n").err  # float32 has no such number
    assert len(first) == 10 and first == sorted(first, reverse=True) and sum(first) <= 100.5
    assert len(second) == 3 and abs(sum(second) - 100) < 0.5
    assert max(map(len, rows)) <= 80


def test_another_run_takes_over_the_text_and_the_settings(play, mlx_gpt):
    trained_run("runs/2", seed=6)
    other = mlx_gpt("generate", "2", "--prompt=to be", *GREEDY).out
    result = play("to be\n/run 2\n/retry\n", *GREEDY)
    assert result.out.endswith(other) and "runs/2: play.txt" in result.err


def test_a_run_with_other_tokens_begins_a_new_text(play, documents):
    documents.texts = ["aaaa"]
    changed = iter([KNOWN, TOKENIZER])
    writing.find_model = lambda *_: (gpt.GPT(tiny_gpt(vocab_size=40)), next(changed), trained_run())
    assert "nothing is written yet" in play("a\n/run\n/retry\n", "--tokens=4", status=1).err


def test_help_lists_all_commands_and_the_settings_as_they_are(play):
    lines = play("/temperature 0.5\n/help\n").err.splitlines()
    names = [line.split()[0] for line in lines if line.startswith("/")][1:]
    assert {name.strip("/").replace("-", "_") for name in names} == {*command.COMMANDS, *command.SETTINGS}
    assert any(re.match(r"/temperature 0.5  +Higher is bolder", line) for line in lines)
    assert play("or\n/quit\nto be\n", *GREEDY).out == play("or\n", *GREEDY).out


# ---- a terminal


def test_ctrl_c_stops_the_text_and_not_the_program_which_a_second_one_at_the_prompt_ends(run):
    terminal, other_end = pty.openpty()
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), other_end)
    process = in_a_process("-m", "mlx_nanogpt_cli", "play", "--tokens=1000000", text=False, **streams)
    os.close(other_end)

    def shown(end: bytes) -> bytes:
        """What comes up to `end`, or until nothing comes any more."""
        text = b""
        while end not in text and select.select([terminal], [], [], LONGEST)[0]:
            text += os.read(terminal, 1)
        return text

    def ctrl_c(typed: bytes = b"") -> None:
        os.write(terminal, typed)
        shown(typed)
        time.sleep(0.2)  # else it may come just before Python waits for a key, which is then the next to notice it
        process.send_signal(signal.SIGINT)

    shown(b"> ")
    os.write(terminal, b"to be \n")
    for _ in range(50):  # MLX has compiled: meanwhile a signal may be lost
        shown(b" ")
    process.send_signal(signal.SIGINT)
    shown(b"\n> ")
    for line in (b"or", b"no"):  # a line that is not empty is left, however often
        ctrl_c(line)
        assert b"Ctrl-C once more ends" in shown(b"\n> ")
    os.write(terminal, b"/top-k 1\n")
    assert b"/top-k 1" in shown(b"\r\n> ")
    for _ in range(2):
        ctrl_c()
        shown(b"\n")
    assert process.wait(LONGEST) == 0
    os.close(terminal)
