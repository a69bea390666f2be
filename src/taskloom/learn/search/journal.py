"""What every candidate came to, kept by content and written down at once."""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from taskloom.errors import IntegrityError, OutputError
from taskloom.store.cache import canonical_digest


@dataclass(frozen=True)
class Measured:
    """What a candidate came to.

    Attributes
    ----------
    losses
        By task; NaN or infinity where it has none.
    shares
        By task: the share of the predictions that the commonest class has; empty of embeddings.
    seconds
        What merging and running it took.
    """

    losses: Mapping[str, float]
    shares: Mapping[str, float]
    seconds: float


class Journal:
    """Measurements by key, in memory and, with a path, in a file of one JSON object a line.

    Every line is on disk before `put` returns, so that a killed process loses at most the evaluation
    that it was in; a line that it left unfinished is taken away when the journal is opened again. The
    file is one process's while it is open.

    Parameters
    ----------
    path
        The file, made if it is not there; None: nothing outlives this object.

    Raises
    ------
    OutputError
        The file cannot be written, or another search writes to it.
    IntegrityError
        A line that no search wrote.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._known: dict[str, Measured] = {}
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        if self.path is not None:
            self._file = _open(self.path)
            try:
                self._read(self._file)
            except BaseException:
                self._file.close()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str) -> Measured | None:
        """Return what is known under a key."""
        return self._known.get(key)

    def put(self, key: str, candidate: Mapping[str, Any], measured: Measured) -> None:
        """Keep a measurement; when this returns, it is on disk."""
        self._known[key] = measured
        if self._file is None:
            return
        line = {
            "key": key,
            "candidate": candidate,
            "losses": {task: _finite(loss) for task, loss in measured.losses.items()},
            "shares": dict(measured.shares),
            "seconds": measured.seconds,
        }
        try:
            self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(
                f"{self.path}: the journal cannot be written: {error.strerror}",
                hint="Make room; what was measured so far is kept",
            ) from error

    def _read(self, file: BinaryIO) -> None:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].splitlines(), 1):
            try:
                key, measured = _parse(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError):
                raise IntegrityError(
                    f"{self.path}: line {number} is not a measurement of a search",
                    hint="Name another file, or remove this one to search anew",
                ) from None
            self._known[key] = measured
        file.truncate(whole)
        file.seek(whole)


def key_of(context: Any, candidate: Mapping[str, Any]) -> str:
    """Return what a measurement is kept under: a digest of all that decides it."""
    return canonical_digest([context, candidate])


def _open(path: Path) -> BinaryIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+b")  # noqa: SIM115
    except OSError as error:
        raise OutputError(
            f"{path}: the journal cannot be opened: {error.strerror}", hint="Name another folder"
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise OutputError(
            f"{path}: another search is writing to it", hint="Wait for it, or name another folder"
        ) from None
    file.seek(0)
    return file


def _parse(line: Any) -> tuple[str, Measured]:
    losses = {str(t): math.nan if loss is None else float(loss) for t, loss in line["losses"].items()}
    shares = {str(task): float(share) for task, share in line["shares"].items()}
    return str(line["key"]), Measured(losses, shares, float(line["seconds"]))


def _finite(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None
