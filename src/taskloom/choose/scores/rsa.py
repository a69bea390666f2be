"""RSA: whether the source model finds the same examples alike as another model does."""

from __future__ import annotations

from typing import Annotated

from numpy.typing import ArrayLike
from pydantic import Field

from taskloom.choose.checks import Ints, checked, checked_beside
from taskloom.choose.likeness import dissimilarities, mean_over_draws, spearman_of, standardised
from taskloom.registry import register


@register("score", paper="Dwivedi and Roig, CVPR 2019 (1904.11740); Bolya et al., NeurIPS 2021")
def rsa(
    features: ArrayLike,
    labels: ArrayLike,
    reference_features: ArrayLike,
    *,
    components: Annotated[int, Field(ge=2)] | None = None,
    most: Annotated[int, Field(ge=3)] = 3000,
    draws: Annotated[int, Field(ge=1)] = 3,
    seed: int = 0,
) -> float:
    """Rank correlation of two models' dissimilarities over pairs, times 100; higher is better.

    What it says depends on the reference. A model tuned on the target: how far the source already sees
    the target as that model does, which is the paper's use. The base: how little the source's training
    moved the target's examples, which says that it does no harm and not that it helps.

    Where paper, code and we differ: the paper's reference is a small network trained on the target, and
    ours whatever is given; principal components as for ``parc``, none by default, as released.

    Parameters
    ----------
    features
        ``(N, D)`` of one source model on the target's examples.
    labels
        ``(N,)`` integers; checked, but not looked at.
    reference_features
        ``(N, R)`` of another model on the same examples. `taskloom.choose.rank` fills it in: the
        model given as reference, or the base.
    components, most, draws, seed
        As for ``parc``; 3,000 examples are 4.5 million pairs, held several times.

    Returns
    -------
    A number in [-100, 100]; 100 for the reference itself.

    Raises
    ------
    DataError
        Reference features of another number of examples; and see `taskloom.choose.checks.checked`.
    NumericalError
        A row that is constant over the standardised columns; and see `taskloom.choose.checks.checked`.

    Examples
    --------
    >>> import numpy as np
    >>> features = np.array([[1, 0, 2], [2, 1, 0], [0, 3, 1], [1, 4, 3], [3, 0, 0.5]])
    >>> other = features @ [[1, 0.2, 0], [0, 1, 0.3], [0.1, 0, 1]]
    >>> round(rsa(features, [0, 0, 1, 1, 0], other), 6)
    92.727273
    """
    matrix, indices, _ = checked("rsa", features, labels)
    reference = checked_beside("rsa", "reference_features", reference_features, n=len(indices))

    def value(rows: Ints) -> float:
        pair = (standardised("rsa", each[rows], components) for each in (matrix, reference))
        first, second = (dissimilarities(unit) for unit in pair)
        return 100 * spearman_of(first, second)

    return mean_over_draws(value, len(matrix), most=most, draws=draws, seed=seed)[0]
