"""Rank correlation of two ways of saying which examples are alike, over all pairs of examples.

A dissimilarity is 1 minus the Pearson correlation of two rows. n examples have n (n - 1) / 2 pairs, so
many examples are drawn from rather than compared in full: see `mean_over_draws`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from taskloom.choose.checks import Floats, Ints
from taskloom.choose.classes import members
from taskloom.choose.pca import reduce
from taskloom.errors import DataError, NumericalError


def standardised(score: str, matrix: Floats, components: int | None) -> Floats:
    """Return rows of length 1 whose inner products are correlations: reduced, standardised, centred.

    Parameters
    ----------
    score
        Name of the score, for messages.
    matrix
        ``(n, D)``.
    components
        Principal components it is reduced to where it has more columns; None: never.

    Raises
    ------
    NumericalError
        A row that is constant once its columns are standardised: its correlations are undefined.
    """
    reduced = reduce(matrix, components)
    scale = reduced.std(0)
    scale[scale <= 1e-12 * np.maximum(np.abs(reduced.mean(0)), 1.0)] = 1.0
    rows = (reduced - reduced.mean(0)) / scale
    rows -= rows.mean(1, keepdims=True)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if (norms <= 1e-12).any():
        raise NumericalError(
            f"{score}: expected features that differ within each example, found none in row "
            f"{int(norms.argmin())} of {rows.shape[1]} standardised columns",
            hint="Use a model of more dimensions, or more components",
        )
    unit: Floats = rows / norms
    return unit


def dissimilarities(unit: Floats) -> Floats:
    """Return ``(n (n - 1) / 2,)`` dissimilarities of all pairs i < j, in the order of i, then j.

    They are rounded to 12 decimals, so that pairs which are equally unlike stay so.
    """
    n = len(unit)
    found = np.empty(n * (n - 1) // 2)
    block = max(1, 2**22 // n)
    place = 0
    for start in range(0, n, block):
        correlations = unit[start : start + block] @ unit.T
        for i, row in enumerate(correlations, start=start):
            found[place : place + n - 1 - i] = row[i + 1 :]
            place += n - 1 - i
    np.subtract(1.0, found, out=found)
    return np.round(found, 12, out=found)


def against_classes(score: str, unit: Floats, indices: Ints, counts: Ints) -> float:
    """Return Spearman's correlation of the rows' dissimilarity with that of their classes.

    Two examples of different classes are equally unlike whichever the classes are, so the classes have
    two values only, and the correlation follows from the ranks of the pairs within classes.

    Raises
    ------
    DataError
        No class has two examples: then all pairs are alike.
    """
    order = np.concatenate(members(indices, counts))
    ends = np.repeat(np.cumsum(counts), counts)  # one past the last example of an example's class
    n = len(order)
    found = dissimilarities(unit[order])
    starts = np.cumsum(np.arange(n - 1, -1, -1)) - np.arange(n - 1, -1, -1)
    inside = [found[starts[i] : starts[i] + ends[i] - 1 - i] for i in range(n)]
    same = np.sort(np.concatenate(inside))
    pairs, within = len(found), len(same)
    if not within:
        raise DataError(
            f"{score}: expected two examples or more of some class, found one of each",
            hint="Label more examples",
        )
    found.sort()
    ranks = (np.searchsorted(found, same, "left") + np.searchsorted(found, same, "right") + 1) / 2
    deviation = rank_deviation(found)
    if deviation == 0:
        raise NumericalError(
            f"{score}: expected examples of different likeness, found all equally alike",
            hint="Check that the model tells its inputs apart",
        )
    lower = (pairs + 1) / 2 - ranks.mean()
    return float(lower / deviation * np.sqrt(within / (pairs - within)))


def spearman_of(first: Floats, second: Floats) -> float:
    """Return Spearman's correlation of two vectors, ties at their average rank."""
    a, b = average_ranks(first), average_ranks(second)
    a -= a.mean()
    b -= b.mean()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def average_ranks(values: Floats) -> Floats:
    """Return ranks from 1 on; equal values share the mean of theirs.

    >>> average_ranks(np.array([3.0, 1.0, 3.0]))
    array([2.5, 1. , 2.5])
    """
    ordered = np.sort(values)
    left, right = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    ranks: Floats = (left + right + 1) / 2
    return ranks


def rank_deviation(ordered: Floats) -> float:
    """Return the standard deviation (over n) of the average ranks of sorted values."""
    n = len(ordered)
    edges = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1], [True]]))
    ties = np.diff(edges).astype(np.float64)
    return float(np.sqrt(max((n * n - 1) / 12 - (ties**3 - ties).sum() / (12 * n), 0.0)))


def mean_over_draws(
    value: Callable[[Ints], float], n: int, *, most: int, draws: int, seed: int
) -> tuple[float, float]:
    """Return the mean of ``value`` over draws of ``most`` of n examples, and its standard error.

    With n at most ``most`` there is one draw, of all examples, and the error is 0. Draws are
    independent, each without replacement; the error says how far their mean would move with others.

    Parameters
    ----------
    value
        Rows, ascending -> number.
    n, most, draws, seed
        Numbers of examples, of examples in a draw and of draws; and the draws' seed.
    """
    if n <= most:
        return value(np.arange(n)), 0.0
    random = [np.random.default_rng([seed % 2**32, draw]) for draw in range(draws)]
    found = [value(np.sort(each.choice(n, most, replace=False))) for each in random]
    error = float(np.std(found, ddof=1) / np.sqrt(draws)) if draws > 1 else float("inf")
    return float(np.mean(found)), error
