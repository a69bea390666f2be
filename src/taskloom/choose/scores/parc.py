"""PARC: whether examples of one class look alike to the source model."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from taskloom.choose.checks import Ints, checked
from taskloom.choose.likeness import against_classes, mean_over_draws, standardised
from taskloom.registry import register


@register("score", paper="Bolya, Mittapalli and Hoffman, NeurIPS 2021 (2111.06977), section 4")
def parc(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    components: Annotated[int, Field(ge=2)] | None = 32,
    most: Annotated[int, Field(ge=3)] = 5000,
    draws: Annotated[int, Field(ge=1)] = 3,
    seed: int = 0,
) -> float:
    """Rank correlation of features' and labels' dissimilarities over pairs, times 100; higher is better.

    Where paper, code and we differ: the released code finds principal components by a randomised
    decomposition (one power iteration, seed 1919); ours are exact, with the same rule for their signs,
    on which the value depends, since rows are centred over components. Labels have two dissimilarities
    only, same class and other class; with three classes or more the released code ranks the rounding of
    the correlations between them, too (0 below 2e-16), and gets another number: on iris 61.22 where the
    formula gives 58.68. We follow the formula. Above ``most`` examples the score is the mean over draws,
    and `parc_with_error` says how sure that is; the released code holds every pair.

    Parameters
    ----------
    features
        ``(N, D)`` of one source model on the target's examples.
    labels
        ``(N,)`` integers; some class needs two examples.
    components
        Principal components the features are reduced to where they have more dimensions; None: never.
    most
        Examples that are compared with each other at once: 5,000 are 12.5 million pairs of 8 bytes, held
        about twice.
    draws
        Samples of ``most`` examples that are averaged over where there are more.
    seed
        Of the draws.

    Returns
    -------
    A number in [-100, 100]. Does not change with shifts or scales of single features where no
    components are taken; does change with rotations.

    Raises
    ------
    DataError
        No class has two examples; and see `taskloom.choose.checks.checked`.
    NumericalError
        A row that is constant over the standardised columns; and see `taskloom.choose.checks.checked`.

    Examples
    --------
    >>> features = [[1, 0, 2], [2, 1, 0], [0, 3, 1], [1, 4, 3], [3, 0, 0.5]]
    >>> round(parc(features, [0, 0, 1, 1, 0]), 6)
    56.853524
    """
    value, _ = parc_with_error(
        features, labels, components=components, most=most, draws=draws, seed=seed
    )
    return value


def parc_with_error(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    components: int | None = 32,
    most: int = 5000,
    draws: int = 3,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the score and its standard error: 0 up to ``most`` examples, infinite from one draw.

    Arguments and errors as `parc`.
    """
    matrix, indices, _ = checked("parc", features, labels)

    def value(rows: Ints) -> float:
        _, drawn, counts = np.unique(indices[rows], return_inverse=True, return_counts=True)
        unit = standardised("parc", matrix[rows], components)
        return 100 * against_classes("parc", unit, drawn, counts)

    return mean_over_draws(value, len(matrix), most=most, draws=draws, seed=seed)
