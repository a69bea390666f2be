"""The one place where features and labels are checked before a score sees them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taskloom.errors import DataError, NumericalError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def checked(
    score: str, features: ArrayLike, labels: ArrayLike, *, per_class: int = 1
) -> tuple[Floats, Ints, Ints]:
    """Return features as float64, class indices and class sizes, or refuse.

    Parameters
    ----------
    score
        Name of the score, for messages.
    features
        ``(N, D)`` finite numbers whose rows are not all the same.
    labels
        ``(N,)`` integers; at least two different ones. They need not be 0..C-1: the classes that
        occur are numbered in ascending order.
    per_class
        Fewest examples a class may have.

    Returns
    -------
    ``(N, D)`` float64, ``(N,)`` int64 in 0..C-1, ``(C,)`` int64 class sizes.

    Raises
    ------
    DataError
        Shapes that do not fit, labels that are not integers, one class only, a class too small.
    NumericalError
        NaN, infinity, or features without any variation.
    """
    matrix = np.asarray(features, dtype=np.float64)
    given = np.asarray(labels)
    if matrix.ndim != 2 or given.ndim != 1 or len(matrix) != len(given) or matrix.shape[1] == 0:
        raise DataError(
            f"{score}: expected features (N, D) and labels (N,), found {matrix.shape} and {given.shape}",
            hint="Pass one row of features for each label",
        )
    if not np.issubdtype(given.dtype, np.integer):
        raise DataError(
            f"{score}: expected integer labels, found dtype {given.dtype}",
            hint="Number the classes 0, 1, 2, ...",
        )
    classes, indices, counts = np.unique(given, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise DataError(
            f"{score}: expected at least two classes among {len(given)} labels, found {len(classes)}",
            hint="Give labelled examples of two classes or more",
        )
    if counts.min() < per_class:
        label = int(classes[counts.argmin()])
        raise DataError(
            f"{score}: expected at least {per_class} examples of each class, "
            f"found {counts.min()} of class {label}",
            hint="Label more examples of that class or leave it out",
        )
    _refuse_degenerate(score, matrix)
    return matrix, indices.astype(np.int64), counts.astype(np.int64)


def _refuse_degenerate(score: str, matrix: Floats) -> None:
    finite = np.isfinite(matrix)
    if not finite.all():
        row, column = (int(i) for i in np.argwhere(~finite)[0])
        raise NumericalError(
            f"{score}: expected finite features, found {matrix[row, column]} "
            f"in row {row}, column {column}",
            hint="Check the model that produced them",
        )
    if (matrix == matrix[0]).all():
        raise NumericalError(
            f"{score}: expected features that differ between examples, "
            f"found the same row {len(matrix)} times",
            hint="Check that the model sees its input",
        )
