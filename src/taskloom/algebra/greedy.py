"""The order in which a greedy soup is tasted: which names, not which weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tasting:
    """What was tasted and what was kept.

    Attributes
    ----------
    chosen
        Names in the order in which they went in.
    score
        Of the chosen ones together.
    singles
        Score of every name alone, best first; of equals, in the order given.
    tried
        (name, score with it, whether it was kept) after the best one.
    """

    chosen: tuple[str, ...]
    score: float
    singles: Mapping[str, float]
    tried: tuple[tuple[str, float, bool], ...]


def taste_greedily(
    names: Sequence[str], taste: Callable[[tuple[str, ...]], float], *, ties: bool = True
) -> Tasting:
    """Taste every name alone, then take in the others, the best first, where the score does not fall.

    Wortsman et al., Model soups, ICML 2022, recipe 1. Released code takes them in where it rises
    (``ties=False``).

    Parameters
    ----------
    taste
        Score of some names together, higher is better; asked for each set once.

    Examples
    --------
    >>> values = {"a": 1.0, "b": 3.0, "c": 9.0}
    >>> found = taste_greedily(list(values), lambda s: -abs(sum(values[n] for n in s) / len(s) - 4))
    >>> found.chosen, found.score, found.tried
    (('b',), -1.0, (('a', -2.0, False), ('c', -2.0, False)))
    """
    alone = {name: taste((name,)) for name in names}
    order = sorted(names, key=lambda name: -alone[name])
    chosen: tuple[str, ...] = (order[0],)
    best, tried = alone[order[0]], []
    for name in order[1:]:
        score = taste((*chosen, name))
        kept = score > best or (ties and score == best)
        tried.append((name, score, kept))
        if kept:
            chosen, best = (*chosen, name), score
    return Tasting(chosen, best, {name: alone[name] for name in order}, tuple(tried))
