"""Gram matrix and class sums of features that are read in blocks: no copy of all rows is made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.choose.checks import Floats, Ints, refuse_degenerate
from taskloom.errors import NumericalError

#: numbers that are held in double precision at a time: 32 MB
BLOCK = 2**22


@dataclass(frozen=True, eq=False)
class Moments:
    """What many scores need of features, whatever their number.

    Attributes
    ----------
    n
        Number of rows.
    mean
        ``(D,)`` of all rows.
    gram
        ``(D, D)`` sum of the outer products of all rows, less their mean if they were centred.
    sums
        ``(C, D)`` sums of the rows of each class, likewise.
    """

    n: int
    mean: Floats
    gram: Floats
    sums: Floats


def moments(
    score: str,
    features: NDArray[Any],
    indices: Ints,
    counts: Ints,
    *,
    centred: bool,
    block: int = BLOCK,
) -> Moments:
    """Read features once, in double precision and in blocks, and add up what `Moments` holds.

    For centred sums every row is taken less the mean of the first block, and the rest is taken away at
    the end. That mean is off by so little that at most log10(blocks) digits are lost, however far the
    features lie from the origin.

    Parameters
    ----------
    score
        Name of the score, for messages.
    features
        ``(N, D)``, any kind of number, also mapped from a file.
    indices, counts
        ``(N,)`` in 0..C-1, every class at least once, and ``(C,)`` class sizes.
    centred
        Take the mean of all rows from each.
    block
        Numbers that are held in double precision at a time.

    Raises
    ------
    NumericalError
        NaN, infinity, numbers whose squares are no numbers, or features without any variation.

    Examples
    --------
    >>> rows, classes = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([1, 0, 1])
    >>> found = moments("example", rows, classes, np.array([1, 2]), centred=True)
    >>> found.gram.tolist(), found.sums.tolist()
    ([[8.0, 8.0], [8.0, 8.0]], [[0.0, 0.0], [0.0, 0.0]])
    """
    n, d = features.shape
    gram, sums = np.zeros((d, d)), np.zeros((len(counts), d))
    shift: Floats | None = None
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused below
        for rows, classes in _sorted_blocks(features, indices, block):
            if centred:
                shift = rows.mean(0) if shift is None else shift
                rows -= shift
            gram += rows.T @ rows  # of one matrix with itself: half of the products
            _add_by_class(sums, rows, classes)
        off = sums.sum(0) / n
        if centred:
            gram -= n * np.outer(off, off)
            sums -= counts[:, None] * off
    overflown = not np.isfinite(np.trace(gram))
    if overflown or (features[0] == features[-1]).all():
        refuse_degenerate(score, features)
    if overflown:
        raise NumericalError(
            f"{score}: expected features whose squares are finite, found {np.abs(features).max():g}",
            hint="Scale the features down",
        )
    return Moments(n, off if shift is None else off + shift, gram, sums)


def squared_lengths(features: NDArray[Any], mean: Floats, *, block: int = BLOCK) -> Floats:
    """Return the squared distance ``(N,)`` of every row from ``mean`` (D,), reading in blocks."""
    found = np.empty(len(features))
    for first, part in blocks(features, block):
        rows = part - mean
        found[first : first + len(rows)] = np.einsum("nd,nd->n", rows, rows)
    return found


def blocks(features: NDArray[Any], block: int = BLOCK) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield the number of the first row and the rows of every block, as they are stored."""
    size = _rows_of(features, block)
    for first in range(0, len(features), size):
        yield first, features[first : first + size]


def _rows_of(features: NDArray[Any], block: int) -> int:
    return max(1, block // int(features.shape[1]))


def _sorted_blocks(features: NDArray[Any], indices: Ints, block: int) -> Iterator[tuple[Floats, Ints]]:
    """Yield rows in float64 and their classes, sorted by class within each block.

    All blocks are written to the same place: use one before asking for the next.
    """
    size = min(_rows_of(features, block), len(features))
    place = np.empty((size, features.shape[1]))
    taken = place if features.dtype == place.dtype else np.empty(place.shape, dtype=features.dtype)
    for first in range(0, len(features), size):
        classes = indices[first : first + size]
        order = np.argsort(classes, kind="stable")
        part = features[first : first + size]
        np.take(part, order, axis=0, out=taken[: len(part)], mode="clip")
        rows = place[: len(part)]
        if taken is not place:
            rows[:] = taken[: len(part)]
        yield rows, classes[order]


def _add_by_class(sums: Floats, rows: Floats, classes: Ints) -> None:
    """Add rows that are sorted by class to the sums of their classes."""
    edges = [0, *(np.flatnonzero(np.diff(classes)) + 1).tolist(), len(classes)]
    for first, last in pairwise(edges):
        sums[classes[first]] += rows[first:last].sum(0)
