"""Settings to start from: a preset by its name, or a flat TOML file whose keys are the names of the settings."""

import difflib
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .config import SETTINGS, TEXT, GPTConfig, TrainConfig, check_choice, configurations
from .errors import CONTROLS, UserError, printable
from .files import explaining_read
from .presets import PRESETS
from .text.byte_pairs import check_vocab_size
from .text.documents import Documents
from .text.tokenizer import TokenizerName

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# the keys of a file in order, under the comment above them
GROUPS = {TEXT: ["data", "valid_data", "documents", "tokenizer", "vocab_size", "init_from", "teacher"]}
for name, field in SETTINGS.items():
    GROUPS.setdefault(field.metadata["setting"].group, []).append(name)
KEYS = [key for group in GROUPS.values() for key in group]
NAMED = {"data": "text", "valid_data": "text", "teacher": "run"}  # what a key names, one or several
NANOGPTS_NAMES = {"max_iters": "num_iter", "n_head": "head_size", "dataset": "data", "compile": "backend"}
ESCAPES = CONTROLS | {ord('"'): '\\"', ord("\\"): "\\\\"}  # TOML has the same form for a control character
LARGEST_FILE = 2**20  # bytes; all settings take a hundredth of it


def preset_settings(name: str) -> dict[str, object]:
    """The settings of the preset `name`. Raises `UserError` if there is none."""
    if name not in PRESETS:
        question = _nearest(name, PRESETS) or "choose another."
        raise UserError(f"preset {name!r} is not known", f"{question} The presets are {', '.join(PRESETS)}")
    return dict(PRESETS[name].settings)


def preset(name: str, **changes: Any) -> tuple[GPTConfig, TrainConfig]:
    """Both configurations of the preset `name`, with `changes` to their fields. `tokenize` chooses the tokens, and `create_run`
    sets the size of their vocabulary.

    Raises `UserError` if there is no such preset or setting, or for a value that cannot work.
    """
    for key, value in changes.items():
        _check_key(key, value, f"preset {name}", SETTINGS)
    settings = preset_settings(name)
    if "num_iter" in changes:
        settings = with_length(settings, changes["num_iter"])
    return configurations(settings | changes)


def with_length(settings: Mapping[str, Any], num_iter: int) -> dict[str, Any]:
    """`settings` with another `num_iter`. A rate that falls until the last iteration does so then, too."""
    longer = dict(settings) | {"num_iter": num_iter}
    if settings.get("lr_decay_iters") == settings.get("num_iter", TrainConfig.num_iter):
        longer |= {"lr_decay_iters": num_iter, "warmup_iters": min(settings.get("warmup_iters", 0), num_iter // 2)}
    return longer


def lengthen(config: TrainConfig, num_iter: int) -> TrainConfig:
    """`config` with another `num_iter`, as `with_length` changes settings."""
    return TrainConfig(**with_length(asdict(config), num_iter))


def read_config_file(path: Path, instead: Mapping[str, object] = {}) -> dict[str, object]:
    """The settings in the TOML file `path`, some of `KEYS`; `data` is a list of texts, also where the file names one.

    Raises `UserError` with the file's name if it cannot be read, is not TOML, has another key, or is not a valid configuration
    together with the settings `instead` and the defaults.
    """
    text = _read(path)
    try:
        settings = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: TOMLDecodeError, and a number of thousands of digits
        lines = text.split("\n")
        reason = str(error).replace("end of document", f"line {len(lines)}, column {len(lines[-1]) + 1}")
        raise UserError(f"{path} is not TOML: {reason}", "correct it there") from error
    for key, value in settings.items():
        _check_key(key, value, f"{path}{_line_of(key, text)}")
    try:
        configurations(settings | dict(instead))
        check_choice("tokenizer", settings.get("tokenizer", "char"), TokenizerName)
        if "vocab_size" in settings:
            if settings.get("tokenizer") != "bpe":
                raise UserError("vocab_size needs tokenizer bpe", "leave it out, or set the tokenizer")
            check_vocab_size(settings["vocab_size"])
        if not isinstance(settings.get("init_from", ""), str):
            raise UserError(f"init_from {settings['init_from']!r} is not a name", "give a name in quotes")
        if "documents" in settings:
            check_choice("documents", settings["documents"], Documents)
        for name in NAMED.keys() & settings.keys():
            settings[name] = _names(name, settings[name])
    except UserError as error:
        raise UserError(f"{path}: {error.problem}", error.remedy) from error
    return settings


def write_config_file(settings: Mapping[str, object], about: Iterable[str] = ()) -> str:
    """Return the text of a TOML file with those of `settings` that are in `KEYS`, below the comments `about`.

    Raises `UserError` if the name of a text is not Unicode, because TOML is.
    """
    blocks = [[f"# {printable(line)}" for line in about]]
    for title, keys in GROUPS.items():
        blocks.append([f"# {title}", *(f"{key} = {_toml(settings[key])}" for key in keys if key in settings)])
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _read(path: Path) -> str:
    remedy = "name a TOML file of settings"
    with explaining_read(path, remedy), path.open("rb") as file:
        raw = file.read(LARGEST_FILE + 1)
    if len(raw) > LARGEST_FILE:
        raise UserError(f"{path} has more than {LARGEST_FILE:,} bytes, too many for settings", remedy)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        problem = f"{path}, line {line}: byte {raw[error.start]:#04x} is not UTF-8"
        raise UserError(problem, "save it as UTF-8") from error


def _check_key(key: str, value: object, where: str, keys: Collection[str] = KEYS) -> None:
    shown = printable(key)
    if isinstance(value, dict):
        raise UserError(f"{where}: settings are not grouped", f"take them out of the table {shown!r}")
    if key not in keys:
        remedy = _nearest(NANOGPTS_NAMES.get(key, key), keys) or f"the settings are {', '.join(keys)}"
        raise UserError(f"{where}: {shown} is not a setting", remedy)
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise UserError(f"{where}: {key} has more than the 64 bits of TOML's whole numbers", "give a smaller one")


def _line_of(key: str, text: str) -> str:
    """The line of `key`, if only one line looks like it."""
    begins = re.compile(rf"""[\[\s]*["']?{re.escape(key)}["']?\s*[=.\]]""")
    lines = [number for number, line in enumerate(text.split("\n"), 1) if begins.match(line)]
    return f", line {lines[0]}" if len(lines) == 1 else ""


def _names(key: str, value: object) -> list[str]:
    names: list[Any] = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) and name and "\0" not in name for name in names):
        problem = f"{key} {value!r} does not name a {NAMED[key]}"
        raise UserError(problem, "give a name in quotes, or several in [brackets]")
    return names


def _nearest(name: str, names: Iterable[str]) -> str:
    """A question for the one of `names` that is most like `name`; empty if none is."""
    nearest = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {nearest[0]}?" if nearest else ""


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"the name {value!r} is not Unicode, so TOML cannot hold it", "rename the file") from error
        return f'"{value.translate(ESCAPES)}"'
    if isinstance(value, (list, tuple)):
        return _toml(value[0]) if len(value) == 1 else f"[{', '.join(map(_toml, value))}]"
    return repr(value)
