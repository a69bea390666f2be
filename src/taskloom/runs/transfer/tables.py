"""What a matrix tells of sources: who helps, which traits go with it, and where forgetting hurts.

The questions of Pruksachatkun et al., "Intermediate-task transfer learning with pretrained language
models: when and why does it work?", ACL 2020: there 11 intermediate tasks, 10 targets and 25 probing
tasks of linguistic skills on RoBERTa; here the matrix's sources and targets, and as a probe what a head
on the source's frozen features reaches on each target, less what one on the base's does. What the source
lost there, its training made it forget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from taskloom.choose.agreement import OverTargets, over_targets, spearman, weighted_tau
from taskloom.choose.likeness import spearman_of
from taskloom.runs.transfer.ledger import Matrix, SourceFacts
from taskloom.runs.transfer.matrix import Grid, grid_of
from taskloom.runs.transfer.plan import BASE

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SourceRow:
    """One source over all targets, gains in accuracy.

    Attributes
    ----------
    gain
        Mean over targets with a bootstrap interval of them.
    above
        Share of targets and seeds above the base.
    best, worst
        Target and mean gain.
    """

    source: str
    gain: OverTargets
    above: float
    best: tuple[str, float]
    worst: tuple[str, float]


@dataclass(frozen=True)
class TraitRow:
    """How a trait of sources goes with their mean gain: Spearman, with a bootstrap over sources."""

    trait: str
    correlation: float
    low: float
    high: float
    sources: int


@dataclass(frozen=True)
class Forgetting:
    """Where sources lost what the base could read off its features.

    Attributes
    ----------
    cells
        Pairs of source and target with both numbers.
    correlation
        Spearman's, over the pairs, of the probe's change with the gain after fine-tuning; targets'
        means taken away.
    lost, lost_and_hurt
        Pairs in which the probe lost, and those of them that lose after fine-tuning, too.
    kept_and_hurt
        Pairs that lose after fine-tuning though the probe did not.
    worst
        (source, target, probe's change, gain), the most negative gains among those that forgot.
    """

    cells: int
    correlation: float | None
    lost: int
    lost_and_hurt: int
    kept_and_hurt: int
    worst: tuple[tuple[str, str, float, float], ...]


def source_rows(grid: Grid) -> list[SourceRow]:
    """Return the sources that have a number in every seed somewhere, the most helpful first."""
    found = []
    for s, source in enumerate(grid.sources):
        gains = {t: v for t, v in zip(grid.targets, grid.gain[s].tolist(), strict=True) if v == v}
        if not gains:
            continue
        runs = grid.gains[:, s, :]
        best, worst = max(gains, key=gains.__getitem__), min(gains, key=gains.__getitem__)
        found.append(
            SourceRow(
                source,
                over_targets(list(gains.values())),
                float((runs[~np.isnan(runs)] > 0).mean()),
                (best, gains[best]),
                (worst, gains[worst]),
            )
        )
    return sorted(found, key=lambda row: -row.gain.mean)


#: trait -> what it is of a source's facts
TRAITS: Mapping[str, Callable[[SourceFacts], float]] = {
    "examples it was trained on": lambda facts: facts.train,
    "classes": lambda facts: facts.classes,
    "accuracy of its expert on its own task": lambda facts: facts.after,
    "what training gained on its own task": lambda facts: facts.after - facts.before,
    "how far its weights moved": lambda facts: facts.moved,
}


def trait_rows(matrix: Matrix, grid: Grid, *, resamples: int = 2000, seed: int = 0) -> list[TraitRow]:
    """Return how traits of sources go with their mean gain; traits that are all equal are left out.

    Gains are centred within each target first, so that sources which were tried on easy targets are
    not favoured. With a dozen sources the intervals are wide, as they should be.
    """
    gains = _mean_gains(grid)
    traits = {name: _trait(matrix, rule) for name, rule in TRAITS.items()}
    probe = grid_of(matrix, "zero_shot")
    if probe is not None:
        traits["what a probe on its features lost or gained on targets"] = _mean_gains(probe)
    found = []
    for name, values in traits.items():
        both = [source for source in gains if source in values]
        x, y = (np.array([each[source] for source in both]) for each in (values, gains))
        value = spearman(x, y) if len(both) > 2 else None
        if value is None:
            continue
        random = np.random.default_rng(seed)
        draws = random.integers(0, len(both), size=(resamples, len(both)))
        drawn = [spearman_of(x[rows], y[rows]) for rows in draws if _differ(x[rows], y[rows])]
        low, high = np.percentile(drawn, [2.5, 97.5])
        found.append(TraitRow(name, value, float(low), float(high), len(both)))
    return found


def forgetting(matrix: Matrix, *, way: str = "full", most: int = 5) -> Forgetting | None:
    """Return where forgetting hurts; None without both a fine-tuning way and zero-shot rows."""
    tuned, probe = grid_of(matrix, way), grid_of(matrix, "zero_shot")
    if tuned is None or probe is None:
        return None
    gain, change = tuned.gain, probe.gain
    there = ~np.isnan(gain) & ~np.isnan(change)
    if not there.any():
        return None
    x, y = (_centred(each, there)[there] for each in (change, gain))
    lost, hurt = (change < 0) & there, (gain < 0) & there
    pairs = [
        (tuned.sources[s], tuned.targets[t], float(change[s, t]), float(gain[s, t]))
        for s, t in np.argwhere(lost & hurt)
    ]
    return Forgetting(
        int(there.sum()),
        spearman(x, y),
        int(lost.sum()),
        int((lost & hurt).sum()),
        int((hurt & ~lost).sum()),
        tuple(sorted(pairs, key=lambda pair: pair[3])[:most]),
    )


def ceiling(grid: Grid) -> OverTargets | None:
    """Return how well one seed's gains foresee another's: the weighted tau of pairs of seeds.

    What no estimator can be expected to pass by much: the truth itself is measured with noise.
    """
    found = []
    for t in range(len(grid.targets)):
        taus = []
        for a in range(len(grid.seeds)):
            for b in range(a):
                there = ~np.isnan(grid.test[a, :, t]) & ~np.isnan(grid.test[b, :, t])
                if there.sum() > 1:
                    taus.append(weighted_tau(grid.test[a, there, t], grid.test[b, there, t]))
        known = [tau for tau in taus if tau is not None]
        found.append(mean(known) if known else None)
    return over_targets(found) if any(value is not None for value in found) else None


def negative_share(grid: Grid) -> tuple[int, int, int]:
    """Return cells above the base by more than a standard error, below by more, and all.

    The error is that of a difference of two shares of the same n test examples, as if the two models
    erred independently: wider than it is, so that few cells count by chance.
    """
    gain = grid.gain
    there = ~np.isnan(gain)
    accuracy = np.clip(np.asarray(grid.test.mean(0)), 0, 1)
    n = np.maximum(grid.n_test, 1)[None, :] * len(grid.seeds)
    base = np.clip(grid.base, 0, 1)[None, :]
    error = np.sqrt(accuracy * (1 - accuracy) / n + base * (1 - base) / n)
    with np.errstate(invalid="ignore"):
        return int((gain > error).sum()), int((gain < -error).sum()), int(there.sum())


def _differ(*several: Floats) -> bool:
    return all(bool((each != each[0]).any()) for each in several)


def _trait(matrix: Matrix, rule: Callable[[SourceFacts], float]) -> dict[str, float]:
    if matrix.plan is None:
        return {}
    several: dict[str, list[float]] = {}
    for seeded in matrix.plan.lock.seeds.values():
        for source, facts in seeded.facts.items():
            several.setdefault(source, []).append(float(rule(facts)))
    return {source: mean(values) for source, values in several.items() if source != BASE}


def _mean_gains(grid: Grid) -> dict[str, float]:
    there = ~np.isnan(grid.gain)
    centred = _centred(grid.gain, there)
    return {
        source: float(centred[s, there[s]].mean())
        for s, source in enumerate(grid.sources)
        if there[s].any()
    }


def _centred(values: Floats, there: NDArray[np.bool_]) -> Floats:
    """Take each target's mean over sources away."""
    filled = np.where(there, values, 0.0)
    count = np.maximum(there.sum(0), 1)
    return np.asarray(values - (filled.sum(0) / count)[None, :])
