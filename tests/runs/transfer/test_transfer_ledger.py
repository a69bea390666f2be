"""The results file: rows whole or not at all, and never measured with something else."""

from __future__ import annotations

import json

import pytest

from taskloom.errors import IntegrityError, OutputError
from taskloom.runs.transfer.ledger import (
    Book,
    Cell,
    Lock,
    Matrix,
    PlanEntry,
    Seeded,
    planned,
    read_matrix,
)


def entry(name="p", **changes) -> PlanEntry:
    lock = Lock(
        plan=changes.pop("plan", "d"),
        ways=changes.pop("way_digests", {"full": "w"}),
        code=changes.pop("code", 1),
        base=changes.pop("base", "b"),
        versions=changes.pop("versions", {"torch": "2"}),
        machine="m",
        commits=changes.pop("commits", []),
    )
    content = {
        "name": name, "title": "P", "sources": ["a", "b"], "targets": ["b", "c"], "ways": ["full"],
        "seeds": [0], "labels": 8, "left_out": {"b": {"b": "itself"}}, "tasks": {}, **changes,
    }  # fmt: skip
    return PlanEntry(lock=lock, **content)


def row(source="a", target="c", seed=0, **changes) -> Cell:
    numbers = {"test": 0.5, "n_test": 10} if "failed" not in changes else {}
    return Cell(way="full", source=source, target=target, seed=seed, **numbers, **changes)


@pytest.fixture
def book(tmp_path) -> Book:
    made = Book(tmp_path / "matrix.json")
    made.open(entry())
    return made


def test_a_row_has_a_number_or_a_reason():
    with pytest.raises(ValueError, match="either test and n_test or the reason"):
        Cell(way="full", source="a", target="b", seed=0)
    with pytest.raises(ValueError, match="either test and n_test or the reason"):
        row(failed="no", test=0.5)
    with pytest.raises(ValueError, match="either test and n_test or the reason"):
        Cell(way="full", source="a", target="b", seed=0, test=0.5)


def test_the_grid_leaves_out_what_is_left_out_and_begins_with_the_base():
    assert [place[1:3] for place in planned(entry(), "base")] == [
        ("base", "b"), ("a", "b"), ("base", "c"), ("a", "c"), ("b", "c"),
    ]  # fmt: skip


def test_rows_are_lines_and_come_back(book):
    book.add([row(), row("b", failed="it is too dark")], 0, Seeded(data={"c": "x"}))
    lines = book.path.read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith('{"way"') for line in lines) == 2
    found = read_matrix(book.path)
    assert found.rows == [row(), row("b", failed="it is too dark")]
    assert found.plan.lock.seeds["0"].data == {"c": "x"}
    assert Matrix.model_validate(json.loads(found.text())) == found


def test_what_is_there_is_not_written_twice(book):
    book.add([row()], 0, Seeded())
    with pytest.raises(OutputError, match="another process has measured 'a' on 'c'"):
        book.add([row()], 0, Seeded())


def test_a_failed_row_gives_way_when_it_is_tried_again_and_a_number_does_not(book):
    book.add([row(failed="no"), row("b")], 0, Seeded())
    book.add([row()], 0, Seeded(), replace=True)
    assert read_matrix(book.path).rows == [row("b"), row()]
    with pytest.raises(OutputError, match="meanwhile"):
        book.add([row()], 0, Seeded(), replace=True)


def test_other_data_or_experts_are_refused(book):
    book.add([row()], 0, Seeded(data={"c": "x"}, experts={"a": "e"}))
    book.add([row(seed=1)], 1, Seeded(data={"c": "y"}, experts={"a": "f"}))
    with pytest.raises(IntegrityError, match="the data of the target 'c', seed 0, changed"):
        book.add([row("b")], 0, Seeded(data={"c": "y"}))
    with pytest.raises(IntegrityError, match="the expert of 'a', seed 0, changed"):
        book.add([row("b")], 0, Seeded(experts={"a": "f"}))
    assert len(read_matrix(book.path).rows) == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"plan": "e"}, "the plan changed"),
        ({"base": "c"}, "the base changed"),
        ({"code": 2}, "the version of the measurement changed"),
        ({"versions": {"torch": "3"}}, "the version of torch changed"),
        ({"way_digests": {"full": "v"}}, "the way full changed"),
    ],
)
def test_rows_measured_with_something_else_do_not_go_into_the_same_file(book, changes, said):
    book.add([row()], 0, Seeded())
    with pytest.raises(IntegrityError, match=said):
        book.open(entry(**changes))


def test_before_the_first_row_everything_may_change(book):
    book.open(entry(plan="e", base="c"))
    assert read_matrix(book.path).plan.lock.base == "c"


def test_a_plan_may_grow(book):
    book.add([row()], 0, Seeded())
    more = {"way_digests": {"lora": "l"}, "ways": ["lora"], "targets": ["d"], "seeds": [1]}
    book.open(entry(**more, commits=["abc"]))
    found = read_matrix(book.path).plan
    assert (found.ways, found.targets, found.seeds) == (["full", "lora"], ["b", "c", "d"], [0, 1])
    assert found.lock.ways == {"full": "w", "lora": "l"}
    assert found.lock.commits == ["abc"]


def test_another_plan_has_another_file(book):
    with pytest.raises(OutputError, match="expected rows of the plan 'q', found 'p'"):
        book.open(entry("q"))


@pytest.mark.parametrize("text", ["[]", "{", '{"format": 2}', '{"rows": [{"way": "full"}]}'])
def test_a_file_that_is_none_is_refused(tmp_path, text):
    path = tmp_path / "matrix.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(OutputError, match="expected a transfer matrix of format 1"):
        read_matrix(path)


def test_no_file_is_an_empty_matrix(tmp_path):
    assert read_matrix(tmp_path / "none.json") == Matrix()
