"""The corpus `pastiche` is the same everywhere, its text shows every choice of the grammar, and its floor is exact."""

import hashlib
import math
import re
from collections import Counter

import pytest
from mlx_nanogpt.text import pastiche

TOKEN = re.compile(r"[A-Za-z0-9$&']+|[^A-Za-z0-9$&']")
TRAIN = pastiche.LENGTH * 8 // 10  # where the last fifth begins


@pytest.fixture(scope="module")
def play() -> pastiche.Pastiche:
    return pastiche.write()


# ---- the text


def test_the_text_is_the_same_everywhere_with_tiny_shakespeares_length_and_symbols(play):
    """The checksum also fixes its speeches, verses and scenes."""
    assert hashlib.sha256(play.text.encode("ascii")).hexdigest() == (
        "bea1cc5e412c975d0ba8d14a1e9dab6d1164d3967af1fe28b33901f1fffe6a15"
    )
    assert len(play.text) == pastiche.LENGTH == 1_115_394
    assert "".join(sorted(set(play.text))) == pastiche.SYMBOLS and len(pastiche.SYMBOLS) == 65


# ---- the grammar


def parts(template: str) -> list[str]:
    return re.findall(r"\{.*?\}|[^{]+", template)


def kept_names(grammar) -> dict[str, str]:
    """name -> rule, for every {name=rule}."""
    return dict(re.findall(r"\{(\w+)=(\w+)\}", "".join("".join(rule) for rule in grammar.values())))


def first_tokens(grammar):
    """A function from a part of a template to the tokens that it can begin with."""
    kept = kept_names(grammar)
    known: dict[str, set[str]] = {rule: set() for rule in grammar}

    def of(part: str) -> set[str]:
        if part[0] != "{":
            return {TOKEN.findall(part)[0]}
        rule = part[1:-1].rpartition("=")[2]
        return known[kept.get(rule, rule)]

    size = -1
    while size != (size := sum(map(len, known.values()))):
        for rule, alternatives in grammar.items():
            known[rule] |= {token for template in alternatives for token in of(parts(template)[0])}
    return of


def test_the_first_token_of_every_choice_settles_it():
    first = first_tokens(pastiche.GRAMMAR)
    for rule, alternatives in pastiche.GRAMMAR.items():
        openings = Counter(token for template in alternatives for token in first(parts(template)[0]))
        assert max(openings.values()) == 1, rule


def test_every_rule_is_used():
    used = set(re.findall(r"[{=](\w+)\}", "".join("".join(rule) for rule in pastiche.GRAMMAR.values())))
    assert used - set(kept_names(pastiche.GRAMMAR)) | {"play"} == set(pastiche.GRAMMAR)


def test_a_follows_the_sound_of_every_adjective():
    assert not [adjective for adjective in pastiche.GRAMMAR["adj"] if adjective[0] in "aeiou"]


@pytest.mark.parametrize("count", [1, 2, 150])
def test_probabilities_fall_with_rank_and_sum_to_one(count):
    chances = pastiche.probabilities(count)
    assert len(chances) == count and chances == sorted(set(chances), reverse=True)
    assert math.fsum(chances) == pytest.approx(1, abs=1e-12)


# ---- the floor


def read_back(grammar, text: str) -> list[tuple[int, float]]:
    """Parse the text by its tokens alone: (position, -ln p) of each choice before the last token, which may be cut."""
    first = first_tokens(grammar)
    settles = {
        rule: {token: i for i, template in enumerate(alternatives) for token in first(parts(template)[0])}
        for rule, alternatives in grammar.items()
    }
    costs = {rule: [-math.log(p) for p in pastiche.probabilities(len(grammar[rule]))] for rule in grammar}
    choices, kept, todo, position = [], {}, ["{play}"], 0
    while (token := TOKEN.match(text, position)) and token.end() < len(text):
        part = todo.pop()
        name, _, rule = part.strip("{}").rpartition("=")
        if part[0] == "{" and rule in grammar:
            choice = settles[rule][token.group()]
            choices.append((position, costs[rule][choice]))
            todo.extend(reversed(parts(grammar[rule][choice])))
            if name:
                kept[name] = grammar[rule][choice]
        else:
            words = kept[rule] if part[0] == "{" else part
            assert text.startswith(words[: len(text) - position], position)
            position += len(words)
    return choices


