"""What is written down survives; what was cut off is taken away; what is foreign is refused."""

import json
import math

import pytest

from taskloom.errors import IntegrityError, OutputError
from taskloom.learn.search.journal import Journal, Measured, key_of

ONE = Measured({"a": 0.1, "b": 1 / 3}, {"a": 0.5, "b": 1.0}, 0.25)


def test_it_is_read_again(tmp_path):
    path = tmp_path / "deep" / "journal.jsonl"
    with Journal(path) as journal:
        journal.put("k", {"scale": 0.3}, ONE)
        assert journal.get("k") == ONE
    with Journal(path) as journal:
        assert journal.get("k") == ONE
        assert journal.get("other") is None
        assert len(journal) == 1
        journal.put("l", {}, ONE)
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["k", "l"]


def test_a_line_is_on_disk_before_the_next_evaluation(tmp_path):
    path = tmp_path / "j"
    with Journal(path) as journal:
        journal.put("k", {}, ONE)
        assert path.read_text().count("\n") == 1


def test_without_a_path_it_is_memory():
    with Journal() as journal:
        journal.put("k", {}, ONE)
        assert journal.get("k") == ONE


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_losses_that_are_not_finite_come_back_as_nan(tmp_path, loss):
    with Journal(tmp_path / "j") as journal:
        journal.put("k", {}, Measured({"a": loss}, {"a": 1.0}, 0.0))
    with Journal(tmp_path / "j") as journal:
        assert math.isnan(journal.get("k").losses["a"])


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_an_unfinished_line_is_taken_away(tmp_path, cut):
    path = tmp_path / "j"
    with Journal(path) as journal:
        journal.put("k", {}, ONE)
        journal.put("l", {}, ONE)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with Journal(path) as journal:
        assert journal.get("k") == ONE
        assert journal.get("l") is None
        journal.put("l", {}, ONE)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "line", ["garbage", "[]", "{}", '{"key": "k", "losses": 1, "shares": {}, "seconds": 1}', "null"]
)
def test_a_line_of_something_else_is_refused(tmp_path, line):
    path = tmp_path / "j"
    with Journal(path) as journal:
        journal.put("k", {}, ONE)
    path.write_text(path.read_text() + line + "\n")
    before = path.read_bytes()
    with pytest.raises(IntegrityError, match="line 2 is not a measurement"), Journal(path):
        pass
    assert path.read_bytes() == before


def test_two_searches_cannot_share_it(tmp_path):
    with (
        Journal(tmp_path / "j"),
        pytest.raises(OutputError, match="another search"),
        Journal(tmp_path / "j"),
    ):
        pass
    with Journal(tmp_path / "j"):
        pass


def test_a_folder_in_its_place(tmp_path):
    with pytest.raises(OutputError, match="cannot be opened"), Journal(tmp_path):
        pass


def test_keys_tell_contexts_and_candidates_apart():
    keys = {key_of(c, o) for c in ({"m": 1}, {"m": 2}) for o in ({"a": 1.0}, {"a": 2.0}, {"b": 1.0})}
    assert len(keys) == 6
    assert key_of({"a": 1, "b": 2}, {}) == key_of({"b": 2, "a": 1}, {})
