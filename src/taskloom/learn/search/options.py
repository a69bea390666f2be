"""Options of a merging method as numbers to search over."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

from taskloom.errors import PlanError
from taskloom.learn.search.space import Gene
from taskloom.registry import Entry, get

#: option -> lower and upper end
Ranges = Mapping[str, tuple[float, float]]
#: the option of many methods that holds one number per expert
WEIGHTS = "weights"


def check_ranges(method: str, ranges: Ranges, fixed: Mapping[str, Any]) -> Entry:
    """Hold what is searched over against a merging method's options.

    Raises
    ------
    UnknownName
        No such method.
    PlanError
        An option that the method does not have or that is no number, an end out of its range, or one
        that is both fixed and searched.
    """
    entry = get("merge", method)
    for option, (low, high) in ranges.items():
        if option in fixed:
            raise PlanError(
                f"{method}: option {option!r} is both given and searched over",
                hint="Give its value, or its range",
            )
        if not low < high:
            raise PlanError(
                f"{method}: option {option!r} is searched from {low:g} to {high:g}, which is no range",
                hint="Give the lower end first",
            )
        if option == WEIGHTS:
            entry.validate({option: [low, high]})
            continue
        for end in (low, high):
            entry.validate({option: round(end) if is_whole(entry, option) else end})
    entry.validate(dict(fixed))
    return entry


def is_whole(entry: Entry, option: str) -> bool:
    """Tell whether an option takes integers only."""
    field = entry.schema.model_fields.get(option)
    kinds = {field.annotation, *typing.get_args(field.annotation)} if field is not None else set()
    return int in kinds and float not in kinds


def genes_of(
    entry: Entry, ranges: Ranges, experts: tuple[str, ...], starts: Mapping[str, float]
) -> tuple[Gene, ...]:
    """Return one gene for every option, or one for every expert of ``weights``.

    Parameters
    ----------
    starts
        Where an option begins; the middle of its range if it is not there.
    """
    genes: list[Gene] = []
    for option, (low, high) in ranges.items():
        start = min(max(starts.get(option, (low + high) / 2), low), high)
        paths = [(option, name) for name in experts] if option == WEIGHTS else [(option,)]
        whole = is_whole(entry, option)
        genes += [Gene(path, start, low, high, whole=whole) for path in paths]
    return tuple(genes)
