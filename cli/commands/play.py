"""`mlx-gpt play`: a model in the terminal, loaded once. Standard output carries the texts alone; all else goes to standard error."""

import signal
import sys
from collections import namedtuple
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import chain
from pathlib import Path

import mlx_nanogpt as gpt
import mlx.core as mx
import numpy as np
import typer
from mlx_nanogpt import UserError
from mlx_nanogpt.generation import make_filter, make_writer
from mlx_nanogpt.text.tokenizer import encode_prompt
from rich.cells import cell_len, set_cell_size
from rich.table import Table

from ..options import writing
from ..options.prompt import UnknownOption, choose_known
from ..options.settings import option_name, with_options
from ..options.shared import DeviceOption, InitFromOption, LastOption, RunArgument, use_device
from ..process.stop_request import handle_stop_signals
from ..screen.consoles import errors, print_error, quote_token, show_text

COMMANDS = {  # methods of `Game`, and what they do
    "retry": "Another continuation of the same beginning.",
    "undo": "Take back what was written last.",
    "top": "The likeliest next tokens, and their probabilities.",
    "run": "Another run, by its number or folder. With the same tokens, the text so far stays.",
    "help": "This list.",
    "quit": "End, as Ctrl-D does.",
}
SETTINGS = ("temperature", "top_k", "top_p", "tokens", "seed", "unknown")  # options that are commands, too
DEFAULT = "default"
SHOWN, WIDEST, BESIDE = 10, 20, len(" 100.0% ")  # candidates; the characters of one, and between it and its bar
# Tokens that were drawn after `before`, which begins with the line that was typed; the next ones are drawn after `after`.
Piece = namedtuple("Piece", "typed before after text")


class Game:
    """A model, the settings of its texts, and the pieces that it wrote."""

    def __init__(self, ctx: typer.Context):
        self.ctx, self.tokenizer, self.settings, self.pieces = ctx, None, {}, []
        for name in SETTINGS:
            self.set(name, ctx.params[name])
        self.open(ctx.params["run"], ctx.params["init_from"])

    def answer(self, line: str) -> None:
        """Do what `line` says: a command, or a text. Raises `UserError` and `typer.BadParameter` if it cannot be done."""
        name, _, value = line.rstrip()[1:].replace("=", " ", 1).partition(" ")
        if not line:
            self.write("", self.so_far())
        elif line[0] != "/" or not (setting := name.replace("-", "_")).isidentifier():  # // and /usr/bin are texts
            known = choose_known(self.tokenizer, line, self.settings["unknown"])
            self.write(known, encode_prompt(self.tokenizer, known))
        elif setting in SETTINGS:
            if value:
                words = "--" if value == DEFAULT else f"{option_name(setting)}={value}"
                self.set(setting, self.parse(words)[setting])
            errors.print(self.show(setting), style="dim")
        elif name == "run":
            self.open(self.parse("--", *[value] if value else [])["run"])
        elif name not in COMMANDS or value:
            raise UserError(f"there is no command {line}", "/help lists the commands")
        elif name in ("retry", "undo") and not self.pieces:
            raise UserError("nothing is written yet", "type a beginning")
        else:
            getattr(self, name)()

    def parse(self, *words: str) -> dict:
        """The values of `words` as the command line has them, and the defaults."""
        return self.ctx.command.make_context("play", list(words)).params

    def set(self, name: str, value: object) -> None:
        changed = self.settings | {name: writing.choose_seed(value) if name == "seed" else value}
        make_filter(*map(changed.get, SETTINGS[:3]))  # refuses a bad value
        self.settings = changed

    def show(self, name: str) -> str:
        value = self.settings[name]
        return f"/{name.replace('_', '-')} {'(all)' if value is None else value}"

    def open(self, run: Path | None, init_from: str | None = None) -> None:
        model, tokenizer = writing.open_model(run, self.ctx.params["last"], init_from)
        if tokenizer != self.tokenizer:
            self.pieces.clear()
        self.model, self.tokenizer = model.eval(), tokenizer
        self.writer = lru_cache(1)(lambda *drawing: make_writer(model, gpt.make_sampler(*drawing)))  # which compiles

    def so_far(self) -> list[int]:
        return self.pieces[-1].after if self.pieces else encode_prompt(self.tokenizer, "")

    def write(self, typed: str, before: list[int]) -> None:
        """Write `typed`, and what follows the tokens `before`."""
        *drawing, count, seed, _ = map(self.settings.get, SETTINGS)
        drawn, pressed = [], []

        def draw() -> Iterator[int]:
            [tokens] = self.writer(*drawing)(before, count, [seed], self.tokenizer.end_token)
            for token in tokens:
                drawn.append(token)
                yield token
                if pressed:
                    return

        # Ctrl-C waits for a token: an exception may break off a compilation, and spoil the model
        with handle_stop_signals(lambda *_: pressed.append(True), [signal.SIGINT] if sys.stdin.isatty() else []):
            show_text(chain([typed], self.tokenizer.stream(draw())))
        ended = len(drawn) < count and not pressed  # a document: the next one begins anew
        after = encode_prompt(self.tokenizer, "") if ended else before + drawn
        self.pieces.append(Piece(typed, before, after, typed + self.tokenizer.decode(drawn)))
        self.settings["seed"] = seed + 1

    def retry(self) -> None:
        self.write(self.pieces[-1].typed, self.pieces[-1].before)

    def undo(self) -> None:
        self.pieces.pop()
        errors.print(self.pieces[-1].text if self.pieces else "(no text)", style="dim")

    def top(self) -> None:
        ids = mx.array([self.so_far()[-self.model.config.block_size :]])  # (1, T)
        logits = make_filter(*map(self.settings.get, SETTINGS[:3]))(self.model(ids)[:, -1])
        chances = np.array(mx.softmax(logits.astype(mx.float32), axis=-1))[0]  # (vocab_size,)
        likeliest = [token for token in np.argsort(-chances, kind="stable")[:SHOWN] if chances[token] > 0]
        names = [quote_token(self.tokenizer.decode([int(token)])) for token in likeliest]
        width = min(max(map(cell_len, names)), WIDEST)
        for name, chance in zip(names, chances[likeliest]):
            bar = "█" * round(float(chance) * max(errors.width - width - BESIDE, WIDEST)) or "▏"
            errors.print(f"{set_cell_size(name, width)} {chance:6.1%} {bar}")

    def help(self) -> None:
        table = Table.grid(padding=(0, 2))
        for name, text in COMMANDS.items():
            table.add_row(f"/{name}", text)
        for option in self.ctx.command.params:
            if option.name in SETTINGS:
                table.add_row(self.show(option.name), option.help)
        errors.print("A line is a beginning. An empty one goes on, or begins the next document.")
        errors.print(table)
        errors.print(f"Without a value they show theirs; {DEFAULT} sets it back.")

    def quit(self) -> None:
        raise typer.Exit


