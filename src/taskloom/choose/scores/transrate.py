"""TransRate: how much shorter the code of the features gets once the classes are known."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from taskloom.choose.checks import Floats, checked, checked_rows
from taskloom.choose.classes import members
from taskloom.choose.moments import moments
from taskloom.registry import register


@register("score", paper="Huang et al., ICML 2022 (2106.09362), eq. 4 and 5")
def transrate(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: Annotated[float, Field(gt=0)] = 1e-4,
    weighted: bool = True,
    unit_rows: bool = False,
) -> float:
    """Coding rate of the features minus that within the classes; higher is better.

    ``R(Z) = 1/2 ln det(I + Z^T Z / (n epsilon))`` of the centred features, minus the same of the rows of
    each class (not centred again), weighted by the class's share.

    Where paper, code and we differ: the listing in the paper's appendix and thuml's library give every
    class the weight 1/C (``weighted=False``); the released code scales rows to unit length after
    centring (``unit_rows=True``), the paper's formula does not. Determinants are taken of the smaller of
    Z^T Z and Z Z^T, which are equal.

    Parameters
    ----------
    features
        ``(N, D)`` of one source model on the target's examples.
    labels
        ``(N,)`` integers.
    epsilon
        Squared distortion of the code, in squared units of the features.
    weighted
        Weigh classes by their size.
    unit_rows
        Scale every centred row to length 1; rows of length 0 stay.

    Returns
    -------
    Nats, at least 0 when weighted. Exactly 0 for two classes of equal size and spread that lie
    symmetrically about the mean, however far apart. Depends on the features' scale.

    Raises
    ------
    DataError, NumericalError
        See `taskloom.choose.checks.checked`.

    Examples
    --------
    >>> features = [[3, 0], [3.2, 0.1], [0, 3], [0.1, 3.1], [-2, -2], [-2.2, -1.9]]
    >>> round(transrate(features, [0, 0, 1, 1, 2, 2]), 6)
    2.988934
    """
    rows, indices, counts = checked_rows("transrate", features, labels)
    n, d = rows.shape
    shares = counts / counts.sum() if weighted else np.full(len(counts), 1 / len(counts))
    if n > d and not unit_rows:
        found = moments("transrate", rows, indices, counts, centred=True)
        mean, whole = found.mean, _rate(found.gram, n, epsilon)
    else:
        matrix, _, _ = checked("transrate", rows, labels)
        mean = matrix.mean(0)
        whole = _rate(_smaller_gram(_centred(matrix, mean, unit_rows)), n, epsilon)
    rates = [
        _rate(_smaller_gram(_centred(rows[of_class], mean, unit_rows)), len(of_class), epsilon)
        for of_class in members(indices, counts)
    ]
    return float(whole - shares @ np.asarray(rates))


def _centred(rows: NDArray[Any], mean: Floats, unit_rows: bool) -> Floats:
    centred: Floats = rows - mean
    if unit_rows:
        norms = np.linalg.norm(centred, axis=1, keepdims=True)
        centred /= np.where(norms > 0, norms, 1.0)
    return centred


def _smaller_gram(rows: Floats) -> Floats:
    found: Floats = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
    return found


def _rate(gram: Floats, n: int, epsilon: float) -> float:
    """Return the coding rate of n rows by the Gram matrix of them or of their columns."""
    scaled = gram / (n * epsilon)
    scaled.flat[:: len(scaled) + 1] += 1.0
    return float(np.linalg.slogdet(scaled)[1] / 2)
