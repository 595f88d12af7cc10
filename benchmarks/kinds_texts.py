"""Make the texts of kinds.py from a seed: nothing is downloaded or copied.

A maker returns the documents of a text, each once. A check tells whether a document keeps the rules of its kind.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import product
from pathlib import Path
from random import Random

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


# ---- words and tables

ONSETS, VOWELS, CODAS = (
    "b br d dr f g h k l m n r s sh t th v z".split(),
    "a e i o u ai ei".split(),
    "l n r s th".split(),
)
NAME = re.compile(f"(?:(?:{'|'.join(ONSETS)})(?:{'|'.join(VOWELS)})){{2,3}}(?:{'|'.join(CODAS)})?")


def make_word(rng: Random) -> str:
    """Two or three syllables, those at the beginning of the lists more often."""
    word = "".join(_part(rng, ONSETS) + _part(rng, VOWELS) for _ in range(rng.choice((2, 2, 3))))
    return word + rng.choice((_part(rng, CODAS), ""))


def _part(rng: Random, parts: list[str]) -> str:
    return parts[int(len(parts) * rng.random() ** 2)]


def names(rng: Random) -> Iterator[str]:
    yield from sorted({make_word(rng).capitalize() for _ in range(6000)})


def shuffled_names(rng: Random) -> Iterator[str]:
    found = list(names(rng))
    rng.shuffle(found)
    yield from found


def is_name(text: str) -> bool:
    return text == text.capitalize() and NAME.fullmatch(text.lower()) is not None


def inflections(rng: Random) -> Iterator[str]:
    """A word, and its plural: -n after a vowel; -an after a consonant whose vowel before is a, o or u, else -en."""
    for _ in range(6000):
        word = make_word(rng)
        yield f"{word}\t{plural(word)}"


def plural(word: str) -> str:
    if word[-1] in "aeiou":
        return word + "n"
    return word + ("an" if re.findall("[aeiou]", word)[-1] in "aou" else "en")


def is_inflection(text: str) -> bool:
    word, _, form = text.partition("\t")
    return NAME.fullmatch(word) is not None and form == plural(word)


def orders(rng: Random) -> Iterator[str]:
    """Rows of a table under its header: the total is the quantity times the price, and an item has one price."""
    yield "day,item,quantity,price,total"
    prices = {make_word(rng): rng.randrange(2, 40) for _ in range(30)}
    for number in range(5000):
        item, quantity = rng.choice(list(prices)), rng.randrange(1, 10)
        yield f"{date(2026, 1, 1) + timedelta(number // 15)},{item},{quantity},{prices[item]},{quantity * prices[item]}"


def is_order(text: str) -> bool:
    found = re.fullmatch(r"\d{4}-\d\d-\d\d,[a-z]+,(\d),(\d+),(\d+)", text)
    return found is not None and int(found[1]) * int(found[2]) == int(found[3])


# ---- questions and answers


def sums(rng: Random) -> Iterator[str]:
    yield from (f"{a}+{b}={a + b}" for a in range(100) for b in range(100))


def is_sum(text: str) -> bool:
    found = re.fullmatch(r"(\d+)\+(\d+)=(\d+)", text)
    return found is not None and int(found[1]) + int(found[2]) == int(found[3])


def sorting(rng: Random) -> Iterator[str]:
    for _ in range(6000):
        digits = [str(rng.randrange(10)) for _ in range(rng.randrange(3, 7))]
        yield f"{' '.join(digits)} -> {' '.join(sorted(digits))}"


def is_sorting(text: str) -> bool:
    digits, arrow, answer = text.partition(" -> ")
    return bool(arrow) and re.fullmatch(r"\d( \d)*", digits) is not None and answer == " ".join(sorted(digits.split()))


def dates(rng: Random) -> Iterator[str]:
    for _ in range(6000):
        day, more = date(2020, 1, 1) + timedelta(rng.randrange(3650)), rng.randrange(1, 41)
        yield f"{day} + {more} = {day + timedelta(more)}"


def is_date(text: str) -> bool:
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d) \+ (\d+) = (\d{4}-\d\d-\d\d)", text)
    try:
        return found is not None and str(date.fromisoformat(found[1]) + timedelta(int(found[2]))) == found[3]
    except ValueError:  # no such day
        return False


CODES = (
    ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --.."
).split()


def morse(rng: Random) -> Iterator[str]:
    for _ in range(6000):
        word = make_word(rng)
        yield f"{word} = {spell(word)}"


def spell(word: str) -> str:
    return " ".join(CODES[ord(letter) - ord("a")] for letter in word)


def is_morse(text: str) -> bool:
    word, equals, codes = text.partition(" = ")
    return bool(equals) and re.fullmatch("[a-z]+", word) is not None and codes == spell(word)


CLOSING = dict(zip("([{<", ")]}>"))


def brackets(rng: Random) -> Iterator[str]:
    """Brackets, some closed, and what closes the others."""
    for _ in range(6000):
        text = "".join(rng.choice("([{<") if rng.random() < 0.6 else "." for _ in range(rng.randrange(2, 13)))
        text = "".join(_close_some(text))
        if missing := closers(text):
            yield f"{text} : {missing}"


def _close_some(text: str) -> Iterator[str]:
    open_now: list[str] = []
    for sign in text:
        if sign in CLOSING:
            open_now.append(sign)
            yield sign
        elif open_now:
            yield CLOSING[open_now.pop()]


def closers(text: str) -> str | None:
    """What closes the brackets of `text`; None if one is closed wrongly."""
    open_now: list[str] = []
    for sign in text:
        if sign in CLOSING:
            open_now.append(sign)
        elif not open_now or CLOSING[open_now.pop()] != sign:
            return None
    return "".join(CLOSING[sign] for sign in reversed(open_now))


def is_brackets(text: str) -> bool:
    opened, colon, missing = text.partition(" : ")
    return bool(colon and missing) and closers(opened) == missing


# ---- notations

LINES = "a1b1c1 a2b2c2 a3b3c3 a1a2a3 b1b2b3 c1c2c3 a1b2c3 a3b2c1".split()
WINNING = [{line[i : i + 2] for i in (0, 2, 4)} for line in LINES]
SQUARES = [f"{file}{rank}" for file, rank in product("abc", "123")]


def games(rng: Random) -> Iterator[str]:
    """Noughts and crosses. A player wins if that takes one move, and plays at random otherwise."""
    for _ in range(5000):
        moves: list[str] = []
        while result(moves) == "*":
            free = [square for square in SQUARES if square not in moves]
            best = [square for square in free if result([*moves, square]) in ("1-0", "0-1")]
            moves.append(rng.choice(best or free))
        yield notation(moves)


def result(moves: list[str]) -> str:
    """Who won; * if nobody did yet."""
    for won, side in (("1-0", moves[::2]), ("0-1", moves[1::2])):
        if any(line <= set(side) for line in WINNING):
            return won
    return "1/2" if len(moves) == 9 else "*"


def notation(moves: list[str]) -> str:
    pairs = [" ".join(moves[i : i + 2]) for i in range(0, len(moves), 2)]
    return " ".join([*(f"{number}. {pair}" for number, pair in enumerate(pairs, 1)), result(moves)])


def is_game(text: str) -> bool:
    moves = re.findall("[abc][123]", text)
    early = any(result(moves[:count]) != "*" for count in range(len(moves)))
    return len(set(moves)) == len(moves) and not early and result(moves) != "*" and text == notation(moves)


STOPS = {"TAA", "TAG", "TGA"}
CODONS = ["".join(codon) for codon in product("ACGT", repeat=3) if "".join(codon) not in STOPS]


def genes(rng: Random) -> Iterator[str]:
    """DNA: a start, codons, some of them more often, and a stop."""
    weights = [1 / rank for rank in range(1, len(CODONS) + 1)]
    for _ in range(2500):
        codons = rng.choices(CODONS, weights, k=rng.randrange(15, 40))
        yield "".join(["ATG", *codons, rng.choice(sorted(STOPS))])


def is_gene(text: str) -> bool:
    codons = re.findall("...", text)
    inner_stop = any(codon in STOPS for codon in codons[:-1])
    return (
        set(text) <= set("ACGT")
        and len(text) % 3 == 0
        and codons[:1] == ["ATG"]
        and codons[-1] in STOPS
        and not inner_stop
    )


def molecules(rng: Random) -> Iterator[str]:
    for _ in range(5000):
        text = _chain(rng, 2)
        yield text + rng.choice(("", "c1ccccc1", "C1CCCCC1", "c1ccncc1"))


def _chain(rng: Random, depth: int) -> str:
    text = rng.choice("CCCNO")
    for _ in range(rng.randrange(1, 6)):
        text += rng.choice(("C", "C", "C", "N", "O", "=C", "[NH]"))
        if depth and rng.random() < 0.35:
            text += f"({rng.choice(('=O', 'F', 'Cl', 'Br', _chain(rng, depth - 1)))})"
    return text


def is_molecule(text: str) -> bool:
    signs = "".join(sign for sign in text if sign in "()[]")
    atoms = re.fullmatch(r"(?:=?(?:Cl|Br|\[NH\]|[CNOFcn])1?|[()])+", text) is not None
    return atoms and closers(signs) == "" and "()" not in text and text.count("1") in (0, 2)


PITCHES = "GABcdefg"


def tunes(rng: Random) -> Iterator[str]:
    """Tunes in ABC: bars of eight eighths in the form AABA."""
    for number in range(900):
        a, b = _phrase(rng), _phrase(rng)
        title = f"The {make_word(rng).capitalize()} {rng.choice(('Reel', 'Hornpipe', 'March'))}"
        yield (
            f"X:{number + 1}\nT:{title}\nM:4/4\nL:1/8\nK:G\n"
            + "\n".join((f"|:{a}:|", f"|{b}|", f"|{a.split('|')[0]}|G4G4|]"))
            + "\n"
        )


def _phrase(rng: Random) -> str:
    place, bars = rng.randrange(8), []
    for _ in range(2):
        bar, left = "", 8
        while left:
            place = min(max(place + rng.choice((-2, -1, -1, 0, 1, 1, 2)), 0), 7)
            length = 2 if left >= 2 and rng.random() < 0.3 else 1
            bar, left = bar + PITCHES[place] + ("2" if length == 2 else ""), left - length
        bars.append(bar)
    return "|".join(bars)


def is_tune(text: str) -> bool:
    head, _, body = text.partition("\nK:G\n")
    bars = [bar for bar in re.split(r"[|:\]\n]+", body) if bar]
    lengths = [sum(int(length or 1) for length in re.findall(r"[A-Ga-g](\d?)", bar)) for bar in bars]
    known = re.fullmatch(r"(?:[A-Ga-g]\d?|[|:\]\n])+", body) is not None
    return re.fullmatch(r"X:\d+\nT:[A-Za-z ]+\nM:4/4\nL:1/8", head) is not None and known and lengths == [8] * 6


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
