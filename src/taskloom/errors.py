"""Every error a user can meet: one sentence that names the thing, what was expected, and the way out.

The command line prints the message on one line and exits with ``exit_code``; the library raises.

>>> raise UnknownName("merging method", "tise", ["ties", "dare"])
Traceback (most recent call last):
...
taskloom.errors.UnknownName: unknown merging method 'tise': did you mean 'ties'? Known: dare, ties
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TaskloomError(Exception):
    """Base of every error that is the input's, the plan's or the environment's fault.

    Parameters
    ----------
    message
        One sentence: the thing, what was expected, what was found.
    hint
        The way out, an imperative sentence; appended to the message.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.hint = hint
        super().__init__(f"{message}. {hint}" if hint else message)


class PlanError(TaskloomError):
    """A plan, recipe, option or task annotation that says something impossible."""

    exit_code = 2


class UnknownName(PlanError):
    """A name that is not registered; the message offers the nearest one that is."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, where: str = "") -> None:
        names = sorted(known)
        guess = nearest(name, names)
        place = f" in {where}" if where else ""
        did = f"did you mean {guess!r}? " if guess else ""
        super().__init__(f"unknown {kind} {name!r}{place}: {did}Known: {', '.join(names)}")


class CheckpointError(TaskloomError):
    """Weights that are missing, malformed, or do not fit the base."""

    exit_code = 3


class DataError(TaskloomError):
    """A data set that is missing, malformed, empty, or disagrees with its annotation."""

    exit_code = 4


class SourceUnreachable(TaskloomError):
    """A hub, registry or file that cannot be reached; what is cached still works."""

    exit_code = 5


class IntegrityError(TaskloomError):
    """Bytes that are not the bytes that were pinned or recorded."""

    exit_code = 6


class OutputError(TaskloomError):
    """An output that exists, cannot be written, or could not be finished."""

    exit_code = 7


class MissingExtra(TaskloomError):
    """A feature whose optional dependency is not installed."""

    exit_code = 8

    def __init__(self, package: str, extra: str, *, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed",
            hint=f"Install it with: pip install 'taskloom[{extra}]'",
        )


class NumericalError(TaskloomError):
    """NaN or infinity where finite numbers are required, or a fit that cannot converge."""

    exit_code = 9


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most like ``name``, or None when nothing is close.

    >>> nearest("task_arithmatic", ["ties", "task_arithmetic"])
    'task_arithmetic'
    >>> nearest("zzz", ["ties"]) is None
    True
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return close[0] if close else None
