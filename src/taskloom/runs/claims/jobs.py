"""What a process is told to measure, and what it says: one line of JSON each.

``{"suite", "kind", "seed", "upto", "count", "method"}`` asks for a row; the answer is ``{"row": ...}``,
or ``{"error": name, "message": ..., "trace": ...}``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from taskloom import errors
from taskloom.errors import TaskloomError
from taskloom.evaluation.strict import parse
from taskloom.runs.claims.results import Row
from taskloom.runs.claims.suite import Kind


@dataclass(frozen=True)
class Job:
    """One row that is wanted.

    Attributes
    ----------
    suite
        Name or path.
    upto
        Tasks whose experts make the stage; ``count`` of them are merged.
    """

    suite: str
    kind: Kind
    seed: int
    upto: int
    count: int
    method: str

    def line(self) -> str:
        """Return the job as one line."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def of_line(cls, line: str) -> Job:
        """Undo `line`."""
        return cls(**json.loads(line))

    def __str__(self) -> str:
        pool = f"{self.count} {self.kind} experts of suite {self.suite!r}"
        return f"{self.method} on {pool}, seed {self.seed}"


def answer(row: Row) -> str:
    """Return a row as one line.

    >>> row = Row(suite="s", experts="full", seed=0, count=2, method="ties", options={}, failed="no")
    >>> understood(answer(row)) == row
    True
    """
    return json.dumps({"row": row.model_dump(mode="json", exclude_none=True)}) + "\n"


def complaint(error: Exception, trace: str) -> str:
    """Return an error as one line."""
    return json.dumps({"error": type(error).__name__, "message": str(error), "trace": trace}) + "\n"


def understood(line: str) -> Row:
    """Return the row of an answer, or raise the error that it tells of.

    Raises
    ------
    TaskloomError
        Of the class and with the message that it had in the other process.
    RuntimeError
        Any other error, with its trace.
    """
    said: Mapping[str, Any] = json.loads(line)
    if "row" in said:
        return parse(Row, said["row"], where="a row from a worker")
    kind = getattr(errors, said["error"], None)
    if isinstance(kind, type) and issubclass(kind, TaskloomError):
        raise _again(kind, said["message"])
    raise RuntimeError(f"{said['error']}: {said['message']}\n{said['trace']}")


def _again(kind: type[TaskloomError], message: str) -> TaskloomError:
    """Return an error as it was raised: some classes make their message of other words."""
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.hint = ""
    return error
