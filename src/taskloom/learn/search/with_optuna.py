"""Bayesian search, by the package optuna."""

from __future__ import annotations

from typing import Any

from taskloom.learn.search.drive import Candidate
from taskloom.learn.search.outside import Aside, library
from taskloom.learn.search.space import Space


class Tpe:
    """Optuna's tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011), the start first.

    Parameters
    ----------
    space
        Every number in it has two ends.
    seed
        Of the draws; the first ten candidates are drawn at random, as is optuna's default.

    Raises
    ------
    MissingExtra
        optuna is not installed.
    """

    def __init__(self, space: Space, *, seed: int = 0) -> None:
        optuna = library("optuna", purpose="Bayesian search")
        self._space, self._aside = space, Aside(seed)
        self._logging = optuna.logging
        self._ranges = {
            gene.name: optuna.distributions.FloatDistribution(gene.low, gene.high)
            for gene in space.genes
        }
        with self._aside.here(), _quiet(optuna.logging):
            self._study: Any = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
            self._study.enqueue_trial(dict(zip(self._ranges, space.start, strict=True)))
        self._trial: Any = None

    def ask(self) -> Candidate:
        """Return the next candidate."""
        with self._aside.here(), _quiet(self._logging):
            self._trial = self._study.ask(self._ranges)
        return self._space.decode([self._trial.params[name] for name in self._ranges])

    def tell(self, loss: float) -> None:
        """Hear the loss of the candidate that was asked for last."""
        with self._aside.here(), _quiet(self._logging):
            self._study.tell(self._trial, loss)

    def recommend(self) -> None:
        """Take the best that was measured."""


class _quiet:  # noqa: N801
    """Silence optuna's logger for a block, and only for it."""

    def __init__(self, logging: Any) -> None:
        self._logging = logging
        self._before = logging.WARNING

    def __enter__(self) -> None:
        self._before = self._logging.get_verbosity()
        self._logging.set_verbosity(self._logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self._logging.set_verbosity(self._before)
