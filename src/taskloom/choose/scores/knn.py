"""k nearest neighbours, each example predicted from all others."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from taskloom.choose.checks import Floats, Ints, checked
from taskloom.errors import DataError, NumericalError
from taskloom.registry import register

_BLOCK = 512  # rows of the distance matrix held at a time
_FEW = 16  # up to so many neighbours are looked for one by one, which is faster than sorting


@register("score", paper="Bolya et al., NeurIPS 2021 (baseline); Cover and Hart, 1967")
def knn(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    k: Annotated[int, Field(ge=1)] = 1,
    metric: Literal["euclidean", "cosine"] = "euclidean",
) -> float:
    """Leave-one-out accuracy of the k nearest neighbours; higher is better.

    Where paper, code and we differ: dbolya/parc uses k = 1, transformer-ranker k = 3, both with
    Euclidean distance; neither says how ties are broken, see below.

    Parameters
    ----------
    features
        ``(N, D)`` of one source model on the target's examples.
    labels
        ``(N,)`` integers.
    k
        Neighbours that vote, at most N - 1. Among classes with equally many votes the one with the
        nearest neighbour wins; of two neighbours at the same distance the earlier one is nearer.
    metric
        ``"euclidean"``, or ``"cosine"`` for which no row may be zero.

    Returns
    -------
    Accuracy in [0, 1].

    Raises
    ------
    DataError
        ``k`` too large; and see `taskloom.choose.checks.checked`.
    NumericalError
        A zero row with ``metric="cosine"``; and see `taskloom.choose.checks.checked`.

    Examples
    --------
    >>> knn([[0, 0], [0.1, 0], [1, 1], [1.1, 1], [0.4, 0.4]], [0, 0, 1, 1, 1])
    0.8
    """
    matrix, indices, counts = checked("knn", features, labels)
    if k >= len(matrix):
        raise DataError(
            f"knn: expected k below the number of examples, found k = {k} and N = {len(matrix)}",
            hint="Lower k or label more examples",
        )
    if metric == "cosine":
        matrix = _unit_rows(matrix)
    right = 0
    for start in range(0, len(matrix), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(matrix)))
        near = _nearest(matrix, rows, k)
        right += int((_vote(indices[near], len(counts)) == indices[rows]).sum())
    return right / len(matrix)


def _unit_rows(matrix: Floats) -> Floats:
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    if (norms == 0).any():
        raise NumericalError(
            f"knn: expected rows of nonzero length for the cosine metric, "
            f"found zeros in row {int(norms.argmin())}",
            hint="Use metric euclidean",
        )
    unit: Floats = matrix / norms
    return unit


def _nearest(matrix: Floats, rows: Ints, k: int) -> Ints:
    """Return ``(len(rows), k)`` indices of the nearest other examples, nearest first."""
    squares = (matrix**2).sum(1)
    distance = squares[rows, None] + squares - 2 * matrix[rows] @ matrix.T
    here = np.arange(len(rows))
    distance[here, rows] = np.inf
    if k > _FEW:
        return np.argsort(distance, axis=1, kind="stable")[:, :k]
    near = np.empty((len(rows), k), dtype=np.int64)
    for place in range(k):
        near[:, place] = distance.argmin(1)  # the first of equal ones
        distance[here, near[:, place]] = np.inf
    return near


def _vote(votes: Ints, classes: int) -> Ints:
    """Return the winning class of each row; ``votes`` is ``(B, k)``, nearest first."""
    b, k = votes.shape
    tally, first = np.zeros((b, classes)), np.full((b, classes), k)
    for place in reversed(range(k)):
        np.add.at(tally, (np.arange(b), votes[:, place]), 1.0)
        first[np.arange(b), votes[:, place]] = place
    winner: Ints = (tally - first / (k + 1)).argmax(1)  # less than a vote: only breaks ties
    return winner
