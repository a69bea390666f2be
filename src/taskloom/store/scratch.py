"""Folders for what is on its way elsewhere, which no process leaves behind for good."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "taskloom-scratch-"
_HELD = "held"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Yield an empty folder among the system's temporary files (``TMPDIR``), removed at the end.

    Its process holds a lock on it; folders of processes that were killed are removed on this occasion.
    """
    root = Path(tempfile.gettempdir())
    for left in root.glob(f"{_PREFIX}*"):
        _remove_if_left(left)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
    descriptor = -1
    try:
        # held before it has the name by which others look for it
        descriptor = os.open(folder / "new", os.O_RDWR | os.O_CREAT, 0o600)
        with contextlib.suppress(OSError):  # a file system without locks: others leave it alone too
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(folder / "new", folder / _HELD)
        inner = folder / "files"
        inner.mkdir()
        yield inner
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if descriptor >= 0:
            os.close(descriptor)


def _remove_if_left(folder: Path) -> None:
    """Remove a folder that nobody holds."""
    try:
        descriptor = os.open(folder / _HELD, os.O_RDWR)
    except OSError:  # being made, being removed, or somebody else's
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        pass
    finally:
        os.close(descriptor)
