"""NCE: how little a source model's predictions leave open about the target's labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from taskloom.choose.checks import checked
from taskloom.errors import DataError
from taskloom.registry import register


@register("score", paper="Tran, Nguyen and Hassner, ICCV 2019 (1908.08142), section 3.2")
def nce(features: ArrayLike, labels: ArrayLike, source_labels: ArrayLike) -> float:
    """Negative conditional entropy of the labels given the source model's; higher is better.

    ``sum_z p(z) sum_y p(y|z) ln p(y|z)`` over the empirical joint distribution of target labels y and
    source predictions z.

    Where paper, code and we differ: dbolya/parc adds 1e-5 to joint and marginal probabilities, which
    moves the fourth decimal; thuml/LogME's version takes 0 ln 0 as NaN, and does not run as released.
    We follow the paper, with 0 ln 0 = 0.

    Parameters
    ----------
    features
        ``(N, D)`` of the source model; checked, but not looked at.
    labels
        ``(N,)`` integers.
    source_labels
        ``(N,)`` integers: the class of its own task that the source model predicts for each example.
        `taskloom.choose.rank` fills it in from the source's head.

    Returns
    -------
    Nats in [-ln C, 0]; 0 if each source class occurs with one target class only, which is trivially so
    when there are about as many source classes as examples.

    Raises
    ------
    DataError
        Source labels of another length, or that are no integers; and see
        `taskloom.choose.checks.checked`.
    NumericalError
        See `taskloom.choose.checks.checked`.

    Examples
    --------
    >>> features = np.arange(8.0)[:, None]
    >>> round(nce(features, [0, 0, 1, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 2, 2, 2]), 6)
    -0.41198
    """
    _, indices, counts = checked("nce", features, labels)
    given = np.asarray(source_labels)
    if given.shape != indices.shape or not np.issubdtype(given.dtype, np.integer):
        raise DataError(
            f"nce: expected {len(indices)} integers as source_labels, "
            f"found shape {given.shape} of dtype {given.dtype}",
            hint="Pass the class that the source model predicts for each example",
        )
    source, z = np.unique(given, return_inverse=True)
    pairs = np.bincount(indices * len(source) + z, minlength=len(counts) * len(source))
    joint = pairs.reshape(len(counts), len(source)) / len(indices)
    conditional = joint / joint.sum(0)
    seen = joint > 0
    return float((joint[seen] * np.log(conditional[seen])).sum())
