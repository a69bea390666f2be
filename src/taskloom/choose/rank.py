"""Rank the experts of a pool for one target by transferability scores."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from taskloom.choose.supplies import fill
from taskloom.errors import DataError, NumericalError
from taskloom.progress import Progress, silent
from taskloom.registry import Entry, get

#: a registered score's name, alone or with options
ScoreSpec = str | tuple[str, Mapping[str, Any]]


#: what is asked when nobody says: with few labels the plain H-score tends to C - 1 for every expert
DEFAULT_SCORES: tuple[ScoreSpec, ...] = (
    ("h_score", {"regularised": True}),
    "logme",
    "linear_probe",
    "knn",
)


@dataclass(frozen=True)
class Ranked:
    """One expert's place: ``rank`` 1 is best; places are distinct even when values are equal."""

    expert: str
    value: float
    rank: int


@dataclass(frozen=True)
class Ranking:
    """All experts by one score, best first.

    Attributes
    ----------
    score
        Registered name of the score.
    entries
        Best first; experts with equal values stay in pool order.
    seconds
        Wall time of scoring all experts; extracting the features is not in it.
    options
        Options the score was called with, beyond its defaults.
    """

    score: str
    entries: tuple[Ranked, ...]
    seconds: float
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def best(self) -> str:
        """Name of the expert ranked first."""
        return self.entries[0].expert

    def values(self, experts: Sequence[str]) -> list[float]:
        """Return the score of each named expert, in the order of the names."""
        found = {entry.expert: entry.value for entry in self.entries}
        return [found[expert] for expert in experts]


def rank(
    features_by_expert: Mapping[str, ArrayLike],
    labels: ArrayLike,
    scores: Sequence[ScoreSpec],
    *,
    supplies: Mapping[str, Mapping[str, ArrayLike]] | None = None,
    progress: Progress = silent,
) -> list[Ranking]:
    """Score every expert with every score; one `Ranking` per score, in the order given.

    Parameters
    ----------
    features_by_expert
        Expert name -> ``(N, D)`` features of the same N target examples, in pool order.
    labels
        ``(N,)`` integers.
    scores
        Registered names, or ``(name, options)``.
    supplies
        Expert name -> what scores look at beside features and labels, by the name of the argument, such
        as ``source_probabilities``; see `taskloom.choose.supplies`. What no score asks for is ignored.
    progress
        Told after every expert and score.

    Raises
    ------
    UnknownName, PlanError
        A score that is not registered, or an option it does not have.
    DataError
        No experts or no scores; or data that a score refuses or misses (the message names the expert).
    NumericalError
        Features a score refuses, or a value that is not finite (the message names the expert).

    Examples
    --------
    >>> good, bad = [[0, 0], [0, 1], [9, 0], [9, 1]], [[0, 1], [9, 0], [0, 0], [9, 1]]
    >>> rank({"bad": bad, "good": good}, [0, 0, 1, 1], ["knn"])[0].best
    'good'
    """
    if not features_by_expert or not scores:
        raise DataError(
            f"rank: expected at least one expert and one score, found "
            f"{len(features_by_expert)} and {len(scores)}",
            hint="Name the experts and scores to compare",
        )
    resolved = [resolve(spec) for spec in scores]
    beside = supplies or {}
    total = len(resolved) * len(features_by_expert)
    rankings: list[Ranking] = []
    for entry, options in resolved:
        started = time.perf_counter()
        values: dict[str, float] = {}
        for expert, features in features_by_expert.items():
            values[expert] = _value(entry, options, expert, features, labels, beside.get(expert, {}))
            progress("rank experts", len(rankings) * len(features_by_expert) + len(values), total)
        order = sorted(values, key=values.__getitem__, reverse=True)  # reverse keeps ties in order
        ranked = tuple(Ranked(e, values[e], place) for place, e in enumerate(order, start=1))
        seconds = time.perf_counter() - started
        rankings.append(Ranking(entry.name, ranked, seconds, tuple(sorted(options.items()))))
    return rankings


def resolve(spec: ScoreSpec) -> tuple[Entry, dict[str, Any]]:
    """Return a score's entry and its checked options.

    Raises
    ------
    UnknownName, PlanError
        A score that is not registered, or an option it does not have.
    """
    name, options = (spec, {}) if isinstance(spec, str) else spec
    entry = get("score", name)
    return entry, entry.validate(options)


def _value(
    entry: Entry,
    options: Mapping[str, Any],
    expert: str,
    features: ArrayLike,
    labels: ArrayLike,
    beside: Mapping[str, ArrayLike],
) -> float:
    try:
        value = float(entry.function(features, labels, *fill(entry, beside), **options))
    except (DataError, NumericalError) as error:
        raise type(error)(f"expert {expert!r}: {error}") from error
    if not np.isfinite(value):
        raise NumericalError(
            f"expert {expert!r}: {entry.name} expected a finite value, found {value}",
            hint="Check the features",
        )
    return value
