"""Estimators held against the matrix: numbers from two files, without any model or data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.choose.agreement import (
    OverTargets,
    ndcg,
    over_targets,
    regret_at_k,
    spearman,
    weighted_tau,
)
from taskloom.choose.predictors import Known, mean_gain, ridge_gain, taskshop
from taskloom.errors import DataError, TaskloomError
from taskloom.runs.transfer.estimates import Estimates
from taskloom.runs.transfer.ledger import Matrix
from taskloom.runs.transfer.matrix import Grid, grid_of

Floats = NDArray[np.float64]
#: an order that is drawn: what every measure is expected to be then
RANDOM = "random"
#: what a column says of agreement; regret is lost accuracy by that of the best source, lower is better
MEASURES = ("weighted tau", "spearman", "ndcg", "regret@1", "regret@3", "regret@5")
#: estimator that looks at a source's embedding space map -> the one that runs the source itself
BY_MAPS = {"esm_logme": "logme", "esm_h_score(regularised=True)": "h_score(regularised=True)"}
REGRETS = {"regret@1": 1, "regret@3": 3, "regret@5": 5}


@dataclass(frozen=True)
class Standing:
    """One row of the leaderboard.

    Attributes
    ----------
    looks_at
        What it needs to be given.
    measures
        By name, mean over targets with its bootstrap interval; None where no target has one.
    by_target
        Measure -> target -> mean over seeds; None where it is undefined.
    missing
        Values that it lacks, of all sources, targets and seeds; they rank last.
    seconds
        Mean over targets, for all sources of one target; None where nothing was measured.
    """

    name: str
    looks_at: str
    measures: Mapping[str, OverTargets | None]
    by_target: Mapping[str, Mapping[str, float | None]]
    missing: int
    seconds: float | None


@dataclass(frozen=True)
class Truth:
    """What sources are really worth for a target: means over the seeds.

    Attributes
    ----------
    sources
        Names of the S that have a number in every seed.
    accuracy
        ``(S,)`` test accuracy.
    """

    target: str
    sources: tuple[str, ...]
    accuracy: Floats


def truths(grid: Grid) -> list[Truth]:
    """Return the truth of every target that two sources or more have a number on."""
    found = []
    accuracy = np.asarray(grid.test.mean(0))
    for t, target in enumerate(grid.targets):
        there = np.flatnonzero(~np.isnan(accuracy[:, t]))
        if len(there) > 1:
            names = tuple(grid.sources[s] for s in there)
            found.append(Truth(target, names, accuracy[there, t]))
    return found


#: (target, seed) -> source -> value; sources may be missing
Values = Mapping[tuple[str, int], Mapping[str, float]]


def standing(
    name: str,
    values: Values,
    truth: Sequence[Truth],
    *,
    looks_at: str = "",
    seconds: float | None = None,
) -> Standing:
    """Hold one estimator's values against the truth.

    For each seed's values an agreement with the truth, which is the mean of all seeds; then the mean
    over seeds, and over targets with a bootstrap of them. A source without a value ranks last.

    Parameters
    ----------
    values
        Of some targets and seeds.

    Raises
    ------
    DataError
        No target has both a truth and values.
    """
    by_target: dict[str, dict[str, float | None]] = {measure: {} for measure in MEASURES}
    missing, seen = 0, 0
    for one in truth:
        of_seeds: dict[str, list[float]] = {measure: [] for measure in MEASURES}
        own = [each for (target, _), each in values.items() if target == one.target]
        for each in own:
            scores, lacking = _scores(each, one.sources)
            missing += lacking
            seen += 1
            for measure, value in agreement(scores, one.accuracy).items():
                if value is not None:
                    of_seeds[measure].append(value)
        for measure, several in of_seeds.items():
            if own:
                by_target[measure][one.target] = mean(several) if several else None
    if not seen:
        raise DataError(
            f"{name}: expected values for some target of the matrix, found none",
            hint=f"Targets are: {', '.join(each.target for each in truth)}",
        )
    return Standing(
        name,
        looks_at,
        {measure: _summary(by_target[measure].values()) for measure in MEASURES},
        by_target,
        missing,
        seconds,
    )


def agreement(scores: Floats, accuracy: Floats) -> dict[str, float | None]:
    """Return every measure of one order against the truth; None where it is undefined.

    NDCG is that of TaskWeb, its gains by rank. Regret at k is the accuracy that is lost by trying only
    the k best by the scores, by the best accuracy of all.

    >>> found = agreement(np.array([3.0, 4.0, 1.0, 2.0]), np.array([0.8, 0.78, 0.7, 0.6]))
    >>> round(found["ndcg"], 6), round(found["regret@1"], 6)
    (0.855194, 0.025)
    """
    found: dict[str, float | None] = {
        "weighted tau": weighted_tau(scores, accuracy),
        "spearman": spearman(scores, accuracy),
        "ndcg": ndcg(scores, accuracy),
    }
    for measure, k in REGRETS.items():
        fits = k <= len(accuracy) and accuracy.max() > 0
        found[measure] = regret_at_k(scores, accuracy, k=k, relative=True) if fits else None
    return found


def by_chance(accuracy: Floats) -> dict[str, float | None]:
    """Return what every measure is expected to be of an order that is drawn.

    >>> found = by_chance(np.array([0.8, 0.6, 0.4]))
    >>> round(found["regret@1"], 6), found["spearman"]
    (0.25, 0.0)
    """
    n = len(accuracy)
    worth = 2.0 ** np.arange(n, 0, -1) - 1  # of the first, second, ... in truth
    discount = 1 / np.log2(np.arange(n) + 2)
    found: dict[str, float | None] = {"weighted tau": 0.0, "spearman": 0.0}
    found["ndcg"] = float(worth.mean() * discount.sum() / (worth @ discount))
    if (accuracy == accuracy[0]).all():
        found = dict.fromkeys(found)
    ordered = np.sort(accuracy)
    for measure, k in REGRETS.items():
        found[measure] = None
        if k <= n and ordered[-1] > 0:
            # the i-th smallest is the best of k in so many of all draws
            best = sum(ordered[i] * comb(i, k - 1) for i in range(k - 1, n)) / comb(n, k)
            found[measure] = float(1 - best / ordered[-1])
    return found


def chance(truth: Sequence[Truth]) -> Standing:
    """Return the row of an order that is drawn, in expectation."""
    found = {one.target: by_chance(one.accuracy) for one in truth}
    by_target = {m: {target: each[m] for target, each in found.items()} for m in MEASURES}
    summaries = {m: _summary(by_target[m].values()) for m in MEASURES}
    return Standing(RANDOM, "nothing", summaries, by_target, 0, 0.0)


def _scores(values: Mapping[str, float], sources: Sequence[str]) -> tuple[Floats, int]:
    """Return values in the order of the sources; those that are missing are below all others."""
    found = np.array([values.get(name, np.nan) for name in sources], dtype=np.float64)
    lacking = np.isnan(found)
    least = found[~lacking].min() if (~lacking).any() else 0.0
    found[lacking] = np.nextafter(least, -np.inf) if (~lacking).any() else 0.0
    return found, int(lacking.sum())


def _summary(values: Iterable[float | None]) -> OverTargets | None:
    several = list(values)
    return over_targets(several) if any(value is not None for value in several) else None


def values_of(estimates: Estimates, name: str) -> dict[tuple[str, int], dict[str, float]]:
    """Return the values of one estimator."""
    return {(r.target, r.seed): r.values for r in estimates.rows if r.estimator == name}


def leaderboard(
    matrix: Matrix,
    estimates: Estimates,
    *,
    way: str = "full",
    looks_at: Mapping[str, str] | None = None,
    more: Mapping[str, Values] | None = None,
) -> list[Standing]:
    """Hold all estimators, and predictors, against one way of transfer; the best weighted tau first.

    Predictors are given a target's column never, and the other targets' columns: leave one target out.

    Parameters
    ----------
    way
        Of transfer.
    looks_at
        Estimator -> what it needs, for readers.
    more
        Estimators of your own, by name.

    Raises
    ------
    DataError
        No rows of this way, or values that fit no target.
    """
    grid = grid_of(matrix, way)
    truth = [] if grid is None else truths(grid)
    if grid is None or not truth:
        raise DataError(
            f"the matrix has no target with two sources that were tried by {way!r} in every seed",
            hint="Measure it: taskloom transfer",
        )
    known = looks_at or {}
    found = [chance(truth)]
    for name in estimates.names:
        own = [row for row in estimates.rows if row.estimator == name]
        found.append(
            standing(
                name,
                values_of(estimates, name),
                truth,
                looks_at=known.get(name, ""),
                seconds=mean(row.seconds for row in own),
            )
        )
    for name, foreseen in predictions(grid, estimates).items():
        found.append(standing(name, foreseen, truth, looks_at=PREDICTORS[name]))
    for name, values in (more or {}).items():
        found.append(standing(name, values, truth, looks_at="as given"))
    return sorted(found, key=_rank)


def _rank(one: Standing) -> tuple[float, str]:
    tau = one.measures["weighted tau"]
    return (-tau.mean if tau is not None else float("inf"), one.name)


@dataclass(frozen=True)
class StandIn:
    """An estimator that looks at small maps of sources, beside the one that runs the sources.

    Attributes
    ----------
    name, full
        Of both.
    regret
        Measure -> regret by the maps, by the sources, and the first less the second; with bootstrap
        intervals over targets.
    seconds, full_seconds
        For all sources of one target, mean over targets: running the base once or every source, and the
        score.
    """

    name: str
    full: str
    regret: Mapping[str, tuple[OverTargets, OverTargets, OverTargets]]
    seconds: float
    full_seconds: float


def stand_ins(
    standings: Sequence[Standing], estimates: Estimates, pairs: Mapping[str, str]
) -> list[StandIn]:
    """Hold estimators by maps against those by the sources themselves.

    Parameters
    ----------
    pairs
        Estimator by maps -> by sources; pairs of which one is not on the board are left out.
    """
    known = {one.name: one for one in standings}
    run = {
        (target, int(seed)): value
        for seed, looked in estimates.seeds.items()
        for target, value in looked.run_seconds.items()
    }
    found = []
    for name, full in pairs.items():
        if name not in known or full not in known:
            continue
        regret = {}
        for measure in REGRETS:
            ours, theirs = (known[each].by_target[measure] for each in (name, full))
            both = [t for t in ours if ours[t] is not None and theirs.get(t) is not None]
            if both:
                a, b = ([each[t] for t in both] for each in (ours, theirs))
                less = [float(x or 0) - float(y or 0) for x, y in zip(a, b, strict=True)]
                regret[measure] = (over_targets(a), over_targets(b), over_targets(less))
        seconds = []
        for each, runs_sources in ((name, False), (full, True)):
            rows = [r for r in estimates.rows if r.estimator == each and (r.target, r.seed) in run]
            counts = [len(r.values) if runs_sources else 1 for r in rows]
            taken = [r.seconds + n * run[r.target, r.seed] for r, n in zip(rows, counts, strict=True)]
            seconds.append(mean(taken) if taken else float("nan"))
        found.append(StandIn(name, full, regret, seconds[0], seconds[1]))
    return found


# --- predictors ---------------------------------------------------------------------------------

#: predictor -> what it needs
PREDICTORS = {
    "mean_gain": "gains on other targets",
    "taskshop": "gains on other targets, and roe",
    "ridge_gain": "gains on other targets, and all scores",
}


def predictions(grid: Grid, estimates: Estimates) -> dict[str, dict[tuple[str, int], dict[str, float]]]:
    """Return what predictors say of every target from the other targets' columns; see `known_of`.

    A predictor that lacks what it needs of a target says nothing of it, and one that says nothing of
    any is left out.
    """
    rules: dict[str, Callable[[Known], Floats]] = {
        "mean_gain": mean_gain,
        "taskshop": taskshop,
        "ridge_gain": ridge_gain,
    }
    found: dict[str, dict[tuple[str, int], dict[str, float]]] = {}
    for name, rule in rules.items():
        values = {}
        for target in grid.targets:
            for seed in grid.seeds:
                known = known_of(grid, estimates, target, seed, likeness=name == "taskshop")
                if known is None:
                    continue
                try:
                    row = rule(known)
                except TaskloomError:
                    continue
                values[target, seed] = {
                    source: float(value)
                    for source, value in zip(grid.sources, row, strict=True)
                    if np.isfinite(value)
                }
        if any(values.values()):
            found[name] = {place: each for place, each in values.items() if each}
    return found


def known_of(
    grid: Grid, estimates: Estimates, target: str, seed: int, *, likeness: bool
) -> Known | None:
    """Return what is known without a target's column; None if it lacks likenesses that are asked for.

    Gains of all seeds are known of the other targets. Where the target is itself a source, its own
    column is left out, and not what it did as a source.
    """
    others = [t for t, name in enumerate(grid.targets) if name != target]
    if not others:
        return None
    sources, targets = list(grid.sources), [grid.targets[t] for t in others]
    row = estimates.by_place().get(("roe", target, seed))
    if likeness and row is None:
        return None
    like = np.zeros(len(sources)) if row is None else _filled([row.values.get(s) for s in sources])
    pivots = np.zeros(len(targets)) if row is None else _filled([row.pivots.get(t) for t in targets])
    scores, before = _scores_of(estimates, sources, target, targets, seed)
    change = grid.change[:, :, others]
    if np.isnan(change).all():
        return None
    return Known(change, like, pivots, scores, before)


def _filled(values: Sequence[float | None]) -> Floats:
    """Return numbers; what is missing, such as a target as a source of itself, counts as the mean."""
    known = [value for value in values if value is not None]
    middle = mean(known) if known else 0.0
    return np.array([middle if value is None else value for value in values], dtype=np.float64)


def _scores_of(
    estimates: Estimates, sources: Sequence[str], target: str, others: Sequence[str], seed: int
) -> tuple[Floats | None, Floats | None]:
    """Return values (E, S) and (E, S, P) of all estimators that know target and others."""
    rows, before = [], []
    places = estimates.by_place()
    for name in estimates.names:
        own = places.get((name, target, seed))
        theirs = [places.get((name, other, seed)) for other in others]
        if own is None or not own.values or any(each is None for each in theirs):
            continue
        rows.append(_column(own.values, sources))
        before.append(
            np.stack([_column(each.values, sources) for each in theirs if each is not None], axis=1)
        )
    if not rows:
        return None, None
    return np.stack(rows), np.stack(before)


def _column(values: Mapping[str, Any], sources: Sequence[str]) -> Floats:
    return np.array([values.get(name, np.nan) for name in sources], dtype=np.float64)
