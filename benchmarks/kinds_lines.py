"""Words, tables, questions with answers, and notations, for kinds_texts.py: makers and checks."""

import re
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import product
from random import Random

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
