"""The results file: whole rows only, no row twice, no rows of different things side by side."""

from __future__ import annotations

import json
from threading import Thread

import pytest

from taskloom.errors import IntegrityError, OutputError
from taskloom.runs.claims.results import (
    Book,
    Lock,
    Measured,
    Results,
    Row,
    Seeded,
    SuiteEntry,
    read_results,
)

PLACE = ("tiny", "full", 0, 2, "ties")


def row(**changes) -> Row:
    names = dict(zip(("suite", "experts", "seed", "count", "method"), PLACE, strict=True))
    scores = {"a": Measured(value=0.5, n=10)}
    return Row(**{**names, "options": {"density": 0.2}, "seconds": 0.1, "scores": scores, **changes})


def entry(**changes) -> SuiteEntry:
    lock = {
        "suite": "s1",
        "code": 1,
        "base": "b1",
        "versions": {"torch": "2"},
        "machine": "here",
        "commits": ["c1"],
        "seeds": {"0": Seeded(data={"a": "d1"}, experts={"full": {"a": "e1"}})},
    }
    return SuiteEntry(title="Tiny", tasks=["a"], lock=Lock(**{**lock, **changes}))


@pytest.fixture
def book(tmp_path) -> Book:
    return Book(tmp_path / "deep" / "claims.json")


def test_what_is_written_is_read_again_and_is_the_contract(book):
    book.open("tiny", entry())
    book.add(row())
    book.add(row(method="slerp", scores=None, seconds=None, failed="It is for two experts"))
    table = json.loads(book.path.read_text(encoding="utf-8"))
    assert list(table) == ["format", "suites", "rows"]
    assert table["format"] == 1
    assert table["suites"]["tiny"]["tasks"] == ["a"]
    assert table["rows"][0]["scores"] == {"a": {"value": 0.5, "n": 10}}
    assert "failed" not in table["rows"][0]
    assert "scores" not in table["rows"][1]
    assert read_results(book.path).rows == [row(), read_results(book.path).rows[1]]
    assert sum('"method"' in line for line in book.path.read_text().splitlines()) == 2, "a row a line"


def test_a_file_without_rows_is_json_too(book):
    book.open("tiny", entry())
    assert json.loads(book.path.read_text(encoding="utf-8"))["rows"] == []
    assert read_results(book.path.with_name("none.json")) == Results()


def test_a_row_that_is_there_is_known_by_its_options(book):
    assert not book.known(PLACE, {"density": 0.2})
    book.add(row())
    assert book.known(PLACE, {"density": 0.2})
    assert not book.known((*PLACE[:3], 4, "ties"), {"density": 0.2})
    with pytest.raises(IntegrityError, match="with another density and variant than it has now"):
        book.known(PLACE, {"density": 0.3, "variant": "paper"})


def test_no_row_twice(book):
    book.add(row())
    with pytest.raises(OutputError, match="another process has measured ties"):
        book.add(row(seconds=0.2))
    assert len(read_results(book.path).rows) == 1


def test_a_row_has_scores_or_a_reason():
    with pytest.raises(ValueError, match="either scores or the reason"):
        row(failed="and scores")
    with pytest.raises(ValueError, match="either scores or the reason"):
        row(scores=None)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"suite": "s2"}, "the suite"),
        ({"code": 2}, "the version of the measurement"),
        ({"base": "b2"}, "the base"),
        ({"versions": {"torch": "3"}}, "the version of torch"),
        ({"versions": {"torch": "2", "peft": "1"}}, "the version of peft"),
        (
            {"seeds": {"0": Seeded(data={"a": "d2"}, experts={})}},
            "the data of task 'a'",
        ),
        (
            {"seeds": {"0": Seeded(data={"a": "d1"}, experts={"full": {"a": "e2"}})}},
            r"the expert of 'a' \(full, seed 0\)",
        ),
    ],
)
def test_rows_of_something_else_are_refused_with_a_way_out(book, changes, named):
    book.open("tiny", entry())
    book.add(row())
    before = book.path.read_bytes()
    with pytest.raises(IntegrityError, match=rf"{named} changed since .* with --output, or take"):
        book.open("tiny", entry(**changes))
    assert book.path.read_bytes() == before


def test_what_is_new_is_added_to_the_lock(book):
    book.open("tiny", entry())
    more = {
        "0": Seeded(data={"a": "d1"}, experts={"lora": {"a": "l1"}, "full": {"b": "e2"}}),
        "1": Seeded(data={"a": "d9"}, experts={"full": {"a": "e9"}}),
    }
    book.open("tiny", entry(seeds=more, commits=["c2"], machine="there"))
    book.open("other", entry())
    found = read_results(book.path).suites
    assert set(found) == {"tiny", "other"}
    lock = found["tiny"].lock
    assert lock.seeds["0"].experts == {"full": {"a": "e1", "b": "e2"}, "lora": {"a": "l1"}}
    assert lock.seeds["1"].data == {"a": "d9"}
    assert lock.commits == ["c1", "c2"]
    assert lock.machine == "here"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 2}', '{"rowz": []}', '{"rows": [{}]}'])
def test_a_file_that_is_something_else_is_left_alone(book, text):
    book.path.parent.mkdir()
    book.path.write_text(text, encoding="utf-8")
    with pytest.raises(OutputError, match="expected a results file of format 1"):
        book.add(row())
    assert book.path.read_text(encoding="utf-8") == text


def test_several_suites_may_be_measured_into_one_file_at_once(book):
    def measure(suite):
        for count in range(2, 10):
            book.add(row(suite=suite, count=count))

    threads = [Thread(target=measure, args=(f"s{i}",)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({r.place for r in read_results(book.path).rows}) == 24
