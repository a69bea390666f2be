"""LEEP: how well the source model's own classes predict the target's labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from taskloom.choose.checks import Floats, Ints, checked, checked_probabilities
from taskloom.choose.classes import class_sums
from taskloom.registry import register


@register("score", paper="Nguyen, Hassner, Seeger and Archambeau, ICML 2020 (2002.12462), eq. 2")
def leep(
    features: ArrayLike,
    labels: ArrayLike,
    source_probabilities: ArrayLike,
    *,
    logarithm: bool = True,
) -> float:
    """Mean log probability of the labels, predicted from the source model's classes; higher is better.

    ``1/n sum_i ln sum_z P(y_i|z) theta_i(z)``, P(y|z) from the empirical joint distribution of labels y
    and source probabilities theta.

    Where paper, code and we differ: TencentARC/SFDA leaves out the logarithm, which can change the
    order of sources; ``logarithm=False`` reproduces it. A source class of probability 0 everywhere is
    left out here, where thuml/LogME divides by zero.

    Parameters
    ----------
    features
        ``(N, D)`` of the source model; checked, but not looked at.
    labels
        ``(N,)`` integers.
    source_probabilities
        ``(N, S)``: the source head's softmax over the S classes of its own task for each example.
        `taskloom.choose.rank` fills it in from the source's head.
    logarithm
        False: the mean of the probabilities themselves, in (0, 1].

    Returns
    -------
    Nats, at most 0, which is reached when each source class has one target class and is certain.

    Raises
    ------
    DataError
        Rows that are no probabilities; and see `taskloom.choose.checks.checked`.
    NumericalError
        See `taskloom.choose.checks.checked`.

    Examples
    --------
    >>> theta = [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7]]
    >>> round(leep(theta, [0, 0, 1, 1], theta), 6)
    -0.422034
    """
    _, indices, counts = checked("leep", features, labels)
    theta = checked_probabilities("leep", source_probabilities, len(indices))
    return expected_prediction(theta, indices, counts, logarithm=logarithm)


def expected_prediction(theta: Floats, indices: Ints, counts: Ints, *, logarithm: bool) -> float:
    """Return LEEP of ``theta`` (N, S), whose rows are probabilities, for checked labels."""
    joint = class_sums(theta, indices, counts)  # (C, S)
    marginal = joint.sum(0)
    conditional = np.divide(joint, marginal, out=np.zeros_like(joint), where=marginal > 0)
    found = np.einsum("ns,ns->n", theta, conditional[indices])
    return float(np.log(found).mean() if logarithm else found.mean())
