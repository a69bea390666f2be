"""Experts that a step speaks of by name."""

from __future__ import annotations

from collections.abc import Sequence

from taskloom.errors import PlanError, nearest


def index_of(name: str, experts: Sequence[str], who: str) -> int:
    """Return where in the pool an expert is; ``who`` asks for it.

    Raises
    ------
    PlanError
        No expert has that name.

    Examples
    --------
    >>> index_of("cars", ("news", "cars"), "tall_masks")
    1
    >>> index_of("card", ("news", "cars"), "tall_masks")
    Traceback (most recent call last):
    ...
    taskloom.errors.PlanError: tall_masks: there is no expert 'card': did you mean 'cars'? The pool
    holds: news, cars
    """
    if name in experts:
        return list(experts).index(name)
    guess = nearest(name, experts)
    did = f"did you mean {guess!r}? " if guess else ""
    raise PlanError(f"{who}: there is no expert {name!r}: {did}The pool holds: {', '.join(experts)}")
