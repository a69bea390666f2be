"""A linear probe: cross-validated accuracy of logistic regression on the frozen features."""

from __future__ import annotations

import warnings
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from taskloom.choose.checks import Floats, Ints, checked
from taskloom.errors import MissingExtra
from taskloom.registry import register


@register("score", paper="Bolya et al., NeurIPS 2021 (baseline)")
def linear_probe(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    folds: Annotated[int, Field(ge=2)] = 5,
    repeats: Annotated[int, Field(ge=1)] = 1,
    c: Annotated[float, Field(gt=0)] = 0.1,
    seed: int = 0,
) -> float:
    """Cross-validated accuracy of a logistic regression on standardised features; higher is better.

    Where paper, code and we differ: dbolya/parc fits one half and scores the other once, with at
    most 20 iterations; here every example is held out once per repeat and fits run to convergence.

    Parameters
    ----------
    features
        ``(N, D)`` of one source model on the target's examples.
    labels
        ``(N,)`` integers; every class needs two examples.
    folds
        Stratified folds; fewer when the smallest class has fewer examples.
    repeats
        Different seeded partitions to average over.
    c
        Inverse strength of the L2 penalty; features are standardised on each training part.
    seed
        Of the partitions.

    Returns
    -------
    Accuracy in [0, 1].

    Raises
    ------
    DataError, NumericalError
        See `taskloom.choose.checks.checked`.
    MissingExtra
        scikit-learn is not installed.
    """
    matrix, indices, counts = checked("linear_probe", features, labels, per_class=2)
    try:
        from sklearn.model_selection import StratifiedKFold
    except ImportError:
        raise MissingExtra("scikit-learn", "run", purpose="the score 'linear_probe'") from None
    right = 0
    for repeat in range(repeats):
        splitter = StratifiedKFold(
            min(folds, int(counts.min())), shuffle=True, random_state=(seed * 1000 + repeat) % 2**32
        )
        for fit, held in splitter.split(matrix, indices):
            right += _right(matrix, indices, fit, held, c)
    return right / (repeats * len(matrix))


def _right(matrix: Floats, indices: Ints, fit: Ints, held: Ints, c: float) -> int:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    mean, scale = matrix[fit].mean(0), matrix[fit].std(0)
    scale[scale <= 1e-8 * np.maximum(np.abs(mean), 1.0)] = 1.0
    model = LogisticRegression(C=c, max_iter=1000)
    # these products are small: more threads only wait for each other
    with warnings.catch_warnings(), threadpool_limits(1, user_api="blas"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit((matrix[fit] - mean) / scale, indices[fit])
    return int((model.predict((matrix[held] - mean) / scale) == indices[held]).sum())
