"""H-score: the share of the features' variation that lies between the classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from taskloom.choose.checks import Floats, Ints, checked, checked_rows
from taskloom.choose.classes import class_sums
from taskloom.choose.moments import Moments, moments, squared_lengths
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
    rows, indices, counts = checked_rows("h_score", features, labels)
    if len(rows) > rows.shape[1]:
        found = moments("h_score", rows, indices, counts, centred=True)
        if not regularised:
            plain = _by_inverse(found, counts)
            if plain is not None:
                return plain
        eigen = _by_eigenvectors(found)
        if eigen is not None:
            singular, sums = eigen
            if not regularised:
                return _plain(sums, counts)
            return _shrunk(singular, sums, counts, squared_lengths(rows, found.mean), rows.shape[1])
    matrix, _, _ = checked("h_score", rows, labels)
    centred = matrix - matrix.mean(0)
    singular, sums = _by_singular_values(centred, indices, counts)
    if not regularised:
        return _plain(sums, counts)
    return _shrunk(singular, sums, counts, (centred**2).sum(1), rows.shape[1])


def _plain(sums: Floats, counts: Ints) -> float:
    """Return the plain score from class sums (C, k) of the left singular vectors."""
    return float((sums**2 / counts[:, None]).sum())


def _shrunk(singular: Floats, sums: Floats, counts: Ints, lengths: Floats, d: int) -> float:
    """Return the shrunk score, with squared lengths (N,) of the centred rows of D numbers."""
    n = len(lengths)
    spread = singular**2 / n
    shrinkage = _shrinkage(spread, lengths, d)
    floor = shrinkage * spread.sum() / d
    ratio = (1 - shrinkage) * (spread * n / (n - 1)) / ((1 - shrinkage) * spread + floor)
    between = (sums**2 / counts[:, None]).sum(0)  # squared length of each u_k after class averaging
    return float((ratio * between).sum())


def _by_inverse(found: Moments, counts: Ints) -> float | None:
    """Return the plain score by the inverse of the D x D Gram matrix, half the time of its eigenvectors.

    None where its condition number, for which the product of Frobenius norms is an upper bound, is above
    1e9: then rounding could be felt.
    """
    try:
        inverse = np.linalg.inv(found.gram)
    except np.linalg.LinAlgError:
        return None
    if not np.linalg.norm(found.gram) * np.linalg.norm(inverse) <= 1e9:
        return None
    return float((((found.sums @ inverse) * found.sums).sum(1) / counts).sum())


def _by_eigenvectors(found: Moments) -> tuple[Floats, Floats] | None:
    """Return the singular values (D,) and the class sums (C, D) of the left singular vectors.

    From the eigenvectors of the D x D Gram matrix, which give them to nine digits where all squared
    singular values are within a factor 1e9; None where they are not.
    """
    squares, vectors = np.linalg.eigh(found.gram)
    if squares[0] <= 1e-9 * squares[-1]:
        return None
    singular = np.sqrt(squares)
    return singular, found.sums @ vectors / singular


def _by_singular_values(centred: Floats, indices: Ints, counts: Ints) -> tuple[Floats, Floats]:
    """Return the k singular values above rounding and the class sums (C, k) of their left vectors."""
    n, d = centred.shape
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
    return _shrinkage(singular**2 / len(centred), (centred**2).sum(1), centred.shape[1])


def _shrinkage(spread: Floats, lengths: Floats, d: int) -> float:
    """Do the work from the nonzero eigenvalues of the covariance S and squared lengths (N,) of rows."""
    frobenius = (spread**2).sum()
    distance = frobenius - spread.sum() ** 2 / d  # ||S - tr(S) / D I||^2
    if distance <= frobenius * np.finfo(np.float64).eps * d:
        return 0.0
    # mean over examples of ||x xT - S||^2, over n
    noise = ((lengths**2).mean() - frobenius) / len(lengths)
    return float(np.clip(noise / distance, 0.0, 1.0))
