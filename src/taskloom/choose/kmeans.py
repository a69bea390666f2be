"""k-means with k-means++ starts: the same groups for the same rows and seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taskloom.choose.checks import Floats, Ints


@dataclass(frozen=True, eq=False)
class Clusters:
    """Groups of rows.

    Attributes
    ----------
    groups
        ``(K,)`` in 0..G-1, numbered by the first row that is in each.
    centres
        ``(G, D)``.
    spread
        Sum of squared distances of rows from their centres.
    """

    groups: NDArray[np.int64]
    centres: Floats
    spread: float


def kmeans(rows: Floats, groups: int, *, seed: int, starts: int = 10, rounds: int = 300) -> Clusters:
    """Return the best of several runs of Lloyd's algorithm (1982) from k-means++ starts (Arthur, 2007).

    Every group has a row: one that would be left empty takes the row that is farthest from its centre.
    Fewer different rows than groups leave some groups with equal rows.

    Parameters
    ----------
    rows
        ``(K, D)``.
    groups
        From 1 to K.

    Examples
    --------
    >>> kmeans(np.array([[0.0], [9.0], [0.1], [9.1]]), 2, seed=0).groups.tolist()
    [0, 1, 0, 1]
    """
    random = np.random.default_rng(seed)
    found = [_run(rows, _start(rows, groups, random), rounds) for _ in range(starts)]
    return min(found, key=lambda each: each.spread)  # the first of equals


def distances(rows: Floats, centres: Floats) -> Floats:
    """Return ``(K, G)`` squared distances."""
    return np.stack([((rows - centre) ** 2).sum(1) for centre in centres], axis=1)


def _start(rows: Floats, groups: int, random: np.random.Generator) -> Floats:
    taken = [int(random.integers(len(rows)))]
    while len(taken) < groups:
        near = distances(rows, rows[taken]).min(1)
        near[taken] = 0.0
        rest = np.setdiff1d(np.arange(len(rows)), taken)
        total = near.sum()
        taken.append(int(random.choice(len(rows), p=near / total) if total > 0 else rest[0]))
    return rows[taken].copy()


def _run(rows: Floats, centres: Floats, rounds: int) -> Clusters:
    groups = np.full(len(rows), -1)
    for _ in range(rounds):
        apart = distances(rows, centres)
        before, groups = groups, apart.argmin(1)
        for empty in np.setdiff1d(np.arange(len(centres)), groups):
            alone = np.bincount(groups, minlength=len(centres))[groups] == 1
            reach = np.where(alone, -1.0, apart[np.arange(len(rows)), groups])
            groups[reach.argmax()] = empty
        if (groups == before).all():
            break
        centres = np.stack([rows[groups == g].mean(0) for g in range(len(centres))])
    _, first = np.unique(groups, return_index=True)
    order = np.argsort(first)
    renumbered: Ints = np.argsort(order)[groups]
    centres = np.stack([rows[renumbered == g].mean(0) for g in range(len(centres))])
    return Clusters(renumbered, centres, float(((rows - centres[renumbered]) ** 2).sum()))
