"""What ``taskloom fit`` fits has one of the names here: a recipe's numbers, or a small module."""

from __future__ import annotations

from taskloom.errors import PlanError, UnknownName
from taskloom.registry import Entry, entries


def named_fit(method: str, *, merged: bool = False) -> Entry:
    """Return the fitting method or the small module of a name.

    Parameters
    ----------
    merged
        Whether a merge was given that it is to sit on.

    Raises
    ------
    UnknownName
        There is neither.
    PlanError
        A merge below a recipe, which makes its own.
    """
    known = {entry.name: entry for family in ("fit", "module") for entry in entries(family)}
    if method not in known:
        raise UnknownName("fitting method or small module", method, list(known))
    if merged and known[method].family == "fit":
        raise PlanError(
            f"{method} fits a merge of its own, and sits on none",
            hint="Leave the merged model out",
        )
    return known[method]
