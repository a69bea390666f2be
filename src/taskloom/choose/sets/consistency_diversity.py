"""Consistency and diversity: sources whose examples look like the target's and together span it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from taskloom.choose.checks import Floats
from taskloom.choose.set_choice import SetChoice, checked_size, checked_table
from taskloom.errors import DataError
from taskloom.registry import register


@register(
    "set",
    paper="Xu et al., Towards few-shot adaptation of foundation models via multitask finetuning, "
    "ICLR 2024 (2402.15017)",
    partly={
        "Multitask finetuning with task selection (diversity, consistency)": "sources are chosen; "
        "fine-tuning on them beside all sources and direct adaptation is not measured"
    },
)
def consistency_diversity(
    target_embeddings: ArrayLike,
    source_embeddings: Sequence[ArrayLike],
    *,
    size: Annotated[int, Field(ge=1)] = 4,
    bandwidth: Annotated[float, Field(gt=0)] = 0.5,
    least_ratio: Annotated[float, Field(gt=0)] = 0.5,
    share: Annotated[float, Field(ge=0, le=1)] = 0.5,
    directions: Annotated[int, Field(ge=1)] = 8,
    least_gain: Annotated[float, Field(ge=0, lt=1)] = 0.01,
) -> SetChoice:
    """Leave out sources that are unlike the target, then add those whose directions it still lacks.

    A source is consistent where at least ``share`` of its examples are, by density, at home in the
    target: kernel densities of target over source of at least ``least_ratio``. Among these the one is
    added next that leaves the least of the target outside the joint span, ``|T V V^T - T|``, until
    ``size`` are taken or the best of the rest lessens it by a share below ``least_gain``. If no source
    is consistent, none is taken.

    Where paper, code and we differ: the released code (OliverXUZY/Foudation-Model_Multitask) draws
    episodes of few examples, and takes one that is consistent and leaves less than 27.9 (a number for
    its model and sizes) outside its own span; here candidates are whole sources, each stands by its
    leading ``directions`` (all of a source's examples would span everything), and sources are added as
    long as they bring something, as the paper's algorithm adds tasks. Densities are compared as
    logarithms, which neither vanish nor overflow in hundreds of dimensions.

    Parameters
    ----------
    target_embeddings
        ``(M, D)`` of the target's examples by the model that is to be tuned; no labels.
    source_embeddings
        K times ``(N_k, D)`` of the sources' examples by the same model.
    size
        How many sources at most.
    bandwidth
        Of the Gaussian kernels, in units of the embeddings.
    least_ratio, share
        See above.
    directions
        Leading right singular vectors by which a source stands.
    least_gain
        See above.

    Raises
    ------
    DataError
        Widths that differ, an empty source, or a size that does not fit.
    NumericalError
        NaN or infinity.

    Examples
    --------
    >>> target = [[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]]
    >>> near, other = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]
    >>> consistency_diversity(target, [near, other], size=2, bandwidth=2.0).chosen
    (1, 0)
    """
    name = "consistency_diversity"
    target = checked_table(name, "target_embeddings", target_embeddings)
    sources = [checked_table(name, "source_embeddings", each) for each in source_embeddings]
    widths = {target.shape[1], *(each.shape[1] for each in sources)}
    if len(widths) != 1:
        raise DataError(
            f"{name}: expected embeddings of one width, found {', '.join(map(str, sorted(widths)))}",
            hint="Embed target and sources by the same model",
        )
    checked_size(name, size, len(sources))
    ratios = [log_ratios(each, target, bandwidth) for each in sources]
    alike = np.array([float((each >= np.log(least_ratio)).mean()) for each in ratios])
    basis = np.zeros((0, target.shape[1]))
    whole = float(np.linalg.norm(target))
    error, left = whole, [int(k) for k in np.flatnonzero(alike >= share)]
    chosen: list[int] = []
    values: list[float] = []
    while left and len(chosen) < size:
        spans = [joined(basis, sources[k], directions) for k in left]
        errors = [outside(target, each) for each in spans]
        best = int(np.argmin(errors))
        if chosen and error - errors[best] < least_gain * error:
            break
        values.append(error - errors[best])
        error, basis = errors[best], spans[best]
        chosen.append(left.pop(best))
    reasons = tuple(
        f"{'taken' if k in chosen else 'adds too little' if a >= share else 'unlike the target'}: "
        f"{100 * a:.0f} % of its examples are at home there"
        for k, a in enumerate(alike)
    )
    note = (
        f"{len(chosen)} of {len(sources)} sources span all but {error:.4g} of the target's {whole:.4g}"
        if chosen
        else "no source is consistent with the target"
    )
    return SetChoice(tuple(chosen), tuple(values), (), None, reasons, note)


def log_ratios(points: Floats, target: Floats, bandwidth: float, own: Floats | None = None) -> Floats:
    """Return ``(N,)`` logarithms of the target's over the source's own kernel density at points.

    Parameters
    ----------
    points
        ``(N, D)``; examples of the source.
    target
        ``(M, D)``.
    own
        ``(L, D)`` the source by which density is told; the points themselves if None.

    Examples
    --------
    >>> points, target = np.array([[0.0], [0.25], [2.0]]), np.array([[0.0], [0.5]])
    >>> np.exp(log_ratios(points, target, 0.5, np.array([[0.0], [2.0]]))).round(6).tolist()
    [1.605992, 1.995055, 0.011441]
    """
    return log_density(points, target, bandwidth) - log_density(
        points, points if own is None else own, bandwidth
    )


def log_density(points: Floats, centres: Floats, bandwidth: float) -> Floats:
    """Return ``(N,)`` Gaussian kernel log densities, less the constant that all have in common."""
    squares = (points**2).sum(1)[:, None] + (centres**2).sum(1) - 2 * points @ centres.T
    powers = -np.maximum(squares, 0.0) / (2 * bandwidth**2)
    most = powers.max(1)
    found: Floats = most + np.log(np.exp(powers - most[:, None]).mean(1))
    return found


def joined(basis: Floats, source: Floats, directions: int) -> Floats:
    """Return an orthonormal basis (rows) of the span of a basis and a source's leading directions."""
    _, singular, rows = np.linalg.svd(source, full_matrices=False)
    kept = singular > singular[0] * max(source.shape) * np.finfo(np.float64).eps
    leading = rows[: min(directions, int(kept.sum()))]
    both = np.concatenate([basis, leading])
    _, singular, rows = np.linalg.svd(both, full_matrices=False)
    return rows[singular > 1e-9]


def outside(target: Floats, basis: Floats) -> float:
    """Return the Frobenius norm of what of the target lies outside the span.

    Examples
    --------
    >>> outside(np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]]), np.eye(3)[:2])
    2.0
    """
    return float(np.linalg.norm(target - target @ basis.T @ basis))
