"""The benchmark of two skills: its data, its run on a tiny model, and the page made of its results."""

import json
import re
import sys
from pathlib import Path

import pytest

from tiny_language import tiny_llama

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import skills  # noqa: E402
import skills_data  # noqa: E402

WORDS = {"plus": "+", "minus": "-", "times": "*", "divided by": "/"}


def calculation(answer):
    """Return a calculation told in words as code has it."""
    for word, sign in WORDS.items():
        answer = answer.replace(word, sign)
    return answer.strip()


def program(answer):
    return re.fullmatch(r" print\((.*)\)", answer).group(1)


# --- data --------------------------------------------------------------------------------------


def test_stories_say_what_is_calculated():
    """Worked out here from the text alone, for every kind."""
    rules = [
        (r"has (\d+) \w+ and finds (\d+) more", lambda a, b: a + b),
        (r"had (\d+) \w+ and lost (\d+)", lambda a, b: a - b),
        (r"gave away (\d+) \w+ and has (\d+) left", lambda a, b: a + b),
        (r"has (\d+) \w+, (\d+) more than", lambda a, b: a - b),
        (r"has (\d+) \w+, (\d+) fewer than", lambda a, b: a + b),
        (r"are (\d+) bags with (\d+) \w+ each", lambda a, b: a * b),
        (r"shares (\d+) \w+ among (\d+) friends", lambda a, b: a / b),
        (r"puts (\d+) \w+ into bags of (\d+)", lambda a, b: a / b),
        (r"has (\d+) \w+ and buys (\d+) boxes of (\d+)", lambda a, b, c: a + b * c),
        (r"fills (\d+) boxes with (\d+) \w+ each and sells (\d+)", lambda a, b, c: a * b - c),
    ]
    seen = set()
    told = [(p, calculation(a)) for p, a in skills_data.words(60, 3)]
    told += [(p, program(a)) for p, a in skills_data.both(60, 3)]
    for prompt, found in told:
        (number,) = [i for i, (pattern, _) in enumerate(rules) if re.search(pattern, prompt)]
        given = map(int, re.search(rules[number][0], prompt).groups())
        wanted = rules[number][1](*given)
        assert eval(found) == wanted > 0
        assert wanted == int(wanted)
        seen.add(number)
    assert len(seen) == len(rules) == len(skills_data.STORIES)


def test_instructions_name_their_operations():
    for prompt, answer in skills_data.code(60, 0):
        a, *rest = map(int, re.findall(r"\d+", prompt))
        first, last = rest[0], rest[-1]
        wanted = {
            "Add": lambda a=a, b=first: a + b,
            "Subtract": lambda a=a, b=first: b - a,
            "Multiply": lambda a=a, b=first: a * b,
            "Divide": lambda a=a, b=first: a / b,
        }[re.match(r"Task: (\w+)", prompt).group(1)]()
        if "add it to" in prompt:
            wanted += last
        if "and subtract" in prompt:
            wanted -= last
        assert eval(program(answer)) == wanted


def test_no_skill_has_the_task_and_no_prompt_is_in_two_places():
    size = skills.Size(examples=300, tested=60, checked=30)
    data = skills.Data.of(size, 1)
    train = [prompt for part in (data.words, data.code, data.few) for prompt, _ in part]
    tests = [prompt for part in data.tests.values() for prompt, _ in part]
    assert len(train) == len(set(train))
    assert not set(train) & set(tests)
    assert len(data.few) == size.labels
    for prompt, answer in data.words:
        assert prompt.endswith("\nWords:")
        assert "print" not in answer
    for prompt, _ in data.code:
        assert prompt.startswith("Task: ")
    for prompt, answer in [*data.few, *data.tests["both"]]:
        assert prompt.startswith("Question: ")
        assert prompt.endswith("\nPython:")
        assert min(map(int, re.findall(r"\d+", answer))) >= skills_data.LARGE[0]
    smallest = [min(map(int, re.findall(r"\d+", answer))) for _, answer in data.words]
    assert max(smallest) <= skills_data.SMALL[1]
    assert skills.Data.of(size, 1) == data
    assert skills.Data.of(size, 2).words != data.words
    assert skills.Data.of(size, 2).tests == data.tests


