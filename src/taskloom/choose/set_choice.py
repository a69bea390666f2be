"""What every chooser of sets returns, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taskloom.choose.checks import Floats
from taskloom.errors import DataError, NumericalError


@dataclass(frozen=True, eq=False)
class SetChoice:
    """Some of K candidates, or all of them in groups.

    Attributes
    ----------
    chosen
        Numbers of the candidates taken, in the order in which they were; of groups, one that stands for
        each.
    values
        What each of them was taken for: what it added, or its score.
    groups
        ``(K,)`` group of every candidate, counted from 0 in the order of ``chosen``; empty where the
        chooser makes none.
    membership
        ``(K, G)`` shares with which candidates belong to groups, rows summing to 1; None where they
        belong to one only.
    reasons
        One line for every candidate.
    note
        What can be said of the whole.
    """

    chosen: tuple[int, ...]
    values: tuple[float, ...]
    groups: tuple[int, ...] = ()
    membership: NDArray[np.float64] | None = None
    reasons: tuple[str, ...] = ()
    note: str = ""


def checked_size(chooser: str, size: int, candidates: int) -> int:
    """Return a number of candidates or groups, or refuse.

    Raises
    ------
    DataError
        Below 1, or more than there are.
    """
    if not 1 <= size <= candidates:
        raise DataError(
            f"{chooser}: expected a size from 1 to the number of candidates, "
            f"found {size} of {candidates}",
            hint="Choose fewer, or give more candidates",
        )
    return size


def checked_square(chooser: str, name: str, matrix: ArrayLike) -> Floats:
    """Return ``(K, K)`` finite numbers, symmetric to 1e-6, as float64 and exactly symmetric.

    Raises
    ------
    DataError
        Another shape, or rows and columns that disagree.
    NumericalError
        NaN or infinity.
    """
    found = checked_table(chooser, name, matrix)
    if found.shape[0] != found.shape[1]:
        raise DataError(
            f"{chooser}: expected {name} (K, K), found {found.shape}",
            hint="Give one row and one column for each candidate",
        )
    apart = np.abs(found - found.T).max()
    if apart > 1e-6 * max(1.0, np.abs(found).max()):
        raise DataError(
            f"{chooser}: expected {name} to be symmetric, found entries {apart:.3g} apart",
            hint="Average the two directions first",
        )
    result: Floats = (found + found.T) / 2
    return result


def checked_table(chooser: str, name: str, matrix: ArrayLike) -> Floats:
    """Return a finite table of two axes as float64.

    Raises
    ------
    DataError
        No table, or an empty one.
    NumericalError
        NaN or infinity.
    """
    found = np.asarray(matrix, dtype=np.float64)
    if found.ndim != 2 or not found.size:
        raise DataError(
            f"{chooser}: expected {name} of two axes, found shape {found.shape}",
            hint="Give one row for each candidate",
        )
    if not np.isfinite(found).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(found))[0])
        raise NumericalError(
            f"{chooser}: expected finite {name}, found {found[row, column]} in row {row}, "
            f"column {column}",
            hint="Leave out the candidate that could not be measured",
        )
    return found