def play(
    ctx: typer.Context,
    run: RunArgument = None,
    tokens: writing.TokensOption = 200,
    temperature: writing.TemperatureOption = 1.0,
    top_k: writing.TopKOption = None,
    top_p: writing.TopPOption = None,
    seed: writing.SeedOption = None,
    unknown: UnknownOption = "refuse",
    last: LastOption = False,
    init_from: InitFromOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Type the beginning of a text, and watch a trained run continue it.

    Each line is a beginning of its own. An empty line goes on with the text, or begins the next document after the end of one. /help
    lists what else can be typed, such as /temperature 0.5. Ctrl-C stops a text. Lines may also be piped in; the exit status is then 1 if
    one of them had no answer.
    """
    use_device(device)
    sys.stdin.reconfigure(errors="surrogateescape")  # what is no text is unknown to the model, and the message names it
    game, typing, editor, pressed, failed = Game(ctx), sys.stdin.isatty(), None, False, False
    if typing:
        with suppress(ImportError):
            import readline as editor  # input() then edits lines, and remembers them
        signal.signal(signal.SIGINT, signal.default_int_handler)  # that of `main` ends the process at the second Ctrl-C
        errors.print("Type a beginning. /help lists the commands, Ctrl-C stops a text, Ctrl-D ends.", style="dim")
    while True:
        try:
            line = input("> " if typing and sys.stdout.isatty() else "")
            pressed = False
            game.answer(line)
        except EOFError:
            break
        except KeyboardInterrupt:
            if not typing:
                raise
            if pressed and not (editor and editor.get_line_buffer()):
                break
            pressed = True
            errors.print("\nCtrl-C once more ends, as Ctrl-D does.", style="dim")
        except (UserError, typer.BadParameter) as error:
            reason = str(error) if isinstance(error, UserError) else error.format_message()
            print_error(with_options(reason).replace("--", "/"))
            failed = not typing
    if typing:
        errors.print()  # below the prompt
    if failed:
        raise typer.Exit(1)
