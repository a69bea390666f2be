"""What a predictor may look at: the matrix without the new target's column."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from taskloom.choose.checks import Floats
from taskloom.errors import DataError, NumericalError


@dataclass(frozen=True, eq=False)
class Known:
    """A transfer matrix of S sources and P other targets, of which a new target is like some.

    Attributes
    ----------
    change
        ``(K, S, P)`` relative gains over the base in K runs: performance with the source by that
        without, less 1. NaN where there is none, such as of a source on itself.
    likeness
        ``(S,)`` how like the new target each source is; any measure, higher is more.
    pivots
        ``(P,)`` how like the new target each of the other targets is, by the same measure.
    scores
        ``(E, S)`` values of E transferability scores for the new target, NaN where there is none.
    scores_before
        ``(E, S, P)`` values of the same scores for the other targets.

    Raises
    ------
    DataError
        Shapes that do not fit, or not one other target.
    NumericalError
        Likenesses that are not finite, or a gain that is infinite.
    """

    change: Floats
    likeness: Floats
    pivots: Floats
    scores: Floats | None = None
    scores_before: Floats | None = None

    def __post_init__(self) -> None:
        shape = self.change.shape
        if len(shape) != 3 or 0 in shape:
            raise DataError(
                f"predictor: expected relative gains (K, S, P), found {shape}",
                hint="Give a run, a source and another target at least",
            )
        _, sources, others = shape
        if self.likeness.shape != (sources,) or self.pivots.shape != (others,):
            raise DataError(
                f"predictor: expected a likeness for each of {sources} sources and {others} other "
                f"targets, found {self.likeness.shape} and {self.pivots.shape}",
                hint="Measure how like the new target each of them is",
            )
        if not (np.isfinite(self.likeness).all() and np.isfinite(self.pivots).all()):
            raise NumericalError(
                "predictor: expected finite likenesses, found NaN or infinity",
                hint="Leave out the task that could not be compared",
            )
        if np.isinf(self.change).any():
            raise NumericalError(
                "predictor: expected finite relative gains, found infinity",
                hint="Leave out a target that the base gets nothing right of",
            )
        found = None if self.scores is None else self.scores.shape
        before = None if self.scores_before is None else self.scores_before.shape
        fits = found is not None and (*found, others) == before and found[1:] == (sources,)
        if (found is not None or before is not None) and not fits:
            raise DataError(
                f"predictor: expected scores (E, {sources}) and (E, {sources}, {others}), "
                f"found {found} and {before}",
                hint="Give the same scores of the new target and of the others",
            )


def mean_over_known(values: Floats, axis: int) -> Floats:
    """Return means over what is not NaN; NaN where nothing is.

    >>> mean_over_known(np.array([[1.0, np.nan], [3.0, np.nan]]), 0)
    array([ 2., nan])
    """
    known = ~np.isnan(values)
    count = known.sum(axis)
    total = np.asarray(np.where(known, values, 0.0).sum(axis))
    found: Floats = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return found
