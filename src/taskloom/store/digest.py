"""Names for weights by their content: one SHA-256 per tensor, one over all of them.

The digest of a checkpoint does not depend on how it is stored: order, shards, and header padding
play no part. Because every tensor is hashed by itself, digests can be made in parallel and while
writing, and a single changed tensor can be told.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from json import JSONDecodeError, loads
from pathlib import Path

from taskloom.errors import OutputError
from taskloom.lazy import Tensor, torch
from taskloom.store.atomic import write_json
from taskloom.store.cache import cache_root, canonical_digest, file_mark
from taskloom.store.checkpoint import TensorInfo

#: A file written less than this long ago may change again without a new time stamp.
_SETTLED_NS = 100_000_000


def tensor_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor in row-major order, little endian, without copying if it can.

    Gradients are ignored; a tensor on another device is copied to memory first.
    """
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def tensor_digest(tensor: Tensor) -> str:
    """Return the SHA-256 (hex) of a tensor's bytes."""
    return hashlib.sha256(tensor_bytes(tensor)).hexdigest()


def combine_digests(parts: Iterable[tuple[str, TensorInfo, str]]) -> str:
    """Return one digest for (name, info, digest of the bytes) of every tensor, in any order."""
    rows = [[name, info.kind, list(info.shape), digest] for name, info, digest in parts]
    return canonical_digest(sorted(rows, key=lambda row: str(row[0])))


def cached_digest(kind: str, files: Sequence[Path], compute: Callable[[], str]) -> str:
    """Return ``compute()``, or what it returned last time if no file has changed since.

    The answer is kept in a small file under the cache root. It is trusted only if path, size,
    modification time, change time and inode of every file are the same as then.
    """
    known = known_digest(kind, files)
    if known is not None:
        return known
    marks = [file_mark(file) for file in files]
    digest = compute()
    keep_digest(kind, files, digest, marks)
    return digest


def known_digest(kind: str, files: Sequence[Path]) -> str | None:
    """Return the digest that was kept of these files, None if there is none or a file changed."""
    names, record = _place(kind, files)
    return _recorded(record, names, [file_mark(file) for file in files])


def keep_digest(kind: str, files: Sequence[Path], digest: str, marks: list[list[int]]) -> None:
    """Keep a digest of files that had these marks before they were read.

    Nothing is kept of files that changed since, or so recently that they may change unnoticed.
    """
    names, record = _place(kind, files)
    newest = max((max(mark[1], mark[3]) for mark in marks), default=0)
    settled = newest + _SETTLED_NS < time.time_ns()
    if settled and marks == [file_mark(file) for file in files]:
        with contextlib.suppress(OSError, OutputError):  # without a cache it only takes longer
            write_json(record, {"files": names, "marks": marks, "digest": digest})


def _place(kind: str, files: Sequence[Path]) -> tuple[list[str], Path]:
    names = [str(file.resolve()) for file in files]
    return names, cache_root() / "digests" / f"{canonical_digest([kind, names])}.json"


def _recorded(record: Path, names: list[str], marks: list[list[int]]) -> str | None:
    try:
        found = loads(record.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, JSONDecodeError):
        return None
    if not isinstance(found, dict) or found.get("files") != names or found.get("marks") != marks:
        return None
    digest = found.get("digest")
    return digest if isinstance(digest, str) and len(digest) == 64 else None
