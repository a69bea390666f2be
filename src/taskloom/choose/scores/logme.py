"""LogME: how well a Bayesian linear model explains the labels from the features."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from taskloom.choose.checks import checked, checked_rows
from taskloom.choose.evidence import evidence_of, gram_spectrum, maximise_evidence
from taskloom.choose.moments import moments
from taskloom.registry import register


@register("score", paper="You et al., ICML 2021 (arXiv 2102.11005) and JMLR 2022 (2110.10545)")
def logme(features: ArrayLike, labels: ArrayLike, *, exact: bool = True) -> float:
    """Log maximum evidence per example, averaged over one-vs-rest targets; higher is better.

    Where paper, code and we differ: the released code (thuml/LogME) sums the log determinant over
    min(N, D) terms, which is too few when N < D; ``exact=False`` reproduces its number.
    Classes that do not occur among the labels are left out; the release scores them as all zeros.

    Parameters
    ----------
    features
        ``(N, D)`` of one source model on the target's examples; neither centred nor scaled here,
        because the score depends on both.
    labels
        ``(N,)`` integers.
    exact
        Count all D terms of the log determinant.

    Returns
    -------
    Nats per example. Comparable between sources on the same examples only.

    Raises
    ------
    DataError, NumericalError
        See `taskloom.choose.checks.checked`.

    Examples
    --------
    >>> features = [[1, 0], [2, 0], [1, 1], [2, 1], [0, 2], [0, 3], [1, 3], [1, 2]]
    >>> round(logme(features, [0, 0, 0, 0, 1, 1, 1, 1]), 6)
    -0.589508
    """
    rows, indices, counts = checked_rows("logme", features, labels)
    if len(rows) <= rows.shape[1]:
        matrix, indices, counts = checked("logme", rows, labels)
        targets = np.eye(len(counts))[indices]
        return float(maximise_evidence(matrix, targets, exact=exact).values.mean())
    found = moments("logme", rows, indices, counts, centred=False)
    values, power = gram_spectrum(found.gram, found.sums.T, found.n)  # F^T of 0 and 1 is a class sum
    squares = counts.astype(np.float64)
    return float(evidence_of(rows.shape, values, power, squares, exact=exact).values.mean())
