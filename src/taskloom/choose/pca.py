"""Principal components, exact and with fixed signs."""

from __future__ import annotations

import numpy as np

from taskloom.choose.checks import Floats


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
        values, vectors = np.linalg.eigh(centred.T @ centred)
        values, loadings = values[::-1][:components], vectors[:, ::-1][:, :components]
        scores = centred @ loadings
    else:
        values, vectors = np.linalg.eigh(centred @ centred.T)
        values, vectors = values[::-1][:components], vectors[:, ::-1][:, :components]
        scores = vectors * np.sqrt(np.maximum(values, 0.0))
        loadings = centred.T @ vectors
    signs = np.sign(loadings[np.abs(loadings).argmax(0), np.arange(loadings.shape[1])])
    signs[signs == 0] = 1.0
    return scores * signs, np.maximum(values, 0.0) / max(n - 1, 1)
