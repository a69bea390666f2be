"""GBC: how little the classes overlap, seen as Gaussian clouds."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from taskloom.choose.checks import Floats, Ints, checked, checked_rows
from taskloom.choose.classes import members
from taskloom.choose.moments import moments
from taskloom.choose.pca import reduce, reduced
from taskloom.registry import register

_FLOOR = 1e-4  # of a variance, as in the released code


@register("score", paper="Pandy et al., CVPR 2022 (2111.12780), eq. 3 to 5")
def gbc(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    covariance: Literal["spherical", "diagonal"] = "spherical",
    components: Annotated[int, Field(ge=1)] | None = 64,
    released: bool = False,
) -> float:
    """Minus the Bhattacharyya coefficients of all ordered pairs of classes; higher is better.

    Where paper, code and we differ: for spherical clouds the released code takes the logarithm of the
    one variance once, where the determinant of a D x D matrix has it D times; ``released=True``
    reproduces that. Variances below 1e-4 count as 1e-4, as released, before a spherical one is averaged.

    Parameters
    ----------
    features
        ``(N, D)`` of one source model on the target's examples.
    labels
        ``(N,)`` integers.
    covariance
        One variance for each class (the paper's default), or one for each class and dimension.
    components
        Principal components the features are reduced to where they have more dimensions; None: never.
    released
        Leave out the factor D of the logarithm; ``"diagonal"`` clouds are the same with and without.

    Returns
    -------
    A number in [-C (C - 1), 0]. Comparable between sources on the same classes only.

    Raises
    ------
    DataError, NumericalError
        See `taskloom.choose.checks.checked`.

    Examples
    --------
    >>> features = [[1, 0], [2, 0], [1, 1], [2, 1], [0, 2], [0, 3], [1, 3], [1, 2]]
    >>> round(gbc(features, [0, 0, 0, 0, 1, 1, 1, 1]), 6)
    -0.16417
    """
    rows, indices, counts = checked_rows("gbc", features, labels)
    if components is not None and len(rows) > rows.shape[1] > components:
        found = moments("gbc", rows, indices, counts, centred=True)
        matrix = reduced(rows, found, components)
    else:
        matrix = reduce(checked("gbc", rows, labels)[0], components)
    means, spread = _clouds(matrix, indices, counts)
    spread = np.maximum(spread, _FLOOR)
    if covariance == "spherical":
        spread = spread.mean(1, keepdims=True)
    times = matrix.shape[1] if covariance == "spherical" and not released else 1
    total = sum(
        np.delete(np.exp(-_distances(means, spread, c, times)), c).sum() for c in range(len(counts))
    )
    return -float(total)


def _clouds(matrix: Floats, indices: Ints, counts: Ints) -> tuple[Floats, Floats]:
    """Return the mean and the variance ``(C, D)`` of every class."""
    means, spread = (np.empty((len(counts), matrix.shape[1])) for _ in range(2))
    for c, of_class in enumerate(members(indices, counts)):
        part = matrix[of_class]
        means[c] = part.mean(0)
        part -= means[c]
        spread[c] = np.einsum("nd,nd->d", part, part) / len(part)
    return means, spread


def _distances(means: Floats, spread: Floats, c: int, times: int) -> Floats:
    """Return ``(C,)`` Bhattacharyya distances of class c to every class."""
    middle = (spread + spread[c]) / 2
    apart: Floats = ((means - means[c]) ** 2 / middle).sum(1) / 8
    logs: Floats = np.log(middle) - (np.log(spread) + np.log(spread[c])) / 2
    distances: Floats = apart + times * logs.sum(1) / 2
    return distances
