"""H-score: the share of the features' variation that lies between the classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from taskloom.choose.checks import Floats, Ints, checked
from taskloom.choose.classes import class_sums
from taskloom.registry import register


@register(
    "score",
    paper="Bao et al., ICIP 2019; shrinkage: Ibrahim et al., 2021 (2110.06893)",
    partly={
        "PLM transferability estimation survey": "the scores, their seconds and rank correlations; the "
        "truth that runs correlate with is the accuracy of heads on frozen features, not of fine-tuning"
    },
)
def h_score(features: ArrayLike, labels: ArrayLike, *, regularised: bool = False) -> float:
    """Trace of the inverse feature covariance times the between-class covariance; higher is better.

    Where paper, code and we differ: the rank of the covariance is cut at max(N, D) machine epsilons
    of the largest singular value, where released code uses 1e-15, which lets rounding through.
    The shrunk form keeps the released mix: n - 1 between classes, n in the Ledoit-Wolf estimate.

    Parameters
    ----------
    features
        ``(N, D)`` of one source model on the target's examples.
    labels
        ``(N,)`` integers.
    regularised
        Shrink the feature covariance as Ledoit and Wolf (2004) do. Needed when N is not much larger
        than D: the plain score tends to C - 1 for any features once N <= D.

    Returns
    -------
    The plain form lies in [0, min(D, C - 1)] and is invariant to invertible affine maps; the shrunk
    form is at most N / (N - 1) times the plain one.

    Raises
    ------
    DataError, NumericalError
        See `taskloom.choose.checks.checked`.

    Examples
    --------
    >>> features = [[1, 0], [2, 0], [1, 1], [2, 1], [0, 2], [0, 3], [1, 3], [1, 2]]
    >>> round(h_score(features, [0, 0, 0, 0, 1, 1, 1, 1]), 6)
    0.833333
    >>> round(h_score(features, [0, 0, 0, 0, 1, 1, 1, 1], regularised=True), 6)
    0.747253
    """
    matrix, indices, counts = checked("h_score", features, labels)
    n, d = matrix.shape
    centred = matrix - matrix.mean(0)
    if not regularised:
        found = _by_inverse(centred, indices, counts)
        if found is not None:
            return found
    singular, sums = _directions(centred, indices, counts)
    between = (sums**2 / counts[:, None]).sum(0)  # squared length of each u_k after class averaging
    if not regularised:
        return float(between.sum())
    shrinkage = ledoit_wolf_shrinkage(centred, singular)
    spread = singular**2 / n
    floor = shrinkage * spread.sum() / d
    ratio = (1 - shrinkage) * (spread * n / (n - 1)) / ((1 - shrinkage) * spread + floor)
    return float((ratio * between).sum())


def _by_inverse(centred: Floats, indices: Ints, counts: Ints) -> float | None:
    """Return the plain score by the inverse of the D x D Gram matrix, half the time of its eigenvectors.

    None where there are no more examples than dimensions, or where its condition number, for which the
    product of Frobenius norms is an upper bound, is above 1e9: then rounding could be felt.
    """
    if len(centred) <= centred.shape[1]:
        return None
    gram = centred.T @ centred
    try:
        inverse = np.linalg.inv(gram)
    except np.linalg.LinAlgError:
        return None
    if not np.linalg.norm(gram) * np.linalg.norm(inverse) <= 1e9:
        return None
    sums = class_sums(centred, indices, counts)
    return float((((sums @ inverse) * sums).sum(1) / counts).sum())


def _directions(centred: Floats, indices: Ints, counts: Ints) -> tuple[Floats, Floats]:
    """Return the nonzero singular values (k,) and the class sums (C, k) of the left singular vectors.

    Where all squared singular values are within a factor 1e9 the D x D Gram matrix gives them to nine
    digits, in a fraction of the time; else the singular value decomposition.
    """
    n, d = centred.shape
    if n > d:
        squares, vectors = np.linalg.eigh(centred.T @ centred)
        if squares[0] > 1e-9 * squares[-1]:
            singular = np.sqrt(squares)
            return singular, class_sums(centred, indices, counts) @ vectors / singular
    u, singular, _ = np.linalg.svd(centred, full_matrices=False)
    keep = singular > singular[0] * max(n, d) * np.finfo(np.float64).eps
    return singular[keep], class_sums(u[:, keep], indices, counts)


def ledoit_wolf_shrinkage(centred: Floats, singular: Floats) -> float:
    """Share of the scaled identity in the Ledoit-Wolf covariance estimate (2004, lemma 3.2 ff.).

    Parameters
    ----------
    centred
        ``(N, D)`` with column means of zero.
    singular
        Its nonzero singular values.

    Returns
    -------
    A number in [0, 1]; 0 when the sample covariance already is a multiple of the identity.
    """
    n, d = centred.shape
    spread = singular**2 / n  # nonzero eigenvalues of the covariance S
    frobenius = (spread**2).sum()
    distance = frobenius - spread.sum() ** 2 / d  # ||S - tr(S) / D I||^2
    lengths = (centred**2).sum(1)
    noise = ((lengths**2).mean() - frobenius) / n  # mean over examples of ||x xT - S||^2, over n
    if distance <= frobenius * np.finfo(np.float64).eps * d:
        return 0.0
    return float(np.clip(noise / distance, 0.0, 1.0))
