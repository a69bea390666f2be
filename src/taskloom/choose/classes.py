"""Sums and means of the rows of every class, which most scores start from."""

from __future__ import annotations

import numpy as np

from taskloom.choose.checks import Floats, Ints


def class_sums(matrix: Floats, indices: Ints, counts: Ints) -> Floats:
    """Return ``(C, D)`` sums of the rows of each class.

    Parameters
    ----------
    matrix
        ``(N, D)``.
    indices
        ``(N,)`` in 0..C-1, every class at least once.
    counts
        ``(C,)`` class sizes.

    Examples
    --------
    >>> class_sums(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([1, 0, 1]), np.array([1, 2]))
    array([[3., 4.], [6., 8.]])
    """
    return np.stack([matrix[rows].sum(0) for rows in members(indices, counts)])


def class_means(matrix: Floats, indices: Ints, counts: Ints) -> Floats:
    """Return ``(C, D)`` means of the rows of each class; arguments as `class_sums`."""
    return class_sums(matrix, indices, counts) / counts[:, None]


def members(indices: Ints, counts: Ints) -> list[Ints]:
    """Return the rows of each class, in ascending order; arguments as `class_sums`."""
    order = np.argsort(indices, kind="stable")
    return np.split(order, np.cumsum(counts)[:-1])
