"""A first look at the experts: which are tried at all, ranked on the first rung's examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.choose.rank import DEFAULT_SCORES, ScoreSpec, rank
from taskloom.runs.auto.costs import Costs
from taskloom.runs.auto.making import as_it_is
from taskloom.runs.auto.portfolio import BASE, Member
from taskloom.runs.auto.purse import Purse
from taskloom.runs.auto.surety import surety
from taskloom.runs.auto.workbench import Workbench
from taskloom.runs.candidates import Candidate, singles
from taskloom.store.pool import Pool

#: share of the budget that looking at experts may take
SHARE = 0.25
#: scores that hold examples out class by class, and refuse a class of one
PAIRED = ("linear_probe",)


def base_member(pool: Pool) -> Member:
    """Return the base as a member."""
    return Member(BASE, "base", "Base", "", as_it_is(singles(pool)[0]))


def calibrate(bench: Workbench, purse: Purse, costs: Costs) -> None:
    """Run the base on two small lots; the second, with nothing done once, gives the price by example."""
    base = singles(bench.pool)[0]
    rows = np.concatenate([bench.ground.fit, bench.ground.search])
    first, second = np.array_split(np.unique(rows)[: 2 * _first(bench)], 2)

    def run(some: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, Any]:
        bench.readings.features(base, some)
        return {"examples": len(some)}

    warm = purse.pay(["warm up"], lambda: run(first))
    paced = purse.pay(["pace"], lambda: run(second))
    costs.pace = float(paced["seconds"]) / max(1, len(second))
    costs.learn(base_member(bench.pool), len(first), float(warm["seconds"]))


def look(bench: Workbench, purse: Purse, costs: Costs) -> tuple[list[str], list[str]]:
    """Rank the experts on the smallest lot.

    With labels by the scores of ``taskloom select`` at its defaults, the places of an expert added up;
    those of `PAIRED` are left out where a class has one label among the rows that are looked at.
    Without by `surety` under the head that was given. Experts are run in pool order until a quarter of
    the budget is gone.

    Returns
    -------
    tuple
        Names, the most promising first; names of experts that there was no time to look at.
    """
    experts = [
        replace(each, name=e.name) for each, e in zip(singles(bench.pool)[1:], bench.pool, strict=True)
    ]
    if len(experts) == 1:
        return [experts[0].name], []
    rows = bench.ground.fit[: _first(bench)]
    seen: list[Candidate] = []
    for expert in experts:
        thought = costs.predict(base_member(bench.pool), len(rows))
        enough = purse.choose(["look", expert.name], partial(_may, purse, thought, len(seen)))
        if not enough:
            break
        purse.pay(["look", expert.name], partial(_run, bench, expert, rows))
        seen.append(expert)
    step = purse.pay(
        ["rank", [each.name for each in seen]], lambda: {"ranked": _ranked(bench, seen, rows)}
    )
    return list(step["ranked"]), [each.name for each in experts[len(seen) :]]


def _may(purse: Purse, seconds: float, seen: int) -> bool:
    return seen == 0 or purse.spent + seconds <= SHARE * purse.seconds


def _run(bench: Workbench, expert: Candidate, rows: Any) -> dict[str, Any]:
    bench.readings.features(expert, rows)
    return {}


def _ranked(bench: Workbench, experts: Sequence[Candidate], rows: Any) -> list[str]:
    features = {each.name: bench.readings.features(each, rows) for each in experts}
    if len(experts) == 1:
        return list(features)
    head = bench.ground.head
    if head is not None:
        values = {name: surety(head.probabilities(own)) for name, own in features.items()}
        return sorted(values, key=values.__getitem__, reverse=True)
    places = dict.fromkeys(features, 0)
    labels = bench.ground.examples.labels[rows]
    for ranking in rank(features, labels, usable(DEFAULT_SCORES, labels)[0]):
        for entry in ranking.entries:
            places[entry.expert] += entry.rank
    return sorted(places, key=places.__getitem__)


def usable(
    scores: Sequence[ScoreSpec], labels: NDArray[np.int64]
) -> tuple[list[ScoreSpec], tuple[str, ...]]:
    """Return the scores that labels are enough for, and the names of those that are left out.

    Parameters
    ----------
    scores
        As of `taskloom.choose.rank.rank`.
    labels
        (N,). Where a class has one label, the scores of `PAIRED` are left out.

    Examples
    --------
    >>> usable(["logme", "linear_probe"], np.array([0, 1, 1]))
    (['logme'], ('linear_probe',))
    """
    if np.unique(labels, return_counts=True)[1].min() > 1:
        return list(scores), ()
    named = [(each if isinstance(each, str) else each[0], each) for each in scores]
    return [each for name, each in named if name not in PAIRED], tuple(
        name for name, _ in named if name in PAIRED
    )


def left_out(bench: Workbench) -> tuple[str, ...]:
    """Return the scores that the first look did without, for want of two labels in every class."""
    if bench.ground.head is not None or len(bench.pool) == 1:
        return ()
    rows = bench.ground.fit[: _first(bench)]
    return usable(DEFAULT_SCORES, bench.ground.examples.labels[rows])[1]


def _first(bench: Workbench) -> int:
    """Return how many rows to fit on the smallest lot has."""
    return int(np.ceil(bench.ground.least * len(bench.ground.fit)))
