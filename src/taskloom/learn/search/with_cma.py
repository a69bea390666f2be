"""CMA-ES, by the package cma."""

from __future__ import annotations

from typing import Any

from taskloom.learn.search.drive import Candidate
from taskloom.learn.search.outside import Aside, library
from taskloom.learn.search.space import Space


class CmaEs:
    """Covariance matrix adaptation (Hansen and Ostermeier, 2001), a generation at a time.

    The start is measured first, which released searches leave out: so nothing worse than it is chosen.
    A number's standard deviation begins at ``sigma`` times the width of its range.

    Parameters
    ----------
    sigma
        Initial step.
    population
        Candidates of a generation; ``4 + floor(3 ln n)`` for n numbers if None.
    seed
        Of the draws.

    Raises
    ------
    MissingExtra
        cma is not installed.
    """

    def __init__(
        self, space: Space, *, sigma: float = 1 / 6, population: int | None = None, seed: int = 0
    ) -> None:
        cma = library("cma", purpose="evolution")
        self._space, self._aside = space, Aside(seed)
        told = {} if population is None else {"popsize": population}
        widths = [gene.width for gene in space.genes]
        with self._aside.here():
            # seed nan: the package draws from numpy's global generator as it is, which here is ours
            self._evolution: Any = cma.CMAEvolutionStrategy(
                space.start,
                sigma,
                {**told, "seed": float("nan"), "verbose": -9, "verb_log": 0, "CMA_stds": widths},
            )
        self._points: list[Any] = []
        self._losses: list[float] = []
        self._began = False

    def ask(self) -> Candidate | None:
        """Return the start, then generation after generation; None when CMA-ES has converged."""
        if not self._began:
            return self._space.decode(self._space.start)
        if len(self._losses) == len(self._points):
            with self._aside.here():
                if self._points:
                    self._evolution.tell(self._points, self._losses)
                if self._evolution.stop():
                    return None
                self._points, self._losses = list(self._evolution.ask()), []
        return self._space.decode(self._points[len(self._losses)])

    def tell(self, loss: float) -> None:
        """Hear the loss of the candidate that was asked for last."""
        if self._began:
            self._losses.append(loss)
        self._began = True

    def recommend(self) -> None:
        """Take the best that was measured."""
