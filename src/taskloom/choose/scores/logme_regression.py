"""LogME for regression: how well a Bayesian linear model explains numbers from the features."""

from __future__ import annotations

from numpy.typing import ArrayLike

from taskloom.choose.checks import checked_targets
from taskloom.choose.evidence import maximise_evidence
from taskloom.registry import register


@register("score", paper="You et al., ICML 2021 (arXiv 2102.11005) and JMLR 2022 (2110.10545)")
def logme_regression(features: ArrayLike, targets: ArrayLike, *, exact: bool = True) -> float:
    """Log maximum evidence per example of the numbers to predict; higher is better.

    Where paper, code and we differ: as for ``logme``. Neither features nor targets are centred or
    scaled, as in paper and code: the score depends on the targets' unit, the same for all sources.

    Parameters
    ----------
    features
        ``(N, D)`` of one source model on the target's examples.
    targets
        ``(N,)`` or ``(N, K)`` numbers; integers are taken as the quantities they are, so class numbers
        make sense only where classes are ordered and evenly spaced, such as stars of reviews.
    exact
        Count all D terms of the log determinant, see ``logme``.

    Returns
    -------
    Nats per example, averaged over the K targets. Comparable between sources on the same examples only.

    Raises
    ------
    DataError, NumericalError
        See `taskloom.choose.checks.checked_targets`.

    Examples
    --------
    >>> features = [[1, 0], [2, 0], [1, 1], [2, 1], [0, 2], [0, 3], [1, 3], [1, 2]]
    >>> round(logme_regression(features, [1.0, 1, 1, 1, 0, 0, 0, 0]), 6)
    -0.791355
    """
    matrix, columns = checked_targets("logme_regression", features, targets)
    return float(maximise_evidence(matrix, columns, exact=exact).values.mean())
