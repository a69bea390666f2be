"""Principal components, exact and with fixed signs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.choose.checks import Floats
from taskloom.choose.moments import BLOCK, Moments, blocks


def reduce(matrix: Floats, components: int | None) -> Floats:
    """Return ``(N, k)`` scores on the leading components, or the matrix itself where it is no wider.

    Parameters
    ----------
    matrix
        ``(N, D)``.
    components
        Most columns to keep; None keeps all. At most N are kept.
    """
    if components is None or matrix.shape[1] <= components:
        return matrix
    return principal(matrix, components)[0]


def principal(matrix: Floats, components: int | None = None) -> tuple[Floats, Floats]:
    """Return scores ``(N, k)`` and variances ``(k,)`` of the leading components, largest first.

    k is ``components``, or min(N, D) if that is less or None. Found from the eigenvectors of the smaller
    of the two Gram matrices; the sign of a component is such that its largest loading is positive, which
    scikit-learn does, too. Variances are divided by N - 1.

    Examples
    --------
    >>> scores, variances = principal(np.array([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]]))
    >>> scores[:, 0], variances
    (array([-2.,  0.,  2.]), array([4., 0.]))
    """
    n, d = matrix.shape
    centred = matrix - matrix.mean(0)
    if n > d:
        values, loadings = _leading(centred.T @ centred, components)
        scores = centred @ loadings
    else:
        values, vectors = _leading(centred @ centred.T, components)
        scores = vectors * np.sqrt(np.maximum(values, 0.0))
        loadings = centred.T @ vectors
    return scores * _signs(loadings), np.maximum(values, 0.0) / max(n - 1, 1)


def reduced(features: NDArray[Any], found: Moments, components: int, *, block: int = BLOCK) -> Floats:
    """Return what `reduce` does of more rows than columns, of which no copy is made.

    Parameters
    ----------
    features
        ``(N, D)``, N > D >= components, as they are stored.
    found
        Their centred moments.
    """
    _, loadings = _leading(found.gram, components)
    loadings = loadings * _signs(loadings)
    scores = np.empty((len(features), components))
    for first, rows in blocks(features, block):
        np.matmul(rows - found.mean, loadings, out=scores[first : first + len(rows)])
    return scores


def _leading(gram: Floats, components: int | None) -> tuple[Floats, Floats]:
    """Return the leading eigenvalues (k,) and eigenvectors (D, k), largest first."""
    values, vectors = np.linalg.eigh(gram)
    return values[::-1][:components], vectors[:, ::-1][:, :components]


def _signs(loadings: Floats) -> Floats:
    """Return the sign (k,) of the largest loading of every component."""
    signs: Floats = np.sign(loadings[np.abs(loadings).argmax(0), np.arange(loadings.shape[1])])
    signs[signs == 0] = 1.0
    return signs
