"""A run folder and what is finished in it.

Everything a run finds out is kept under ``stash/`` by a digest of what went in (weights, data, options),
so that a second run, or one that was interrupted, does only what is new. The digest also covers
`CODE_VERSION` and the versions of the packages that compute numbers: nothing survives an upgrade.
Entries are written whole or not at all; one that cannot be read is computed again.
"""

from __future__ import annotations

import fcntl
import io
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from taskloom.errors import OutputError
from taskloom.store.atomic import atomic_file, write_json
from taskloom.store.cache import canonical_digest

T = TypeVar("T")

#: part of every key; raised whenever the same inputs lead to other numbers
CODE_VERSION = 1
#: bytes of an array from which on it is mapped from its file instead of read into memory
MAPPED = 1 << 26
#: what `taskloom.store.atomic` writes to before it renames
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


class Workspace:
    """The folder of one run: finished pieces, stage clocks, and a note of what was skipped.

    Attributes
    ----------
    seconds
        Wall seconds per stage of this run.
    skipped, done
        How many pieces were taken from the stash, and how many were computed, per kind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = {}
        self.skipped: dict[str, int] = {}
        self.done: dict[str, int] = {}
        try:
            (path / "stash").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"the run folder {str(path)!r} cannot be made: {error.strerror}",
                hint="Choose another folder with --output",
            ) from None

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the folder for this process; a second run into it is refused.

        Raises
        ------
        OutputError
            Another process is running into the folder.
        """
        try:
            file = (self.path / ".running").open("w")
        except OSError as error:
            raise OutputError(
                f"the run folder {str(self.path)!r} cannot be written: {error.strerror}",
                hint="Choose another folder with --output",
            ) from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise OutputError(
                    f"another run is writing into {str(self.path)!r}",
                    hint="Wait for it, or choose another folder with --output",
                ) from None
            self._sweep_out()
            yield

    def _sweep_out(self) -> None:
        """Remove what a killed run was writing; nobody else writes while the folder is held."""
        for folder in (self.path, self.path / "handover", *(self.path / "stash").glob("**/")):
            for path in folder.glob(".*.tmp"):
                if not _TEMPORARY.fullmatch(path.name):
                    continue
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Clock a stage."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun

    def entry(self, kind: str, key: Any, suffix: str = "") -> Path:
        """Return where the piece of that key is, or will be, kept."""
        digest = canonical_digest([CODE_VERSION, numeric_versions(), key])
        return self.path / "stash" / kind / f"{digest[:32]}{suffix}"

    def count(self, kind: str, *, skipped: bool) -> None:
        """Note that a piece of this kind was skipped or computed."""
        tally = self.skipped if skipped else self.done
        tally[kind] = tally.get(kind, 0) + 1

    def array(self, kind: str, key: Any) -> np.ndarray[Any, Any] | None:
        """Return a stashed array, or None; a large one is mapped, and cannot be written to."""
        found = self._opened(self.entry(kind, key, ".npy"))
        if found is not None:
            self.count(kind, skipped=True)
        return found

    def _opened(self, path: Path) -> np.ndarray[Any, Any] | None:
        try:
            large = path.stat().st_size >= MAPPED
            found = np.load(path, mmap_mode="r" if large else None, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return found if large else np.asarray(found)

    def keep_array(self, kind: str, key: Any, value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Stash an array, whole or not at all; return it, a large one as `array` does."""
        buffer = io.BytesIO()  # numpy's own writing to a file hides why it failed
        np.save(buffer, value, allow_pickle=False)
        path = self.entry(kind, key, ".npy")
        with atomic_file(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())
        self.count(kind, skipped=False)
        mapped = self._opened(path) if value.nbytes >= MAPPED else None
        return value if mapped is None else mapped

    def remember(self, kind: str, key: Any, compute: Callable[[], T]) -> T:
        """Return the stashed JSON value, or compute and stash it."""
        path = self.entry(kind, key, ".json")
        try:
            value: T = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            value = compute()
            write_json(path, value)
            self.count(kind, skipped=False)
        else:
            self.count(kind, skipped=True)
        return value


@cache
def numeric_versions(*more: str) -> dict[str, str]:
    """Return the installed versions of the packages that compute what is stashed, and of ``more``.

    Extras that happen to be installed are not among them: installing one must not undo a cache.
    """
    found = {}
    for package in ("torch", "numpy", "scipy", "scikit-learn", "transformers", "tokenizers", *more):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
