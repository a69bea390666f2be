"""Regret of auto: what it counts, and a page of what is measured."""

import json

import pytest

from benchmark_scripts import load_benchmark


@pytest.fixture(scope="module")
def regret():
    return load_benchmark("auto_regret")


def member(name, kind, test):
    return {"name": name, "kind": kind, "test": test, "low": test - 0.1, "high": test + 0.1, "n": 90}


def took(winner, test):
    return {**member(winner, "", test), "winner": winner, "seconds": 280.4, "tried": 5}


MEMBERS = [
    member("base", "base", 0.5),
    member("spam", "expert", 0.6),
    member("trec6", "expert", 0.9),
    member("average", "merge", 0.7),
    member("fine-tune", "fine-tune", 0.8),
]
FOUND = {
    "machine": "a machine",
    "pool": 2,
    "limits": {"train": 1000, "validation": 200, "test": 90},
    "hindsight": {
        "news, 64 labels, seed 0": MEMBERS,
        "news, all labels, seed 0": MEMBERS,
        "mails, 64 labels, seed 0": MEMBERS,
    },
    "auto": {
        "news, 64 labels, seed 0, 5 minutes": took("average", 0.72),
        "news, 64 labels, seed 0, 20 minutes": took("trec6", 0.9),
        "mails, 64 labels, seed 0, 5 minutes": took("base", 0.5),
        "mails, 64 labels, seed 0, 20 minutes": took("fine-tune", 0.8),
        "news, all labels, seed 0, 5 minutes": took("base", 0.5),
    },
}


def test_regret_is_the_distance_to_the_best_on_test(regret):
    rows = regret.summary(FOUND)
    by = {(row["place"], row["rule"]): row["regret"] for row in rows}
    assert by["news, 64 labels, seed 0", "auto, 5 minutes"] == pytest.approx(0.18)
    assert by["news, 64 labels, seed 0", "auto, 20 minutes"] == pytest.approx(0.0)
    assert by["mails, 64 labels, seed 0", "base"] == pytest.approx(0.4)
    assert by["mails, 64 labels, seed 0", "expert ranked first"] == pytest.approx(0.3)
    assert regret.spread(rows)["auto, 5 minutes"] == pytest.approx((29.0, 40.0, 2))


def test_a_place_without_all_its_budgets_is_not_counted(regret):
    assert regret.measured(FOUND) == ["news, 64 labels, seed 0", "mails, 64 labels, seed 0"]
    assert all("all labels" not in row["place"] for row in regret.summary(FOUND))


def test_the_page_tells_every_pick(regret):
    page = regret.page(FOUND)
    assert "| auto, 5 minutes | 29.0 | 40.0 | 2 |" in page
    assert (
        "| `news` | 64 | 5 minutes | average | 72.0 (62.0 to 82.0, n = 90) | 5 of 5 | 280 "
        "| trec6 | 90.0 (80.0 to 100.0, n = 90) | 18.0 |" in page
    )
    assert page.count("\n| `") == 4
    assert "**Auto, 20 minutes, did worse here than" not in page
    assert "**No fixed rule did as well as auto, 20 minutes.**" in page
    assert "All labels: not measured yet." in page
    whole = {**FOUND["auto"], "news, all labels, seed 0, 20 minutes": took("base", 0.5)}
    assert "not measured" not in regret.page({**FOUND, "auto": whole})


def test_the_page_is_that_of_the_results(regret):
    found = json.loads(regret.RESULTS.read_text(encoding="utf-8"))
    page = regret.PAGE.read_text(encoding="utf-8")
    assert page == regret.page(found), "run: python benchmarks/auto_regret.py --page"
    assert regret.PICTURE.is_file()


def test_a_page_says_so_where_a_fixed_rule_did_better(regret):
    worse = {key: took("base", 0.5) for key in FOUND["auto"]}
    page = regret.page({**FOUND, "auto": worse})
    assert "Auto, 20 minutes, did worse here than always average, fine-tune, the expert ranked" in page
