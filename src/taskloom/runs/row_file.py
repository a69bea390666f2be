"""What files of measured rows share: how they are laid out, and that one process writes at a time."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from taskloom.errors import OutputError
from taskloom.store.cache import cache_root, canonical_digest


def lay_out(head: dict[str, Any], rows: Sequence[str]) -> str:
    """Return the text of a file: what stands above the rows, indented, and a row a line.

    >>> print(lay_out({"format": 1}, ['{"a": 1}', '{"a": 2}']), end="")
    {
     "format": 1,
     "rows": [
    {"a": 1},
    {"a": 2}
    ]}
    """
    above = json.dumps(head, indent=1, ensure_ascii=False)[:-2]
    lines = "\n" + ",\n".join(rows) + "\n" if rows else ""
    return f'{above},\n "rows": [{lines}]}}\n'


@contextmanager
def alone(path: Path, room: str) -> Iterator[None]:
    """Keep other processes from a results file, by a lock in a room of the cache.

    Raises
    ------
    OutputError
        The cache cannot be written.
    """
    guard = cache_root() / room / f"{canonical_digest(str(path.resolve()))[:16]}.lock"
    try:
        guard.parent.mkdir(parents=True, exist_ok=True)
        file = guard.open("w")
    except OSError as error:
        raise OutputError(
            f"the cache folder {str(guard.parent)!r} cannot be written: {error.strerror}",
            hint="Set TASKLOOM_CACHE to a folder you may write to",
        ) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
