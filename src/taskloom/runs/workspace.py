"""A run folder and what is finished in it.

Everything a run finds out is kept under ``stash/`` by a digest of what went in (weights, data, options),
so that a second run, or one that was interrupted, does only what is new. Entries are written whole or
not at all.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from taskloom.errors import OutputError
from taskloom.store.atomic import atomic_file, write_json
from taskloom.store.cache import canonical_digest

T = TypeVar("T")


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
        with (self.path / ".running").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise OutputError(
                    f"another run is writing into {str(self.path)!r}",
                    hint="Wait for it, or choose another folder with --output",
                ) from None
            yield

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Clock a stage."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun

    def _entry(self, kind: str, key: Any, suffix: str) -> Path:
        return self.path / "stash" / kind / f"{canonical_digest(key)[:32]}{suffix}"

    def count(self, kind: str, *, skipped: bool) -> None:
        """Note that a piece of this kind was skipped or computed."""
        tally = self.skipped if skipped else self.done
        tally[kind] = tally.get(kind, 0) + 1

    def array(self, kind: str, key: Any) -> np.ndarray[Any, Any] | None:
        """Return a stashed array, or None."""
        path = self._entry(kind, key, ".npy")
        if not path.exists():
            return None
        self.count(kind, skipped=True)
        return np.asarray(np.load(path, allow_pickle=False))

    def keep_array(self, kind: str, key: Any, value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Stash an array, whole or not at all; return it."""
        path = self._entry(kind, key, ".npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, value, allow_pickle=False)
        self.count(kind, skipped=False)
        return value

    def remember(self, kind: str, key: Any, compute: Callable[[], T]) -> T:
        """Return the stashed JSON value, or compute and stash it."""
        path = self._entry(kind, key, ".json")
        if path.exists():
            self.count(kind, skipped=True)
            value: T = json.loads(path.read_text(encoding="utf-8"))
            return value
        value = compute()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, value)
        self.count(kind, skipped=False)
        return value