# --- a run -------------------------------------------------------------------------------------


def test_a_tiny_run_goes_on_where_it_was_and_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TASKLOOM_CACHE", str(tmp_path / "cache"))
    model = tiny_llama(tmp_path / "model", positions=96)
    size = skills.Size(
        examples=8, steps=(1, 1), batch_size=2, labels=2, passes=1, tested=4, checked=2, rank=2
    )
    results = tmp_path / "skills.json"
    assert not skills.run(model, size, 1, -1.0, results)
    assert not results.exists()
    monkeypatch.setattr(skills, "ORDER", ("words", "cat few"))
    assert skills.run(model, size, 1, 5.0, results)
    monkeypatch.undo()
    monkeypatch.setenv("TASKLOOM_CACHE", str(tmp_path / "cache"))
    before = json.loads(results.read_text())["cells"]
    assert skills.run(model, size, 1, 5.0, results)
    known = json.loads(results.read_text())
    assert known["cells"][:2] == before
    assert {cell["way"] for cell in known["cells"]} == set(skills.WAYS) == set(skills.ORDER)
    assert all(len(cell["right"]["both"]) == 4 for cell in known["cells"])
    shown = skills.table(results)
    assert shown.count("\n") == 2 + len(skills.WAYS)
    picture = tmp_path / "skills.svg"
    skills.picture(results, picture)
    assert "TIES" in picture.read_text()
    page = "a\n<!-- table -->\nold\n<!-- /table -->\nb\n"
    assert skills.filled(page, shown) == f"a\n<!-- table -->\n{shown}<!-- /table -->\nb\n"
    capsys.readouterr()


def test_rows_add_up():
    """Shares, interval and paired lead restated on made marks."""
    known = {
        "size": {"labels": 2},
        "cells": [
            {"way": "cat few", "seed": 0, "right": {"both": "1110", "words": "10", "code": "11"}},
            {"way": "ties", "seed": 0, "right": {"both": "1000", "words": "00", "code": "11"}},
            {"way": "base", "seed": 0, "right": {"both": "0000", "words": "00", "code": "00"}},
            {"way": "cat few", "seed": 1, "right": {"both": "1010", "words": "10", "code": "01"}},
        ],
    }
    base, ties, cat = skills.rows(known)
    assert (cat["both"], cat["n"], cat["each"], cat["lead"]) == (0.625, 8, [0.75, 0.5], None)
    assert cat["low"] < 0.625 < cat["high"]
    assert (cat["words"], cat["code"]) == (0.5, 0.75)
    assert ties["lead"][0] == pytest.approx(0.5)  # the seed that both have
    assert ties["free lead"] is None  # of a way that was not run
    assert base["lead"][0] == pytest.approx(0.625)  # a base stands for all seeds
    assert cat["title"] == "CAT, fitted on 2 labels of the task"


# --- the page ----------------------------------------------------------------------------------


def test_the_page_shows_what_was_measured():
    page = (ROOT / "docs" / "skills.md").read_text(encoding="utf-8")
    assert skills.filled(page, skills.table()) == page, "run: python benchmarks/skills.py show"
    for row in skills.rows(json.loads(skills.RESULTS.read_text())):
        assert row["n"] >= 300
    for line in re.findall(r"Question: .*?\?|Task: .*?\.", page.split("```")[1]):
        kinds = [text for text, *_ in (*skills_data.STORIES, *skills_data.INSTRUCTIONS)]
        patterns = [re.sub(r"\\\{\w\\\}", r"\\w+", re.escape(text)) for text in kinds]
        assert any(re.fullmatch(pattern, line.split(": ", 1)[1]) for pattern in patterns), line
