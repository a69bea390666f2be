"""Two skills and a task that needs both, made from a seed.

    python benchmarks/skills_data.py        # prints a few of each

``words``: read a story with small numbers, and say in words what is to be calculated. ``code``: write
Python for an instruction that names its operations. ``both``: write Python for a story, with numbers
that no story of the first skill has. The calculation of a story is often not the one that its words
suggest.
"""

from __future__ import annotations

import random
from collections.abc import Callable

Exchange = tuple[str, str]

NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Henry", "Ivy", "Jack")
THINGS = ("apples", "books", "coins", "cards", "shells", "stamps", "pens", "eggs", "stones", "cups")
#: stories, by the calculation in words and in code
STORIES: tuple[tuple[str, str, str], ...] = (
    ("{n} has {a} {t} and finds {b} more. How many {t} does {n} have?", "{a} plus {b}", "{a} + {b}"),
    ("{n} had {a} {t} and lost {b}. How many {t} are left?", "{a} minus {b}", "{a} - {b}"),
    ("{n} gave away {b} {t} and has {a} left. How many {t} were there?", "{b} plus {a}", "{b} + {a}"),
    ("{n} has {a} {t}, {b} more than {m}. How many {t} does {m} have?", "{a} minus {b}", "{a} - {b}"),
    ("{n} has {b} {t}, {a} fewer than {m}. How many {t} does {m} have?", "{b} plus {a}", "{b} + {a}"),
    ("There are {a} bags with {b} {t} each. How many {t} are there?", "{a} times {b}", "{a} * {b}"),
    (
        "{n} shares {q} {t} among {b} friends. How many {t} does each get?",
        "{q} divided by {b}",
        "{q} / {b}",
    ),
    (
        "{n} puts {q} {t} into bags of {b}. How many bags does {n} need?",
        "{q} divided by {b}",
        "{q} / {b}",
    ),
    (
        "{n} has {a} {t} and buys {b} boxes of {c}. How many {t} does {n} have?",
        "{a} plus {b} times {c}",
        "{a} + {b} * {c}",
    ),
    (
        "{n} fills {b} boxes with {c} {t} each and sells {d} {t}. How many {t} are left?",
        "{b} times {c} minus {d}",
        "{b} * {c} - {d}",
    ),
)
#: instructions and code; the code is of the same kinds
INSTRUCTIONS: tuple[tuple[str, str], ...] = (
    ("Add {a} and {b}.", "{a} + {b}"),
    ("Subtract {b} from {a}.", "{a} - {b}"),
    ("Multiply {a} by {b}.", "{a} * {b}"),
    ("Divide {q} by {b}.", "{q} / {b}"),
    ("Multiply {b} by {c} and add it to {a}.", "{a} + {b} * {c}"),
    ("Multiply {b} by {c} and subtract {d}.", "{b} * {c} - {d}"),
)
#: smallest and largest number
SMALL, LARGE, ALL = (2, 20), (21, 400), (2, 400)


def words(count: int, seed: int) -> list[Exchange]:
    """Return stories with small numbers, and the calculation in words."""
    return _stories(count, f"words {seed}", SMALL, lambda told, _: told, "words")


def both(count: int, seed: int) -> list[Exchange]:
    """Return stories with larger numbers, and the calculation in Python."""
    return _stories(count, f"both {seed}", LARGE, lambda _, code: f"print({code})", "Python")


def code(count: int, seed: int) -> list[Exchange]:
    """Return instructions, and the calculation in Python."""
    rng = random.Random(f"code {seed}")

    def one(place: int) -> Exchange:
        text, calculation = INSTRUCTIONS[place % len(INSTRUCTIONS)]
        drawn = _numbers(rng, ALL)
        return f"Task: {text.format(**drawn)}\nPython:", f" print({calculation.format(**drawn)})"

    return _shuffled(rng, count, one)


def _stories(
    count: int, key: str, span: tuple[int, int], answer: Callable[[str, str], str], form: str
) -> list[Exchange]:
    rng = random.Random(key)

    def one(place: int) -> Exchange:
        text, told, calculation = STORIES[place % len(STORIES)]
        n, m = rng.sample(NAMES, 2)
        drawn = {**_numbers(rng, span), "n": n, "m": m, "t": rng.choice(THINGS)}
        said = answer(told.format(**drawn), calculation.format(**drawn))
        return f"Question: {text.format(**drawn)}\n{form.capitalize()}:", f" {said}"

    return _shuffled(rng, count, one)


def _shuffled(rng: random.Random, count: int, one: Callable[[int], Exchange]) -> list[Exchange]:
    """Return different exchanges, all kinds equally often."""
    found: dict[str, str] = {}
    while len(found) < count:
        prompt, answer = one(len(found))
        found.setdefault(prompt, answer)
    made = list(found.items())
    rng.shuffle(made)
    return made


def _numbers(rng: random.Random, span: tuple[int, int]) -> dict[str, int]:
    """Draw a > b, c, d < b c, and q that b divides."""
    low, high = span
    b, c = rng.randint(low, high - 1), rng.randint(low, high)
    return {
        "a": rng.randint(b + 1, high),
        "b": b,
        "c": c,
        "d": rng.randint(low, min(high, b * c - 1)),
        "q": b * rng.randint(2, 12),
    }


def main() -> None:
    """Print a few of each."""
    for make in (words, code, both):
        for prompt, answer in make(len(STORIES), 0):
            print(f"{prompt}{answer}\n")


if __name__ == "__main__":
    main()
