"""Where downloaded and computed things are kept, and how things are named by their content."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20


def cache_root() -> Path:
    """Return the folder that caches live in: ``$TASKLOOM_CACHE``, or ``~/.cache/taskloom``.

    The folder is not created.
    """
    named = os.environ.get("TASKLOOM_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "taskloom"


def canonical_digest(obj: Any) -> str:
    """Return the SHA-256 (hex) of ``obj`` written as JSON with sorted keys and no spaces.

    Raises
    ------
    TypeError, ValueError
        For what JSON cannot say: objects, NaN, infinity.

    >>> canonical_digest({"b": 1, "a": 2}) == canonical_digest({"a": 2, "b": 1})
    True
    """
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def file_digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 (hex) of a file's bytes, read in pieces.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    state = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_CHUNK):
            state.update(piece)
    return state.hexdigest()


def file_mark(path: str | os.PathLike[str]) -> list[int]:
    """Return what changes when a file is written: size, mtime in ns, inode, and ctime in ns."""
    stat = os.stat(path)
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_ctime_ns]
