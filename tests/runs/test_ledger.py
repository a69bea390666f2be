"""The ledger is an index over the run folders and can always be made again."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

import pytest

from taskloom.errors import OutputError
from taskloom.runs import ledger


def dump(root) -> dict[str, list[tuple]]:
    with closing(sqlite3.connect(root / ledger.NAME)) as connection:
        return {
            table: sorted(connection.execute(f"SELECT * FROM {table}").fetchall(), key=repr)
            for table in ("runs", "scores")
        }


@pytest.fixture
def root(tmp_path, micro):
    """Return a folder with two runs that the ledger knows."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copy(micro.folder / "result.json", tmp_path / name)
        ledger.record(tmp_path, tmp_path / name, micro.result)
    return tmp_path


def test_a_run_records_itself_beside_its_folder(micro):
    (row,) = ledger.runs(micro.folder.parent)
    assert (row["folder"], row["name"], row["headline"]) == ("micro", "micro", micro.result.headline)
    assert row["plan_digest"] == micro.result.lock.plan_digest
    assert len(dump(micro.folder.parent)["scores"]) == len(micro.result.scores)


def test_rebuilt_equals_recorded(root):
    recorded = dump(root)
    assert ledger.rebuild(root) == (2, [])
    assert dump(root) == recorded


def test_recording_again_replaces(root, micro):
    before = dump(root)
    ledger.record(root, root / "one", micro.result)
    assert dump(root) == before


def test_an_unreadable_result_is_reported_and_left_out(root):
    (root / "one" / "result.json").write_text("{}")
    assert ledger.rebuild(root) == (1, ["one"])
    assert [row["folder"] for row in ledger.runs(root)] == ["two"]


@pytest.mark.parametrize("damage", ["garbage", "schema", "truncated", "gone"])
def test_a_broken_ledger_is_made_anew(root, micro, damage):
    good, path = dump(root), root / ledger.NAME
    if damage == "garbage":
        path.write_bytes(b"no ledger" * 1000)
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    elif damage == "gone":
        path.unlink()
        ledger.rebuild(root)
    else:
        path.unlink()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE runs (folder TEXT PRIMARY KEY)")
            connection.commit()
    ledger.record(root, root / "two", micro.result)
    assert dump(root) == good
    assert len(ledger.runs(root)) == 2


def test_a_ledger_in_use_is_not_replaced(root, micro, monkeypatch):
    real = sqlite3.connect
    monkeypatch.setattr(ledger.sqlite3, "connect", lambda path, timeout: real(path, timeout=0.05))
    with closing(real(root / ledger.NAME)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OutputError, match=r"cannot be used: database is locked\. .*run folders"):
            ledger.record(root, root / "two", micro.result)
    assert len(ledger.runs(root)) == 2
