"""The ledger: every score of every run in one SQLite file, rebuilt from the run folders at any time.

The run folders are the truth; the ledger is an index over them for questions such as "how did TIES do
on trec6 in all my runs". It lies beside the run folders. A ledger that is damaged, or of another
version, is made anew from them when it is next used.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from taskloom.errors import OutputError
from taskloom.runs.result import RunResult

NAME = "ledger.sqlite"
T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    folder TEXT PRIMARY KEY, name TEXT NOT NULL, created TEXT NOT NULL, headline TEXT NOT NULL,
    plan_digest TEXT NOT NULL, seed INTEGER NOT NULL, peak_memory_bytes INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS scores (
    folder TEXT NOT NULL REFERENCES runs(folder) ON DELETE CASCADE,
    model TEXT NOT NULL, kind TEXT NOT NULL, method TEXT, digest TEXT NOT NULL, task TEXT NOT NULL,
    split TEXT NOT NULL, metric TEXT NOT NULL, value REAL NOT NULL, low REAL NOT NULL,
    high REAL NOT NULL, interval TEXT NOT NULL, n INTEGER NOT NULL, seed INTEGER NOT NULL,
    PRIMARY KEY (folder, model, task, split)
);
"""


#: what SQLite says when the file is no ledger (not: locked, full, or not writable)
_BROKEN = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR}


def _attempt(root: Path, action: Callable[[sqlite3.Connection], T]) -> T:
    with closing(sqlite3.connect(root / NAME, timeout=30)) as connection, connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.executescript(_SCHEMA)
        return action(connection)


def _do(root: Path, action: Callable[[sqlite3.Connection], T]) -> T:
    """Work on the ledger; make it anew first if it is broken."""
    try:
        try:
            return _attempt(root, action)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF not in _BROKEN:
                raise
        rebuild(root)
        return _attempt(root, action)
    except sqlite3.Error as error:
        raise OutputError(
            f"the ledger {str(root / NAME)!r} cannot be used: {error}",
            hint="Make room for it, or delete it: it is made anew from the run folders",
        ) from error


def _insert(connection: sqlite3.Connection, folder: str, result: RunResult) -> None:
    connection.execute("DELETE FROM runs WHERE folder = ?", (folder,))
    lock = result.lock
    run = (folder, result.name, result.created, result.headline, lock.plan_digest, lock.seed)
    connection.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?)", (*run, lock.peak_memory_bytes))
    models = {model.name: model for model in result.models}
    rows = []
    for s in result.scores:
        model = models[s.model]
        told = (folder, s.model, model.kind, model.method, model.digest, s.task, s.split, s.metric)
        rows.append((*told, s.value, s.low, s.high, s.interval, s.n, s.seed))
    marks = ", ".join("?" * 14)
    connection.executemany(f"INSERT INTO scores VALUES ({marks})", rows)


def record(root: Path, folder: Path, result: RunResult) -> None:
    """Write one run's scores, replacing what the ledger knew of that folder.

    Raises
    ------
    OutputError
        The ledger is locked for half a minute, or cannot be written.
    """
    _do(root, lambda connection: _insert(connection, folder.name, result))


def rebuild(root: Path) -> tuple[int, list[str]]:
    """Make the ledger anew from every ``*/result.json`` under ``root``.

    Returns
    -------
    (runs recorded, folders whose result could not be read)
    """
    results: list[tuple[str, RunResult]] = []
    unreadable: list[str] = []
    for path in sorted(root.glob("*/result.json")):
        try:
            result = RunResult.model_validate_json(path.read_bytes())
        except (ValidationError, OSError):
            unreadable.append(path.parent.name)
            continue
        results.append((path.parent.name, result))
    (root / NAME).unlink(missing_ok=True)

    def fill(connection: sqlite3.Connection) -> None:
        for folder, result in results:
            _insert(connection, folder, result)

    _attempt(root, fill)
    return len(results), unreadable


def runs(root: Path) -> list[dict[str, str | int]]:
    """Return every run the ledger knows, newest first.

    Raises
    ------
    OutputError
        See `record`.
    """

    def read(connection: sqlite3.Connection) -> list[dict[str, str | int]]:
        connection.row_factory = sqlite3.Row
        rows = connection.execute("SELECT * FROM runs ORDER BY created DESC, folder")
        return [dict(row) for row in rows]

    return _do(root, read)
