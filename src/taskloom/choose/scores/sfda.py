"""SFDA: Fisher discriminant analysis that makes its own task harder."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from taskloom.choose.checks import Floats, Ints, checked
from taskloom.choose.classes import class_means
from taskloom.errors import NumericalError
from taskloom.registry import register


@register("score", paper="Shao et al., ECCV 2022 (2207.03036), section 4")
def sfda(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    shrinkage: Annotated[float, Field(gt=0, le=1)] | None = None,
) -> float:
    """Mean probability of the labels by a Fisher discriminant on self-mixed features; higher is better.

    A regularised linear discriminant is fitted; every example is moved towards the mean of the other
    classes' means by as much as it is unsure (the softmax of its probabilities, of its own class); the
    discriminant is fitted again with the same regularisation and scored on the moved examples.

    Where paper, code and we differ: TencentARC/SFDA solves a generalised eigenproblem and uses all its
    eigenvectors V, for which V V^T is the inverse of the within-class scatter; that inverse is solved
    with here, and the total scatter is not needed. The release changes the caller's features; we do not.
    Its softmax of probabilities and its missing logarithm are kept.

    Parameters
    ----------
    features
        ``(N, D)`` of one source model on the target's examples.
    labels
        ``(N,)`` integers.
    shrinkage
        Share of a multiple of the identity in the scatter; by default exp(-5 times its largest
        eigenvalue), at least 1e-10, the eigenvalue by three rounds of power iteration.

    Returns
    -------
    A probability in (0, 1]. Depends on the features' scale through the shrinkage, and in the fourth
    digit on rotations, since the power iteration starts at the sums of the scatter's rows.

    Raises
    ------
    DataError
        See `taskloom.choose.checks.checked`.
    NumericalError
        Classes without any spread, or a scatter that is singular in spite of the shrinkage; and see
        `taskloom.choose.checks.checked`.

    Examples
    --------
    >>> features = [[1, 0], [2, 0], [1, 1], [2, 1], [0, 2], [0, 3], [1, 3], [1, 2]]
    >>> round(sfda(features, [0, 0, 0, 0, 1, 1, 1, 1]), 6)
    0.86432
    """
    matrix, indices, counts = checked("sfda", features, labels)
    if shrinkage is None:
        shrinkage = default_shrinkage(_scatter(matrix, indices, counts))
    sure = _softmax(_probabilities(matrix, indices, counts, shrinkage))[np.arange(len(indices)), indices]
    means = class_means(matrix, indices, counts)
    others = (means.sum(0) - means) / (len(counts) - 1)
    mixed = sure[:, None] * matrix + (1 - sure[:, None]) * others[indices]
    found = _probabilities(mixed, indices, counts, shrinkage)
    return float(found[np.arange(len(indices)), indices].mean())


def default_shrinkage(scatter: Floats) -> float:
    """Return the share of the identity for a within-class scatter ``(D, D)``.

    Raises
    ------
    NumericalError
        The scatter is zero.
    """
    if not scatter.any():
        raise NumericalError(
            "sfda: expected examples that differ within their classes, found none",
            hint="Label more examples of each class",
        )
    ahead = scatter.sum(1)
    if not (scatter @ ahead).any():  # the start the release takes is orthogonal to every direction
        return float(max(np.exp(-5 * np.linalg.eigvalsh(scatter)[-1]), 1e-10))
    for _ in range(3):
        behind = scatter @ ahead
        behind /= np.linalg.norm(behind)
        ahead = scatter @ behind
        ahead /= np.linalg.norm(ahead)
    return float(max(np.exp(-5 * (ahead @ scatter @ behind)), 1e-10))


def _scatter(matrix: Floats, indices: Ints, counts: Ints) -> Floats:
    centred = matrix - class_means(matrix, indices, counts)[indices]
    scatter: Floats = centred.T @ centred / len(matrix)
    return scatter


def _probabilities(matrix: Floats, indices: Ints, counts: Ints, shrinkage: float) -> Floats:
    """Return ``(N, C)`` of a linear discriminant with shrunk scatter, fitted to the same rows."""
    means = class_means(matrix, indices, counts)
    scatter = _scatter(matrix, indices, counts)
    floor = shrinkage * np.trace(scatter) / len(scatter)
    scatter *= 1 - shrinkage
    scatter.flat[:: len(scatter) + 1] += floor
    try:
        np.linalg.cholesky(scatter)
    except np.linalg.LinAlgError:
        raise NumericalError(
            f"sfda: the scatter within classes is singular at the shrinkage {shrinkage:.3g}",
            hint="Set a larger shrinkage, or scale the features down",
        ) from None
    coefficients = np.linalg.solve(scatter, means.T)  # (D, C)
    shift = np.log(counts / counts.sum()) - (means.T * coefficients).sum(0) / 2
    return _softmax(matrix @ coefficients + shift)


def _softmax(logits: Floats) -> Floats:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    result: Floats = shifted / shifted.sum(1, keepdims=True)
    return result
