"""The one place where features and labels are checked before a score sees them."""

from __future__ import annotations

from typing import Any

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
    matrix, indices, counts = checked_rows(score, features, labels, per_class=per_class)
    matrix = np.asarray(matrix, dtype=np.float64)
    refuse_degenerate(score, matrix)
    return matrix, indices, counts


def checked_rows(
    score: str, features: ArrayLike, labels: ArrayLike, *, per_class: int = 1
) -> tuple[NDArray[Any], Ints, Ints]:
    """Return features as they are stored, class indices and class sizes, or refuse; see `checked`.

    For scores that read the features in blocks, which then have to refuse what is not finite or does not
    vary: `taskloom.choose.moments.moments` does.
    """
    matrix = np.asarray(features)
    if matrix.dtype.kind not in "fiu":
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
    return matrix, indices.astype(np.int64), counts.astype(np.int64)


def checked_targets(score: str, features: ArrayLike, targets: ArrayLike) -> tuple[Floats, Floats]:
    """Return features and regression targets as float64, or refuse.

    Parameters
    ----------
    score
        Name of the score, for messages.
    features
        As for `checked`.
    targets
        ``(N,)`` or ``(N, K)`` finite numbers, no column of them constant.

    Returns
    -------
    ``(N, D)`` and ``(N, K)`` float64.

    Raises
    ------
    DataError
        Shapes that do not fit, fewer than three examples, targets that are no numbers or constant.
    NumericalError
        NaN, infinity, or features without any variation.
    """
    matrix = np.asarray(features, dtype=np.float64)
    given = np.asarray(targets)
    if matrix.ndim != 2 or given.ndim not in (1, 2) or len(matrix) != len(given) or not matrix.size:
        raise DataError(
            f"{score}: expected features (N, D) and targets (N,) or (N, K), "
            f"found {matrix.shape} and {given.shape}",
            hint="Pass one row of features for each target",
        )
    if not (np.issubdtype(given.dtype, np.integer) or np.issubdtype(given.dtype, np.floating)):
        raise DataError(
            f"{score}: expected numbers as targets, found dtype {given.dtype}",
            hint="Pass the quantities to predict as numbers",
        )
    columns = given.reshape(len(given), -1).astype(np.float64)
    if len(columns) < 3 or not columns.shape[1]:
        raise DataError(
            f"{score}: expected three examples or more, each with a target, found {columns.shape}",
            hint="Give more examples with targets",
        )
    if not np.isfinite(columns).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(columns))[0])
        raise NumericalError(
            f"{score}: expected finite targets, found {columns[row, column]} in row {row}",
            hint="Leave out the examples without a target",
        )
    constant = (columns == columns[0]).all(0)
    if constant.any():
        raise DataError(
            f"{score}: expected targets that differ, found {columns[0, constant.argmax()]:g} "
            f"{len(columns)} times in column {int(constant.argmax())}",
            hint="Leave out the target that says nothing",
        )
    refuse_degenerate(score, matrix)
    return matrix, columns


def checked_probabilities(score: str, probabilities: ArrayLike, n: int) -> Floats:
    """Return what a source model says of the target's examples as float64, or refuse.

    Parameters
    ----------
    score
        Name of the score, for messages.
    probabilities
        ``(N, S)``, each row nonnegative with sum 1 (to 1e-3, as half precision leaves it).
    n
        N, the number of labels.

    Raises
    ------
    DataError
        Another shape, or rows that are no probabilities.
    """
    matrix = np.asarray(probabilities, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) != n or matrix.shape[1] == 0:
        raise DataError(
            f"{score}: expected source_probabilities ({n}, S), found {matrix.shape}",
            hint="Pass the source head's probabilities of the same examples",
        )
    sums = matrix.sum(1)
    if not (matrix >= 0).all() or not (np.abs(sums - 1) <= 1e-3).all():
        row = int((~((matrix >= 0).all(1) & (np.abs(sums - 1) <= 1e-3))).argmax())
        raise DataError(
            f"{score}: expected rows of source_probabilities that are at least 0 and sum to 1, "
            f"found the sum {sums[row]:.6g} in row {row}",
            hint="Pass the softmax, not the logits",
        )
    return matrix


def checked_beside(score: str, name: str, matrix: ArrayLike, *, n: int | None = None) -> Floats:
    """Return other features that a score looks at as float64, or refuse.

    Parameters
    ----------
    score, name
        Of the score and of the argument, for messages.
    matrix
        ``(M, D)`` finite numbers, at least two rows, not all the same.
    n
        M, if it must be the number of labels.

    Raises
    ------
    DataError
        Another shape.
    NumericalError
        NaN, infinity, or features without any variation.
    """
    found = np.asarray(matrix, dtype=np.float64)
    if found.ndim != 2 or len(found) < 2 or found.shape[1] == 0 or (n is not None and len(found) != n):
        rows = "M" if n is None else str(n)
        raise DataError(
            f"{score}: expected {name} ({rows}, D) of two rows or more, found {found.shape}",
            hint="Pass one row of features for each example",
        )
    refuse_degenerate(f"{score}: {name}", found)
    return found


def refuse_degenerate(score: str, matrix: NDArray[Any]) -> None:
    """Refuse a matrix (N, D) that is not finite, or whose rows are all the same.

    Raises
    ------
    NumericalError
        It is so.
    """
    # a sum is finite only if all are; where it is not, finite numbers may still have overflowed
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(matrix.sum())
    finite = np.isfinite(matrix) if suspicious else np.ones(1, dtype=bool)
    if not finite.all():
        row, column = (int(i) for i in np.argwhere(~finite)[0])
        raise NumericalError(
            f"{score}: expected finite features, found {matrix[row, column]} "
            f"in row {row}, column {column}",
            hint="Check the model that produced them",
        )
    if (matrix[0] == matrix[-1]).all() and (matrix == matrix[0]).all():
        raise NumericalError(
            f"{score}: expected features that differ between examples, "
            f"found the same row {len(matrix)} times",
            hint="Check that the model sees its input",
        )
