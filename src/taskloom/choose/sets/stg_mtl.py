"""STG-MTL: tasks grouped by which examples are easy, hard or unsteady while they are learned."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from taskloom.choose.checks import Floats
from taskloom.choose.kmeans import distances, kmeans
from taskloom.choose.set_choice import SetChoice, checked_size
from taskloom.errors import DataError, NumericalError
from taskloom.registry import register


@register(
    "set",
    paper="Sherif, Abid, Elattar and ElHelw, STG-MTL, ICML workshop 2023 (2307.03374)",
    partly={
        "STG-MTL": "data maps, groups and memberships are made; training every group, beside random "
        "groups and one joint model over growing numbers of tasks, is not measured"
    },
)
def stg_mtl(
    confidences: ArrayLike,
    *,
    size: Annotated[int, Field(ge=1)] = 4,
    fuzziness: Annotated[float, Field(gt=1)] = 1.07,
    seed: int = 0,
) -> SetChoice:
    """Group tasks by k-means on their data maps; a task may belong to several groups by shares.

    A task's data map has two numbers for every example: mean and standard deviation (over epochs, n - 1)
    of the probability of its right class. Shares fall with distance to the power ``-2 / (fuzziness -
    1)``.

    Where paper, code and we differ: the released code starts k-means without a seed, and divides by a
    distance of 0. With one epoch its deviations are NaN; we refuse.

    Parameters
    ----------
    confidences
        ``(K, E, N)`` probabilities of the right class: tasks, epochs, examples. The N examples are the
        same for every task, in the same order.
    size
        How many groups.
    fuzziness
        Near 1: shares are near 0 and 1.
    seed
        Of the starts.

    Raises
    ------
    DataError
        Another shape, fewer than two epochs, no probabilities, or a size that does not fit.
    NumericalError
        NaN or infinity.

    Examples
    --------
    >>> easy, hard = [[0.8, 0.9], [0.9, 0.9]], [[0.1, 0.2], [0.2, 0.1]]
    >>> stg_mtl([easy, hard, easy], size=2).groups
    (0, 1, 0)
    """
    table = np.asarray(confidences, dtype=np.float64)
    if table.ndim != 3 or table.shape[1] < 2 or not table.size:
        raise DataError(
            f"stg_mtl: expected confidences (tasks, epochs, examples) of two epochs or more, "
            f"found {table.shape}",
            hint="Record the probability of the right class after every epoch",
        )
    if not np.isfinite(table).all():
        raise NumericalError("stg_mtl: expected finite confidences, found NaN or infinity")
    if table.min() < 0 or table.max() > 1:
        raise DataError(
            f"stg_mtl: expected probabilities in [0, 1], found {table.min():.4g} to {table.max():.4g}",
            hint="Pass the probability of the right class",
        )
    checked_size("stg_mtl", size, len(table))
    maps = data_maps(table)
    found = kmeans(maps, size, seed=seed)
    apart = np.sqrt(distances(maps, found.centres))
    shares = memberships(apart, fuzziness)
    members = [np.flatnonzero(found.groups == g) for g in range(size)]
    chosen = [int(rows[apart[rows, g].argmin()]) for g, rows in enumerate(members)]
    reasons = tuple(
        f"group {g + 1} with {shares[i, g]:.3f}; mean confidence {table[i].mean():.3f}"
        for i, g in enumerate(found.groups)
    )
    return SetChoice(
        tuple(chosen),
        tuple(float(shares[c, g]) for g, c in enumerate(chosen)),
        tuple(int(g) for g in found.groups),
        shares,
        reasons,
        f"squared distances within groups sum to {found.spread:.6g}",
    )


def data_maps(confidences: Floats) -> Floats:
    """Return ``(K, 2 N)``: mean and deviation (n - 1) of every example, side by side.

    Examples
    --------
    >>> data_maps(np.array([[[0.2], [0.4], [0.9]]])).round(6).tolist()
    [[0.5, 0.360555]]
    """
    pairs = np.stack([confidences.mean(1), confidences.std(1, ddof=1)], axis=2)
    return pairs.reshape(len(confidences), -1)


def memberships(apart: Floats, fuzziness: float) -> Floats:
    """Return ``(K, G)`` shares of groups at distances ``(K, G)``; all to a group at distance 0.

    Examples
    --------
    >>> memberships(np.array([[1.0, 1.05]]), 1.07).round(6).tolist()
    [[0.801231, 0.198769]]
    """
    nearest = apart.min(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(nearest > 0, apart / nearest, np.where(apart == 0, 1.0, np.inf))
        weight = relative ** (-2 / (fuzziness - 1))
    shares: Floats = weight / weight.sum(1, keepdims=True)
    return shares
