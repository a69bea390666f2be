"""The verb auto hands its words to the library and tells what came of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import taskloom
from taskloom.evaluation.score import Score
from taskloom.runs.auto.ladder import ladder
from taskloom.runs.auto.page import margins_table, scores_table, tried_table
from taskloom.runs.auto.report import AutoReport, Point, Row


def report() -> AutoReport:
    points = (Point(0, 1 / 3, 0.5, 0.3, 0.7, 20, 1.0), Point(1, 1.0, 0.75, 0.6, 0.85, 60, 2.0))
    rows = (
        Row("base", "base", "Base", points[:1], replace(points[1], value=0.5), "place 2 of 2 on rung 1"),
        Row("spam", "expert", "Expert spam", points, points[1], ""),
        Row("ties", "composition", "ties of all", (), None, "no time to try it"),
    )
    score = Score("spam", "quotes", "test", "accuracy", 0.8, 0.7, 0.9, "wilson", 100, 0)
    return AutoReport(
        target="quotes",
        metric="accuracy",
        base="minilm",
        experts=("spam", "trec6"),
        minutes=5.0,
        seconds=61.0,
        regime="held out",
        sizes={"to fit on": 10},
        eta=3,
        rungs=ladder(3, 1),
        reached=2,
        ranked=("spam", "trec6"),
        unseen=(),
        rows=rows,
        winner="spam",
        title="Expert spam",
        reason="spam wins",
        sentence="For quotes take Expert spam.",
        verdict=None,
        tests=(score,),
        gain=(0.1, 0.05, 0.15),
        regret_bound=0.125,
        notes=("There was no time to go on with ties.",),
        path=Path("runs/q"),
        model=Path("runs/q/handover/quotes"),
        page=Path("runs/q/report.html"),
        picture=Path("runs/q/rungs.svg"),
    )


@pytest.fixture
def called(monkeypatch):
    seen = {}

    def call(*words, **given):
        given.pop("progress")
        seen.update(words=words, given=given)
        return report()

    monkeypatch.setattr(taskloom, "auto", call)
    return seen


WORDS = ("auto", "quotes", "--base", "b", "--expert", "spam=x", "--expert", "trec6=y")


def test_words_become_arguments(cli, called):
    more = (
        "--minutes",
        "2.5",
        "--labels",
        "0",
        "--head",
        "h",
        "--parts",
        "--try",
        "ties",
        "--seed",
        "3",
    )
    sizes = ("--max-train", "50", "--tune", "steps=5", "--guard", "warn", "-o", "out")
    assert cli(*WORDS, *more, *sizes).status == 0
    assert called["words"] == ("quotes", "b", {"spam": "x", "trec6": "y"})
    given = called["given"]
    assert (given["minutes"], given["labels"], given["head"]) == (2.5, 0, Path("h"))
    assert (given["parts"], given["methods"], given["seed"]) == (True, ("ties",), 3)
    assert (given["tune"], given["guard"], given["output"]) == ({"steps": 5}, "warn", Path("out"))
    assert (given["limits"].train, given["limits"].validation, given["limits"].test) == (50, 200, 500)


def test_without_them_there_are_defaults(cli, called):
    assert cli(*WORDS).status == 0
    given = called["given"]
    assert (given["minutes"], given["labels"], given["methods"]) == (5.0, None, None)
    assert (given["guard"], given["output"], given["tune"]) == ("strict", None, {})


def test_everything_that_was_tried_is_told(cli, called):
    out = cli(*WORDS).out
    for part in (
        "0.750 [0.600, 0.850] n=60",
        "2 of 2",
        "handed over",
        "no time to try it",
        "place 2 of 2 on rung 1",
        "12.5 points",
        "For quotes take Expert spam.",
        "runs/q/report.html",
        "61 of 300 seconds",
    ):
        assert part in out


def test_json_has_the_same(cli, called):
    data = cli(*WORDS, "--json").data
    assert data["winner"] == "spam"
    assert data["rows"][1]["points"][1]["value"] == 0.75
    assert data["rungs"] == [
        {"number": 0, "share": pytest.approx(1 / 3), "count": 3},
        {"number": 1, "share": 1.0, "count": 1},
    ]
    assert data["model"] == "runs/q/handover/quotes"


def test_the_tables_of_the_page():
    found = report()
    table = tried_table(found)
    assert [row[0].text for row in table.rows] == ["Base", "Expert spam", "ties of all"]
    assert table.rows[1][0].flag == "handed over"
    assert [row[-1].text for row in table.rows] == ["place 2 of 2 on rung 1", "", "no time to try it"]
    assert table.rows[2][1].text == "\N{EN DASH}"
    assert scores_table(found).rows[0][1].text == "80.0"
    assert margins_table(found) is None
