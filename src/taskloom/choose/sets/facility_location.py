"""Facility location: the few candidates that stand for all of them best."""

from __future__ import annotations

import heapq
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from taskloom.choose.checks import Floats
from taskloom.choose.set_choice import SetChoice, checked_size, checked_square
from taskloom.registry import register


@register(
    "set",
    paper="Nemhauser, Wolsey and Fisher, 1978; lazy greedy: Minoux, 1978; used by BenTo (2410.13804)",
)
def facility_location(similarity: ArrayLike, *, size: Annotated[int, Field(ge=1)] = 4) -> SetChoice:
    """Take candidates one by one so that every candidate has one like it among those taken.

    Maximises ``f(S) = sum over i of max over j in S of s_ij``, greedily: f is monotone and submodular,
    so that the greedy set reaches at least 1 - 1/e (63 %) of the best of its size. The note says what no
    set of that size can exceed, from the gains that are left: often much nearer. Gains are looked up
    lazily, which takes the same candidates as looking at all of them each time. Of equal gains the first
    candidate's wins.

    Parameters
    ----------
    similarity
        ``(K, K)`` symmetric; what is below 0 counts as 0, that is, as standing for nothing.
    size
        How many to take.

    Raises
    ------
    DataError
        No square, no symmetry, or a size that does not fit.
    NumericalError
        NaN or infinity.

    Examples
    --------
    >>> alike = [[1, 0.8, 0.1, 0.2], [0.8, 1, 0.2, 0.1], [0.1, 0.2, 1, 0.7], [0.2, 0.1, 0.7, 1]]
    >>> found = facility_location(alike, size=2)
    >>> found.chosen, [round(value, 6) for value in found.values], found.groups
    ((0, 2), [2.1, 1.4], (0, 0, 1, 1))
    """
    table = np.maximum(checked_square("facility_location", "similarity", similarity), 0.0)
    return located(table, checked_size("facility_location", size, len(table)))


def located(table: Floats, size: int) -> SetChoice:
    """Return the lazy greedy set of a nonnegative ``(K, K)`` table."""
    cover = np.zeros(len(table))
    waiting = [(-float(table[:, j].sum()), j, 0) for j in range(len(table))]
    heapq.heapify(waiting)
    chosen: list[int] = []
    values: list[float] = []
    while len(chosen) < size:
        gain, j, when = heapq.heappop(waiting)
        if when < len(chosen):  # gains only shrink: what still leads when looked up again, leads
            heapq.heappush(waiting, (-_gain(table, cover, j), j, len(chosen)))
            continue
        chosen.append(j)
        values.append(-gain)
        cover = np.maximum(cover, table[:, j])
    reached = float(cover.sum())
    most = min(upper_bound(table, cover, size), float(table.max(1).sum()))
    stands = table[:, chosen].argmax(1)
    stands[chosen] = np.arange(size)
    reasons = [
        "taken" if i in chosen else f"like {{{chosen[g]}}} ({table[i, chosen[g]]:.3f})"
        for i, g in enumerate(stands)
    ]
    share = 100 * reached / most if most else 100.0
    note = (
        f"the set covers {reached:.6g}; no set of {size} covers more than {most:.6g}, so this one is "
        f"at least {share:.1f} % of the best"
    )
    return SetChoice(
        tuple(chosen), tuple(values), tuple(int(g) for g in stands), None, tuple(reasons), note
    )


def upper_bound(table: Floats, cover: Floats, size: int) -> float:
    """Return what no set of ``size`` can exceed: what is covered, and the largest gains left."""
    left = sorted((_gain(table, cover, j) for j in range(len(table))), reverse=True)
    return float(cover.sum() + sum(left[:size]))


def _gain(table: Floats, cover: Floats, j: int) -> float:
    return float(np.maximum(table[:, j] - cover, 0.0).sum())
