"""How well a ranking agrees with the truth that fine-tuning or testing revealed later."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from taskloom.choose.checks import Floats
from taskloom.errors import DataError, MissingExtra, NumericalError


def weighted_tau(scores: ArrayLike, truth: ArrayLike) -> float | None:
    """Kendall's tau with hyperbolic weights, so that errors at the top of the ranking count more.

    Vigna, "A weighted correlation index for rankings with ties", WWW 2015, through scipy with
    ``rank=True``: the mean of weighting by the scores' ranks and by the truth's, hence symmetric.

    Parameters
    ----------
    scores, truth
        ``(K,)`` finite numbers, higher is better.

    Returns
    -------
    A number in [-1, 1], or None when undefined: fewer than two candidates, or all equal in either.

    Raises
    ------
    DataError
        Different lengths.
    NumericalError
        NaN or infinity.
    MissingExtra
        scipy is not installed.

    Examples
    --------
    >>> round(weighted_tau([0.9, 0.7, 0.8, 0.1], [0.80, 0.78, 0.70, 0.60]), 6)
    0.733333
    """
    a, b = _pair(scores, truth)
    if _undefined(a, b):
        return None
    try:
        from scipy.stats import weightedtau
    except ImportError:
        raise MissingExtra("scipy", "run", purpose="weighted tau") from None
    return float(weightedtau(a, b, rank=True).statistic)


def spearman(scores: ArrayLike, truth: ArrayLike) -> float | None:
    """Spearman's rank correlation, average ranks for ties; arguments and errors as `weighted_tau`.

    Examples
    --------
    >>> round(spearman([1, 2, 3, 4], [1, 3, 2, 4]), 6)
    0.8
    >>> spearman([1, 1, 1], [1, 2, 3]) is None
    True
    """
    a, b = _pair(scores, truth)
    if _undefined(a, b):
        return None
    try:
        from scipy.stats import spearmanr
    except ImportError:
        raise MissingExtra("scipy", "run", purpose="Spearman's correlation") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(spearmanr(a, b).statistic)


def regret_at_k(
    scores: ArrayLike,
    truth: ArrayLike,
    *,
    k: int = 1,
    form: Literal["best", "mean"] = "best",
    relative: bool = False,
) -> float:
    """Return what is lost by trying only the k candidates that rank first.

    Parameters
    ----------
    scores, truth
        ``(K,)`` finite numbers, higher is better. Equal scores rank in the given order.
    k
        How many candidates are tried, from 1 to K.
    form
        ``"best"``: best truth of all minus best truth among the k. ``"mean"``: mean truth of the
        true top k minus mean truth of the k (Kim et al., EMNLP 2023).
    relative
        Divide by the first of the two terms, which must then be positive.

    Returns
    -------
    A number >= 0 in units of ``truth``, or a share.

    Raises
    ------
    DataError
        Different lengths, no candidate, or k out of range.
    NumericalError
        NaN or infinity, or a relative regret against a best that is not positive.

    Examples
    --------
    >>> round(regret_at_k([0.7, 0.9, 0.8, 0.1], [0.80, 0.78, 0.70, 0.60]), 6)
    0.02
    """
    a, b = _pair(scores, truth)
    if not 1 <= k <= len(a):
        raise DataError(
            f"regret: expected k from 1 to the number of candidates, found k = {k} of {len(a)}",
            hint="Choose k within the pool",
        )
    chosen = b[np.argsort(-a, kind="stable")[:k]]
    ideal = np.sort(b)[::-1][:k]
    reference, reached = (ideal.max(), chosen.max()) if form == "best" else (ideal.mean(), chosen.mean())
    if not relative:
        return float(reference - reached)
    if reference <= 0:
        raise NumericalError(
            f"regret: expected a positive best for a relative regret, found {reference}",
            hint="Use relative=False",
        )
    return float((reference - reached) / reference)


def ndcg(
    scores: ArrayLike, truth: ArrayLike, *, gains: Literal["rank", "truth"] = "rank"
) -> float | None:
    """Normalised discounted cumulative gain of the ranking by ``scores``, top of the list first.

    Parameters
    ----------
    scores, truth
        ``(K,)`` finite numbers, higher is better. Equal scores rank in the given order.
    gains
        What a candidate is worth. ``"rank"``: 2^r - 1, r from K for the best truth down to 1, equal
        truths ranking in the given order (Kim et al., EMNLP 2023). ``"truth"``: its truth less the
        worst. Discounted by log2(1 + place) either way.

    Returns
    -------
    A number in (0, 1], or None when undefined: fewer than two candidates, or all truths equal.

    Raises
    ------
    DataError
        Different lengths.
    NumericalError
        NaN or infinity.

    Examples
    --------
    >>> round(ndcg([0.9, 0.7, 0.8, 0.1], [0.80, 0.78, 0.70, 0.60], gains="truth"), 6)
    0.97119
    """
    a, b = _pair(scores, truth)
    if len(b) < 2 or bool((b == b[0]).all()):
        return None
    if gains == "truth":
        worth = b - b.min()
    else:
        place = np.empty(len(b))
        place[np.argsort(-b, kind="stable")] = np.arange(len(b))
        worth = 2.0 ** (len(b) - place) - 1
    discount = 1 / np.log2(np.arange(len(b)) + 2)
    reached = worth[np.argsort(-a, kind="stable")] @ discount
    return float(reached / (np.sort(worth)[::-1] @ discount))


@dataclass(frozen=True)
class OverTargets:
    """A measure of agreement, averaged over targets.

    Attributes
    ----------
    mean, low, high
        The mean over targets where it is defined, and its bootstrap interval.
    targets
        How many these are.
    undefined
        For how many targets it is not defined.
    """

    mean: float
    low: float
    high: float
    targets: int
    undefined: int


def over_targets(
    values: Sequence[float | None], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> OverTargets:
    """Average a measure over targets, with a percentile bootstrap over them (Efron, 1979).

    Targets are what a new user would add, so they are drawn and not the candidates of each.

    Parameters
    ----------
    values
        One for each target; None where it is undefined.
    level, resamples, seed
        Of the interval, the bootstrap, and its draws.

    Raises
    ------
    DataError
        Undefined for every target, or a level outside (0, 1).
    NumericalError
        NaN or infinity.

    Examples
    --------
    >>> over_targets([0.5, 0.5, None])
    OverTargets(mean=0.5, low=0.5, high=0.5, targets=2, undefined=1)
    """
    found = np.array([value for value in values if value is not None], dtype=np.float64)
    if not len(found) or not 0 < level < 1:
        raise DataError(
            f"agreement: expected a value for some target and a level in (0, 1), "
            f"found {len(found)} values and {level}",
            hint="Give more targets or candidates",
        )
    if not np.isfinite(found).all():
        raise NumericalError(
            "agreement: expected finite values, found NaN or infinity", hint="Pass None where undefined"
        )
    draws = np.random.default_rng(seed).integers(0, len(found), size=(resamples, len(found)))
    tail = 50 * (1 - level)
    low, high = np.percentile(found[draws].mean(1), [tail, 100 - tail])
    return OverTargets(
        float(found.mean()), float(low), float(high), len(found), len(values) - len(found)
    )


def _pair(scores: ArrayLike, truth: ArrayLike) -> tuple[Floats, Floats]:
    a, b = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise DataError(
            f"agreement: expected one score and one truth per candidate, "
            f"found shapes {a.shape} and {b.shape}",
            hint="Pass two vectors of the same length",
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise NumericalError(
            "agreement: expected finite scores and truth, found NaN or infinity",
            hint="Leave out the candidates that could not be scored",
        )
    return a, b


def _undefined(a: Floats, b: Floats) -> bool:
    return len(a) < 2 or bool((a == a[0]).all()) or bool((b == b[0]).all())
