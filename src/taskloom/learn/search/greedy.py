"""The greedy soup as a search: experts alone, then soups with one expert more."""

from __future__ import annotations

from collections.abc import Sequence

from taskloom.algebra.greedy import Tasting, taste_greedily
from taskloom.learn.search.drive import Candidate


class _Wanted(Exception):
    """A set of experts that has not been tasted yet."""


class GreedySoup:
    """Asks for what `taste_greedily` would taste next, given what it has been told.

    Stopped early it recommends the best expert so far, or the soup so far.

    Parameters
    ----------
    names
        Experts, in pool order.
    ties
        Take in an expert that leaves the loss as it is.
    """

    def __init__(self, names: Sequence[str], *, ties: bool = True) -> None:
        self._names, self._ties = tuple(names), ties
        self._told: dict[tuple[str, ...], float] = {}
        self._asked: tuple[str, ...] = ()

    def ask(self) -> Candidate | None:
        """Return the next soup, None when every expert had its turn."""
        try:
            self._taste()
        except _Wanted as wanted:
            self._asked = wanted.args[0]
            return {"ingredients": list(self._asked)}
        return None

    def tell(self, loss: float) -> None:
        """Hear the loss of the soup that was asked for last."""
        self._told[self._asked] = -loss

    def recommend(self) -> Candidate:
        """Return the soup that was chosen, of what has been tasted."""
        known = [name for name in self._names if (name,) in self._told]
        tasted = taste_greedily(known, lambda s: self._told.get(s, -float("inf")), ties=self._ties)
        return {"ingredients": list(tasted.chosen)}

    def _taste(self) -> Tasting:
        def remembered(names: tuple[str, ...]) -> float:
            if names not in self._told:
                raise _Wanted(names)
            return self._told[names]

        return taste_greedily(self._names, remembered, ties=self._ties)
