"""Evidence of a Bayesian linear model, maximised by fixed-point iteration for many targets at once.

The model of MacKay (1992), as used by You et al. (2021): weights ``w ~ N(0, I / alpha)``, targets
``t ~ N(F w, I / beta)``, no intercept. Its log evidence is the log density of ``t`` under
``N(0, I / beta + F Fᵀ / alpha)``; the eigenvalues of the smaller Gram matrix of F make every iteration
cost O(min(N, D)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from taskloom.choose.checks import Floats, Ints

FLOOR = 1e-5  #: added to both denominators of the update, as in the released code


@dataclass(frozen=True)
class Evidence:
    """Result for C targets.

    Attributes
    ----------
    values
        ``(C,)`` log evidence divided by N, in nats per example.
    alpha, beta
        ``(C,)`` precisions of weights and noise after the last update.
    iterations
        ``(C,)`` updates done.
    """

    values: Floats
    alpha: Floats
    beta: Floats
    iterations: Ints


def maximise_evidence(
    features: Floats,
    targets: Floats,
    *,
    exact: bool = True,
    max_iterations: int = 11,
    tolerance: float = 1e-3,
) -> Evidence:
    """Fit alpha and beta to each column of ``targets`` and return the evidence.

    Parameters
    ----------
    features
        ``(N, D)``, neither centred nor extended by a constant.
    targets
        ``(N, C)``, one problem per column.
    exact
        Count all D terms of the log determinant; False leaves out those beyond min(N, D), which
        is what the released code does.
    max_iterations, tolerance
        An iteration stops a target once alpha / beta changes by no more than this share.
    """
    eigenvalues, power = spectrum(features, targets)
    return evidence_of(
        features.shape,
        eigenvalues,
        power,
        (targets**2).sum(0),
        exact=exact,
        max_iterations=max_iterations,
        tolerance=tolerance,
    )


def evidence_of(
    shape: tuple[int, ...],
    eigenvalues: Floats,
    power: Floats,
    squares: Floats,
    *,
    exact: bool = True,
    max_iterations: int = 11,
    tolerance: float = 1e-3,
) -> Evidence:
    """Do the work of `maximise_evidence` where features and targets are known by their spectrum alone.

    Parameters
    ----------
    shape
        (N, D) of the features.
    eigenvalues, power
        ``(k,)`` and ``(k, C)``, as of `spectrum`.
    squares
        ``(C,)`` squared length of each target.
    """
    n, d = shape
    sigma = eigenvalues[:, None]  # (k, 1)
    outside = np.maximum(squares - power.sum(0), 0.0)  # (C,)

    columns = len(squares)
    alpha, beta = np.ones(columns), np.ones(columns)
    m2, res2 = np.zeros(columns), np.zeros(columns)
    iterations = np.zeros(columns, dtype=np.int64)
    active = np.arange(columns)
    for _ in range(max_iterations):
        ratio = alpha[active] / beta[active]
        x2 = power[:, active]
        gamma = (sigma / (sigma + ratio)).sum(0)
        m2[active] = (sigma * x2 / (ratio + sigma) ** 2).sum(0)
        res2[active] = (x2 / (1 + sigma / ratio) ** 2).sum(0) + outside[active]
        alpha[active] = gamma / (m2[active] + FLOOR)
        beta[active] = (n - gamma) / (res2[active] + FLOOR)
        iterations[active] += 1
        moved = np.abs(alpha[active] / beta[active] - ratio) / ratio
        active = active[moved > tolerance]
        if not len(active):
            break

    log_det = np.log(alpha + beta * sigma).sum(0)
    if exact:
        log_det = log_det + max(d - len(sigma), 0) * np.log(alpha)
    total = (
        d / 2 * np.log(alpha)
        + n / 2 * np.log(beta)
        - log_det / 2
        - beta / 2 * res2
        - alpha / 2 * m2
        - n / 2 * np.log(2 * np.pi)
    )
    return Evidence(total / n, alpha, beta, iterations)


def spectrum(features: Floats, targets: Floats) -> tuple[Floats, Floats]:
    """Return the squared singular values of F and how much of each target lies along each direction.

    Directions whose squared singular value is lost in the rounding of the largest have value 0 and
    nothing along them: in the evidence they count like what lies outside F's span.

    Parameters
    ----------
    features, targets
        ``(N, D)`` and ``(N, C)``.

    Returns
    -------
    ``(k,)`` and ``(k, C)`` squared coordinates, k = min(N, D).

    Examples
    --------
    >>> values, power = spectrum(np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), np.ones((3, 1)))
    >>> values, power[:, 0]
    (array([1., 4.]), array([1., 1.]))
    """
    n, d = features.shape
    if n > d:
        return gram_spectrum(features.T @ features, features.T @ targets, n)
    values, vectors = np.linalg.eigh(features @ features.T)
    kept = values > values[-1] * d * np.finfo(np.float64).eps
    return np.where(kept, values, 0.0), np.where(kept[:, None], (vectors.T @ targets) ** 2, 0.0)


def gram_spectrum(gram: Floats, products: Floats, n: int) -> tuple[Floats, Floats]:
    """Do the work of `spectrum` where there are more rows than columns, from products alone.

    Parameters
    ----------
    gram, products
        ``F^T F`` (D, D) and ``F^T T`` (D, C).
    n
        Rows of F, more than D.
    """
    values, vectors = np.linalg.eigh(gram)
    kept = values > values[-1] * n * np.finfo(np.float64).eps
    power = (vectors.T @ products) ** 2 / np.where(kept, values, 1.0)[:, None]
    return np.where(kept, values, 0.0), np.where(kept[:, None], power, 0.0)
