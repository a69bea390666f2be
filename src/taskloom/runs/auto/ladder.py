"""Successive halving: how many members are tried on which share of the examples, rung by rung."""

from __future__ import annotations

from dataclasses import dataclass

#: one in so many goes on; what Li et al. (2018, section 2.6) recommend, with 4
ETA = 3


@dataclass(frozen=True)
class Rung:
    """One rung.

    Attributes
    ----------
    number
        From 0.
    share
        Of the examples that members are fitted and scored on, in (0, 1].
    count
        Members that are tried.
    """

    number: int
    share: float
    count: int


def ladder(count: int, halvings: int, *, eta: int = ETA, most: float = 1.0) -> tuple[Rung, ...]:
    """Return the rungs of one bracket: ``n_i = floor(n eta^-i)`` members on ``r_i = R eta^(i - s)``.

    Bracket s of Hyperband (Li et al., JMLR 2018, algorithm 1, lines 4 to 9), which is successive halving
    (Jamieson and Talwalkar, AISTATS 2016) with the resource growing as the field shrinks. Hyperband
    draws as many members as a bracket can take; here they are given, and never fewer than 1 is tried.

    Parameters
    ----------
    count
        n, members at the start.
    halvings
        s, rungs above the first.
    most
        R, the share of the last rung.

    Examples
    --------
    >>> [(rung.count, round(rung.share, 2)) for rung in ladder(20, 2)]
    [(20, 0.11), (6, 0.33), (2, 1.0)]
    """
    return tuple(
        Rung(number, most * float(eta) ** (number - halvings), max(1, count // eta**number))
        for number in range(halvings + 1)
    )


def most_halvings(count: int, least: float, *, eta: int = ETA) -> int:
    """Return the largest s whose first rung has ``least`` of the examples and whose last has a member.

    ``s = floor(log_eta(min(n, 1 / least)))``, as Hyperband's s_max.

    >>> most_halvings(20, 0.05), most_halvings(20, 0.5), most_halvings(2, 0.01)
    (2, 0, 0)
    """
    halvings = 0
    while eta ** (halvings + 1) <= count and least * eta ** (halvings + 1) <= 1:
        halvings += 1
    return halvings


def kept(count: int, rungs: tuple[Rung, ...], number: int) -> int:
    """Return how many of ``count`` members go from rung ``number`` to the next.

    >>> kept(5, ladder(20, 2), 0), kept(20, ladder(20, 2), 0)
    (5, 6)
    """
    return min(count, rungs[number + 1].count)
