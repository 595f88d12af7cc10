"""The table of settings in `cli/README.md`: `python tests/cli/settings_table.py` writes it."""

import re
from collections.abc import Iterator
from pathlib import Path

from mlx_nanogpt.config import SETTINGS
from mlx_nanogpt_cli.options.settings import PANELS, option_name, setting_help

README = Path(__file__).parents[2] / "cli/README.md"
BEGIN, END = "<!-- settings -->", "<!-- /settings -->"
HEAD = "| Option | Values | Default | Unit | Help |\n|---|---|---|---|---|"


def with_table(readme: str) -> str:
    """Return `readme` with the current table between its two markers. Raises `ValueError` unless each is there once."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{settings_table()}\n\n{END}{after}"


def settings_table() -> str:
    """All settings in Markdown, a table for each group."""
    return "\n\n".join(f"### {group}\n\n{HEAD}\n{rows}" for group in PANELS if (rows := "\n".join(_rows(group))))


def _rows(group: str) -> Iterator[str]:
    for name, field in SETTINGS.items():
        about = field.metadata["setting"]
        if about.group == group:
            text = re.sub(r"(--[\w-]+)", r"`\1`", setting_help(field))
            default = str(field.default).lower() if field.type is bool else field.default
            yield f"| `{option_name(name)}` | {about.values(field.type)} | {default} | {about.unit} | {text} |"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