def test_the_text_alone_shows_every_choice_and_its_cost():
    play = pastiche.compose(pastiche.GRAMMAR, 200_000, seed=1)
    choices = read_back(pastiche.GRAMMAR, play.text)
    assert len(choices) > 20_000
    assert [position for position, _ in choices] == list(play.starts[: len(choices)])
    assert all(position > len(play.text) - 30 for position in play.starts[len(choices) :])
    for start, stop in [(0, 1000), (12_345, 23_456), (160_000, 200_000 - 30)]:
        nats = math.fsum(cost for position, cost in choices if start <= position < stop)
        assert play.floor(start, stop) == pytest.approx(nats / (stop - start), rel=1e-9)


def test_the_floor_of_a_tiny_grammar_is_that_worked_out_by_hand():
    grammar = {"play": ("{who=names} and {who}; {play}",), "names": ("ox", "cow")}
    play = pastiche.compose(grammar, length=1000, seed=3)
    whole = play.text.rindex("; ") + 2  # the last verse may be cut
    assert re.fullmatch(r"((ox and ox|cow and cow); )+", play.text[:whole])
    oxen, cows = play.text.count("ox and", 0, whole), play.text.count("cow and", 0, whole)
    assert oxen and cows
    # Ranks 1 and 2 weigh 1 / 3.7 and 1 / 4.7, so p = 4.7 / 8.4 and 3.7 / 8.4. The repeated name costs nothing.
    assert play.floor(0, whole) * whole == pytest.approx(oxen * math.log(8.4 / 4.7) + cows * math.log(8.4 / 3.7))


def test_a_choice_counts_where_its_first_character_stands():
    play = pastiche.compose({"play": ("the {noun}. {play}",), "noun": ("ox", "cow")}, length=40, seed=1)
    assert play.floor(0, 4) == 0
    assert play.floor(4, 5) in [pytest.approx(math.log(8.4 / 4.7)), pytest.approx(math.log(8.4 / 3.7))]
    assert play.floor(5, 8) == 0


def test_the_floors_of_two_neighbours_add_up(play):
    whole, left, right = play.floor(0, 5000), play.floor(0, 1234), play.floor(1234, 5000)
    assert whole * 5000 == pytest.approx(left * 1234 + right * (5000 - 1234))


@pytest.mark.parametrize("start, stop", [(5, 5), (6, 5), (-1, 5), (0, pastiche.LENGTH + 1)])
def test_a_slice_that_is_empty_or_outside_the_text_has_no_floor(play, start, stop):
    with pytest.raises(ValueError, match="not a slice of the play"):
        play.floor(start, stop)


def test_the_last_fifth_is_like_the_rest(play):
    assert play.floor(TRAIN, pastiche.LENGTH) == pytest.approx(play.floor(0, TRAIN), rel=0.02)
    assert 0.5 < play.floor(0, pastiche.LENGTH) < 0.9


def test_counting_characters_cannot_beat_the_floor(play, order=3):
    """An n-gram model of the first four fifths, smoothed by the shorter n-grams, scores the last fifth."""
    train, held_out = play.text[:TRAIN], play.text[TRAIN - order + 1 :]
    chance = dict.fromkeys(pastiche.SYMBOLS, 1 / 65)
    grams = Counter(held_out[i : i + order] for i in range(len(held_out) - order + 1))
    for n in range(1, order + 1):
        seen = Counter(train[i : i + n] for i in range(len(train) - n + 1))
        contexts: Counter[str] = Counter()
        for gram, count in seen.items():
            contexts[gram[:-1]] += count
        tails = {gram[-n:] for gram in grams}
        chance = {tail: (seen[tail] + chance[tail[1:] or tail]) / (contexts[tail[:-1]] + 1) for tail in tails}
    loss = -math.fsum(count * math.log(chance[gram]) for gram, count in grams.items()) / grams.total()
    assert play.floor(TRAIN, pastiche.LENGTH) < loss < math.log(65)
