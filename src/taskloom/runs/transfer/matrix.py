"""Rows as arrays: how much each source helps each target, over the base."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taskloom.runs.transfer.ledger import Matrix
from taskloom.runs.transfer.plan import BASE

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Grid:
    """One way of transfer.

    Attributes
    ----------
    sources, targets, seeds
        S, T and K names or numbers.
    test
        ``(K, S, T)`` accuracy from each source; NaN where there is none: a pair that is no cell, one
        that failed, or one that is not measured yet.
    alone
        ``(K, T)`` accuracy from the base; NaN likewise.
    n_test
        ``(T,)`` test examples of each target; 0 where nothing is measured.
    """

    way: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    seeds: tuple[int, ...]
    test: Floats
    alone: Floats
    n_test: NDArray[np.int64]

    @property
    def gains(self) -> Floats:
        """``(K, S, T)`` accuracy from the source less that from the base."""
        return self.test - self.alone[:, None, :]

    @property
    def gain(self) -> Floats:
        """``(S, T)`` means of the gains over the seeds; NaN unless every seed has one."""
        return np.asarray(self.gains.mean(0))

    @property
    def base(self) -> Floats:
        """``(T,)`` mean accuracy from the base."""
        return np.asarray(self.alone.mean(0))

    @property
    def change(self) -> Floats:
        """``(K, S, T)`` relative gains: accuracy from the source by that from the base, less 1."""
        with np.errstate(divide="ignore", invalid="ignore"):
            found = self.gains / np.where(self.alone > 0, self.alone, np.nan)[:, None, :]
        return np.asarray(found)


def grids(matrix: Matrix) -> list[Grid]:
    """Return a grid for each way that has rows, in the plan's order; seeds without any row left out."""
    plan = matrix.plan
    if plan is None:
        return []
    found = []
    for way in plan.ways:
        rows = [row for row in matrix.rows if row.way == way and row.test is not None]
        seeds = sorted({row.seed for row in rows})
        if not seeds:
            continue
        test = np.full((len(seeds), len(plan.sources), len(plan.targets)), np.nan)
        alone = np.full((len(seeds), len(plan.targets)), np.nan)
        n_test = np.zeros(len(plan.targets), dtype=np.int64)
        for row in rows:
            k, t = seeds.index(row.seed), plan.targets.index(row.target)
            n_test[t] = row.n_test or 0
            if row.source == BASE:
                alone[k, t] = row.test
            else:
                test[k, plan.sources.index(row.source), t] = row.test
        found.append(
            Grid(way, tuple(plan.sources), tuple(plan.targets), tuple(seeds), test, alone, n_test)
        )
    return found


def grid_of(matrix: Matrix, way: str) -> Grid | None:
    """Return the grid of one way, or None if it has no rows."""
    return next((grid for grid in grids(matrix) if grid.way == way), None)
