"""Make the texts of kinds.py from a seed: nothing is downloaded or copied.

A maker returns the documents of a text, each once. A check tells whether a document keeps the rules of its kind.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

from kinds_lines import (
    brackets,
    dates,
    games,
    genes,
    inflections,
    is_brackets,
    is_date,
    is_game,
    is_gene,
    is_inflection,
    is_molecule,
    is_morse,
    is_name,
    is_order,
    is_sorting,
    is_sum,
    is_tune,
    make_word,
    molecules,
    morse,
    names,
    orders,
    shuffled_names,
    sorting,
    sums,
    tunes,
)
from mlx_nanogpt.text import pastiche

Check = Callable[[str], bool]


@dataclass(frozen=True)
class Kind:
    """A maker; the file to write, or a folder's with a place for a number; the choice of documents; the sign before the answer at the
    end of a document; and a check."""

    make: Callable[[Random], Iterator[str]]
    file: str
    documents: str | None
    before_answer: str = ""
    check: Check | None = None

    def texts(self) -> list[str]:
        """The documents, each once, in the order of their text or their making."""
        return list(dict.fromkeys(self.make(Random(1))))

    def write(self, folder: Path) -> Path:
        """Write the text into `folder`; return what `load_corpus` takes."""
        texts = self.texts()
        if "{" in self.file:
            for number, text in enumerate(texts):
                path = folder / self.file.format(number)
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")
            return folder / Path(self.file).parent
        lines = [json.dumps({"text": text}) for text in texts] if self.file.endswith(".jsonl") else texts
        (folder / self.file).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return folder / self.file


# ---- prose, code and what machines write

NOUNS = "bair dolm frin gund hesk lorn mavet neb sark tiv ulm vask zor".split()
VERBS = "ahi beno dala furi goma kesi lano miru".split()
ADJECTIVES = "lum fesh tor gald irin".split()


def sentences(rng: Random) -> Iterator[str]:
    """A made-up language: subject (-a, plural -ai), object (-o, plural -oi), verb (-s, plural -sen). An adjective follows its noun and
    takes its ending; "ke" before the verb asks."""
    for _ in range(6000):
        many = rng.random() < 0.4
        subject, object = _noun(rng, "ai" if many else "a"), _noun(rng, rng.choice(("o", "o", "oi")))
        ask = rng.random() < 0.25
        words = [*subject, *object, *["ke"] * ask, rng.choice(VERBS) + ("sen" if many else "s")]
        yield " ".join(words).capitalize() + ("?" if ask else ".")


def _noun(rng: Random, ending: str) -> list[str]:
    return [rng.choice(NOUNS) + ending, *([rng.choice(ADJECTIVES) + ending] if rng.random() < 0.5 else [])]


SENTENCE = re.compile(
    "({n})(?P<s>ai?)(?: ({a})(?P=s))? ({n})(?P<o>oi?)(?: ({a})(?P=o))?(?P<ask> ke)? ({v})(?P<many>s|sen)(?P<end>[.?])".format(
        n="|".join(NOUNS), a="|".join(ADJECTIVES), v="|".join(VERBS)
    )
)


def is_sentence(text: str) -> bool:
    found = SENTENCE.fullmatch(text.lower())
    agrees = found is not None and (found["s"] == "ai") == (found["many"] == "sen")
    return found is not None and agrees and bool(found["ask"]) == (found["end"] == "?") and text == text.capitalize()


def chats(rng: Random) -> Iterator[str]:
    for _ in range(3000):
        name, fruit, count = (
            make_word(rng).capitalize(),
            rng.choice("apples pears plums figs".split()),
            rng.randrange(2, 10),
        )
        opening = rng.choice(("Hello", "Good morning", "Hi there"))
        yield (
            f"User: {opening}, I am {name}.\nBot: {opening}, {name}. What do you need?\n"
            f"User: {count} {fruit}, please.\nBot: Here are your {count} {fruit}. Goodbye, {name}!"
        )


CHAT = re.compile(
    r"User: (?P<hi>.+), I am (?P<name>[A-Z][a-z]+)\.\nBot: (?P=hi), (?P=name)\. What do you need\?\n"
    r"User: (?P<what>\d [a-z]+), please\.\nBot: Here are your (?P=what)\. Goodbye, (?P=name)!"
)


def is_chat(text: str) -> bool:
    return CHAT.fullmatch(text) is not None


def verse(rng: Random) -> Iterator[str]:
    yield pastiche.write().text[:300_000]


def logs(rng: Random) -> Iterator[str]:
    now = datetime(2026, 3, 1)
    for _ in range(4500):
        now += timedelta(seconds=rng.choice((0, 1, 1, 2, 5, 13)))
        path, status = rng.choice(("/", "/cart", "/login", "/item/{}")), rng.choice((200, 200, 200, 304, 404, 500))
        level = {404: "WARN", 500: "ERROR"}.get(status, "INFO")
        path = path.format(rng.randrange(100, 1000))
        yield f"{now.isoformat()} {level} web{rng.randrange(1, 4)} GET {path} {status} {rng.randrange(3, 90)}ms"


OPERATIONS = {"add": ("plus", "+"), "subtract": ("minus", "-"), "multiply": ("times", "*")}


def functions(rng: Random) -> Iterator[str]:
    """Python functions whose name, docstring and body agree."""
    for _ in range(1500):
        verb, number, name = (
            rng.choice(list(OPERATIONS)),
            rng.randrange(1, 100),
            rng.choice(("x", "n", "value", "count")),
        )
        word, sign = OPERATIONS[verb]
        many = rng.random() < 0.5
        sentence = f"each of {name}s {word} {number}" if many else f"{name} {word} {number}"
        body = f"[{name} {sign} {number} for {name} in {name}s]" if many else f"{name} {sign} {number}"
        head = f"def {verb}_{number}{'_to_all' if many else ''}({name}{'s' * many}):"
        yield f'{head}\n    """Return {sentence}."""\n    return {body}\n'


def is_function(text: str) -> bool:
    """Whether it parses, and does to 7 what its name and its docstring say."""
    try:
        found = ast.parse(text).body[0]
        verb, number = re.fullmatch(r"(add|subtract|multiply)_(\d+)(?:_to_all)?", found.name).groups()
        word, sign = OPERATIONS[verb]
        body = ast.unparse(found.body[1].value)
        return f" {word} {number}." in ast.get_docstring(found) and f" {sign} {number}" in body and len(found.body) == 2
    except (SyntaxError, ValueError, AttributeError, IndexError, TypeError):
        return False


FOODS = "carrots leeks beans onions potatoes mushrooms tomatoes lentils peppers turnips".split()


def recipes(rng: Random) -> Iterator[str]:
    """Notes in Markdown: what is bought is cooked, in the same order."""
    for _ in range(900):
        first, second = rng.sample(FOODS, 2)
        dish, time = rng.choice(("soup", "stew", "pie", "salad")), rng.randrange(5, 60, 5)
        yield (
            f"# {first.capitalize()} {dish}\n\nFor {rng.randrange(2, 7)} people.\n\n"
            f"- {rng.randrange(1, 9)}00 g {first}\n- {rng.randrange(1, 9)}00 g {second}\n\n"
            f"1. Chop the {first}.\n2. Fry the {second} for {time} minutes.\n3. Serve the {dish}.\n"
        )


RECIPE = re.compile(
    r"# (?P<title>[A-Z][a-z]+) (?P<dish>[a-z]+)\n\nFor \d people\.\n\n- \d00 g (?P<first>[a-z]+)\n- \d00 g (?P<second>[a-z]+)\n\n"
    r"1\. Chop the (?P=first)\.\n2\. Fry the (?P=second) for \d+ minutes\.\n3\. Serve the (?P=dish)\.\n"
)


def is_recipe(text: str) -> bool:
    found = RECIPE.fullmatch(text)
    return found is not None and found["title"].lower() == found["first"]


KINDS = {
    "names": Kind(names, "names.txt", "lines", check=is_name),
    "the same, as one text": Kind(names, "names.txt", "none"),
    "the same, shuffled, as one text": Kind(shuffled_names, "names.txt", "none"),
    "sums": Kind(sums, "sums.txt", "lines", "=", is_sum),
    "sorting": Kind(sorting, "sorting.txt", "lines", " -> ", is_sorting),
    "dates": Kind(dates, "dates.txt", "lines", " = ", is_date),
    "Morse": Kind(morse, "morse.txt", "lines", " = ", is_morse),
    "brackets": Kind(brackets, "brackets.txt", "lines", " : ", is_brackets),
    "plurals (TSV)": Kind(inflections, "plurals.tsv", "lines", "\t", is_inflection),
    "orders (CSV)": Kind(orders, "orders.csv", "lines", ",", is_order),
    "noughts and crosses": Kind(games, "games.txt", "lines", " ", is_game),
    "genes (DNA)": Kind(genes, "genes.txt", "lines", check=is_gene),
    "molecules (SMILES)": Kind(molecules, "molecules.smi", "lines", check=is_molecule),
    "a made-up language": Kind(sentences, "sentences.txt", "lines", check=is_sentence),
    "chats (JSON Lines)": Kind(chats, "chats.jsonl", None, check=is_chat),
    "tunes (ABC)": Kind(tunes, "tunes/{}.abc", None, check=is_tune),
    "functions (Python)": Kind(functions, "functions/{}.py", None, check=is_function),
    "recipes (Markdown)": Kind(recipes, "recipes/{}.md", None, check=is_recipe),
    "verse": Kind(verse, "verse.txt", "none"),
    "server logs": Kind(logs, "server.log", "none"),
}
