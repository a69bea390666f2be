"""Sums of a whole model that come out the same for any order and slicing.

Floating-point addition rounds, so a running sum depends on where tensors are cut and on which thread
came first. Here every number is split on a fixed grid of powers of two into integers, and integers are
added up, which is exact. What is left out lies below the largest number by a factor of 2**-52 or more
(pre-rounding as in Demmel and Nguyen, Fast reproducible floating-point summation, ARITH 2013).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from taskloom.errors import NumericalError
from taskloom.lazy import Tensor

_WIDTH = 26  # bits of one cell of the grid
_FOLDS = 3  # cells kept below the largest number's
#: cells that the kernels fill for squares and magnitudes of float32 numbers, the one of 1, and a mark
CELLS, ZERO = 32, 16
_CHUNK = 1 << 20  # numbers looked at in one go: their integers sum up below 2**53


class ExactSums:
    """Sums of K rows of numbers that are not negative; adding returns a new object.

    Examples
    --------
    >>> import torch
    >>> rows = torch.tensor([[0.1, 0.2, 1e-9], [3.0, 0.0, 4.0]], dtype=torch.float64)
    >>> whole = ExactSums.of(rows)
    >>> cut = ExactSums.of(rows[:, 2:]) + ExactSums.of(rows[:, :2])
    >>> whole.values(), bool((whole.values() == cut.values()).all())
    (array([0.3, 7. ]), True)
    """

    def __init__(self, cells: list[dict[int, int]]) -> None:
        self._cells = cells

    @classmethod
    def of(cls, rows: Tensor) -> ExactSums:
        """Sum each of ``(K, ...)`` up.

        Raises
        ------
        NumericalError
            A number that is not finite, such as the square of one beyond the range of float64.
        """
        flat = rows.detach().reshape(len(rows), -1).double().cpu().numpy()
        return cls([_cells(row) for row in flat])

    @classmethod
    def of_cells(cls, rows: NDArray[np.int64]) -> ExactSums:
        """Take sums of digits in cells that the fused kernels made: ``(K, CELLS)``.

        Raises
        ------
        NumericalError
            A number that is not finite was among those that were added up.
        """
        if rows[:, -1].any():
            raise _too_large()
        return cls([{int(c) - ZERO: int(row[c]) for c in np.flatnonzero(row)} for row in rows])

    def __add__(self, other: ExactSums) -> ExactSums:
        """Return the sums over what both have seen."""
        cells = [dict(row) for row in self._cells]
        for mine, theirs in zip(cells, other._cells, strict=True):
            for cell, total in theirs.items():
                mine[cell] = mine.get(cell, 0) + total
        return ExactSums(cells)

    def values(self) -> NDArray[np.float64]:
        """``(K,)`` the sums."""
        return np.array([_total(row) for row in self._cells], dtype=np.float64)


def _cells(row: NDArray[np.float64]) -> dict[int, int]:
    found: dict[int, int] = {}
    for part in (row[i : i + _CHUNK] for i in range(0, len(row), _CHUNK)):
        for cell, total in _fold(part):
            found[cell] = found.get(cell, 0) + total
    return found


def _fold(part: NDArray[np.float64]) -> Iterator[tuple[int, int]]:
    largest = float(part.max())
    if not math.isfinite(largest):
        raise _too_large()
    if largest <= 0:
        return
    top = (math.frexp(largest)[1] - 1) // _WIDTH
    shift = -top * _WIDTH
    rest = part * 2.0**shift if abs(shift) < 1000 else np.ldexp(part, shift)
    whole = np.empty_like(rest)
    for cell in range(top, top - _FOLDS, -1):
        np.floor(rest, out=whole)
        total = int(whole.sum())
        if total:
            yield cell, total
        rest -= whole
        rest *= 2.0**_WIDTH


def _too_large() -> NumericalError:
    return NumericalError(
        "a sum over the model is beyond the range of float64",
        hint="Repair the checkpoint, or scale it down",
    )


def _total(cells: dict[int, int]) -> float:
    if not cells:
        return 0.0
    top = max(cells)
    low = top - _FOLDS + 1
    units = sum(total << (_WIDTH * (cell - low)) for cell, total in cells.items() if cell >= low)
    return math.ldexp(float(units), low * _WIDTH)
