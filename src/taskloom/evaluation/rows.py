"""The raw form of a data set: a list of rows, each a mapping from column name to value."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from taskloom.errors import DataError, nearest
from taskloom.progress import Progress, silent

Row = dict[str, object]


@dataclass(frozen=True)
class SourceContext:
    """What a data source is told besides its own options.

    Parameters
    ----------
    folder
        Directory that relative paths start from: that of the annotation file, or the working one.
    task
        Name of the task, for messages.
    progress
        Listens to downloads.
    """

    folder: Path
    task: str
    progress: Progress = field(default=silent, compare=False)


def column(row: Row, name: str) -> object:
    """Return ``row[name]``.

    Raises
    ------
    DataError
        No such column; the message lists those there are.

    Examples
    --------
    >>> column({"text": "hi"}, "text")
    'hi'
    """
    if name not in row:
        guess = nearest(name, row)
        did = f"did you mean {guess!r}? " if guess else ""
        raise DataError(f"no column {name!r} in the data: {did}Columns: {', '.join(row)}")
    return row[name]


def keyed_order(key: str, *salt: object) -> int:
    """Return a 64-bit number fixed by ``key`` and ``salt`` alone: randomness without an order.

    >>> keyed_order("a", 0) == keyed_order("a", 0), keyed_order("a", 0) == keyed_order("a", 1)
    (True, False)
    """
    data = "\x1f".join([*(str(part) for part in salt), key]).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def row_key(row: Row) -> str:
    """Return what identifies a row's content, for seeded choices among rows."""
    return "\x1e".join(f"{name}={value}" for name, value in row.items())


def shortened(values: Iterable[object], limit: int = 8) -> str:
    """Join ``values`` for a message, at most ``limit`` of them.

    >>> shortened("abc", 2)
    "'a', 'b', ..."
    """
    listed = list(values)
    return ", ".join([repr(v) for v in listed[:limit]] + ["..."] * (len(listed) > limit))
