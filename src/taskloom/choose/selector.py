"""What a data selector is: how it is fitted to a target, and then scores a pool piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taskloom.errors import DataError, NumericalError

#: what a selector looks at: the text itself, or what a model makes of it
Sees = Literal["text", "embedding", "gradient", "code"]
Floats = NDArray[np.float64]


class Scorer(Protocol):
    """Scores some items of a pool; the higher, the sooner an item is chosen.

    The score of an item depends on the item alone, not on those beside it. Texts come as a list, what
    a model makes of them as ``(B, D)``; back comes ``(B,)`` float64 without NaN. An item of minus
    infinity is never chosen.
    """

    def __call__(self, items: Any, /) -> Floats:
        """Score some items."""
        ...


class Fit(Protocol):
    """Fits a selector to a target."""

    def __call__(self, target: Any, first: Any, seed: int, /) -> Scorer:
        """Return the scorer; ``first`` is what the first look at the pool found, or None."""
        ...


@dataclass(frozen=True)
class Selector:
    """A selection rule with its options.

    Attributes
    ----------
    sees
        What the rule looks at.
    fit
        Makes the scorer of the target's items.
    count
        A first look at the pool: ``items -> array``; the sum over the pool is given to ``fit``.
    whole
        The first look is the pool itself: all of its vectors ``(N, D)`` are given to ``fit``.
    needs_target
        Whether there must be a target.
    """

    sees: Sees
    fit: Fit
    count: Callable[[Sequence[str]], NDArray[np.int64]] | None = None
    whole: bool = False
    needs_target: bool = True


def unit(vectors: ArrayLike, who: str) -> Floats:
    """Return rows scaled to length 1, ``(N, D)`` float64; a row of zeros stays.

    >>> unit([[3.0, 4.0], [0.0, 0.0]], "nearest").tolist()
    [[0.6, 0.8], [0.0, 0.0]]

    Raises
    ------
    DataError
        Not a matrix, or an empty one.
    NumericalError
        NaN or infinity.
    """
    matrix = finite(vectors, who)
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    scaled: Floats = matrix / np.where(lengths > 0, lengths, 1)
    return scaled


def finite(vectors: ArrayLike, who: str) -> Floats:
    """Return vectors as ``(N, D)`` float64, or refuse as `unit` does."""
    matrix = np.asarray(vectors, dtype=np.float64)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise DataError(
            f"{who}: expected vectors (N, D), found the shape {matrix.shape}",
            hint="Give one row for each text",
        )
    bad = ~np.isfinite(matrix).all(1)
    if bad.any():
        raise NumericalError(
            f"{who}: the vector of item {int(np.argmax(bad))} holds NaN or infinity",
            hint="Check the model, or run it in fp32",
        )
    return matrix


def same_width(items: Floats, width: int, who: str) -> Floats:
    """Return the items if they have as many columns as the target's, or refuse.

    Raises
    ------
    DataError
        Another number of columns.
    """
    if items.shape[1] != width:
        raise DataError(
            f"{who}: vectors of the pool have {items.shape[1]} columns, those of the target {width}",
            hint="Make both by the same model",
        )
    return items
