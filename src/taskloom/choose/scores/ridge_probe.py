"""A ridge probe: cross-validated share of the targets' variance that frozen features explain."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from taskloom.choose.checks import Floats, checked_targets
from taskloom.errors import DataError
from taskloom.registry import register


@register("score", paper="Hoerl and Kennard, Technometrics 1970; penalty: Allen, Technometrics 1974")
def ridge_probe(
    features: ArrayLike,
    targets: ArrayLike,
    *,
    folds: Annotated[int, Field(ge=2)] = 5,
    repeats: Annotated[int, Field(ge=1)] = 1,
    penalties: tuple[Annotated[float, Field(gt=0)], ...] = (0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0),
    seed: int = 0,
) -> float:
    """Cross-validated R^2 of a ridge regression on standardised features; higher is better.

    The counterpart of ``linear_probe`` for numbers. The penalty is chosen on each training part by its
    leave-one-out error, which has a closed form (Allen's PRESS).

    Parameters
    ----------
    features
        ``(N, D)`` of one source model on the target's examples.
    targets
        ``(N,)`` or ``(N, K)`` numbers, see ``logme_regression``.
    folds
        Each holds every ``folds``-th example of a seeded order; at most N.
    repeats
        Different orders to average over.
    penalties
        To choose from, in squared units of the standardised features.
    seed
        Of the orders.

    Returns
    -------
    1 minus the squared error over that of the training part's mean, averaged over the K targets: at most
    1; below 0 when the probe is worse than the mean.

    Raises
    ------
    DataError
        More folds than examples, or no penalty; and see `taskloom.choose.checks.checked_targets`.
    NumericalError
        See `taskloom.choose.checks.checked_targets`.
    """
    matrix, columns = checked_targets("ridge_probe", features, targets)
    if folds > len(matrix) or not penalties:
        raise DataError(
            f"ridge_probe: expected at most {len(matrix)} folds, one for each example, and a penalty, "
            f"found {folds} and {len(penalties)}",
            hint="Lower folds, or leave penalties out",
        )
    error, plain = np.zeros(columns.shape[1]), np.zeros(columns.shape[1])
    for repeat in range(repeats):
        order = np.random.default_rng([seed % 2**32, repeat]).permutation(len(matrix))
        for fold in range(folds):
            held = order[fold::folds]
            fit = np.setdiff1d(order, held)
            guess = _predict(matrix[fit], columns[fit], matrix[held], penalties)
            error += ((columns[held] - guess) ** 2).sum(0)
            plain += ((columns[held] - columns[fit].mean(0)) ** 2).sum(0)
    return float((1 - error / plain).mean())


def _predict(fit: Floats, known: Floats, held: Floats, penalties: tuple[float, ...]) -> Floats:
    """Return ``(H, K)`` predictions for the held rows, each column at its own best penalty."""
    mean, scale = fit.mean(0), fit.std(0)
    scale[scale <= 1e-8 * np.maximum(np.abs(mean), 1.0)] = np.inf  # what is constant says nothing
    u, singular, vt = np.linalg.svd((fit - mean) / scale, full_matrices=False)
    middle = known.mean(0)
    along = u.T @ (known - middle)  # (k, K)
    best, result = np.full(known.shape[1], np.inf), np.tile(middle, (len(held), 1))
    ahead = ((held - mean) / scale) @ vt.T
    for penalty in penalties:
        shrunk = singular**2 / (singular**2 + penalty)
        leverage = (u**2 * shrunk).sum(1) + 1 / len(fit)  # the mean is fitted, too
        left = known - middle - u @ (shrunk[:, None] * along)
        press = ((left / np.maximum(1 - leverage, 1e-12)[:, None]) ** 2).sum(0)
        better = press < best
        weights = (singular / (singular**2 + penalty))[:, None] * along
        result[:, better] = (middle + ahead @ weights)[:, better]
        best = np.minimum(best, press)
    return result
