"""ForkMerge's search for the coefficients of a merge, branch by branch, on validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from taskloom.errors import PlanError

ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class Trial:
    """One vector of coefficients that was scored; ``kept`` if it was the best so far."""

    weights: tuple[float, ...]
    value: float
    kept: bool


@dataclass(frozen=True)
class Found:
    """Coefficients of every branch, adding up to 1, their score, and what was tried in order."""

    weights: tuple[float, ...]
    value: float
    trials: tuple[Trial, ...]


def search_coefficients(
    values: Sequence[float],
    score: Callable[[tuple[float, ...]], float],
    alphas: Sequence[float] = ALPHAS,
) -> Found:
    """Take branches in, the best first, each with the share that validates best.

    The first branch has the coefficient 1. Each further one is tried with ``alpha`` times the mean
    coefficient of those before it, and keeps the first alpha that beats everything scored until then;
    if none does, 0. Ties of ``values`` go in the given order.

    The released code also scores alpha 0, the merge as it was, again, and begins with a best score of
    0, which goes wrong for scores that are not positive; we begin with the first branch's own score,
    which is the same where it goes right.

    Parameters
    ----------
    values
        Validation score of every branch, higher is better.
    score
        Validation score of the merge with coefficients that add up to 1.
    alphas
        Shares to try, in [0, 1].

    Raises
    ------
    PlanError
        No branch, or a share outside [0, 1].

    Examples
    --------
    >>> found = search_coefficients([0.5, 0.0], lambda w: 1 - abs(w[1] - 0.5))
    >>> found.weights, found.value
    ((0.5, 0.5), 1.0)
    """
    if not values:
        raise PlanError("a merge needs a branch, and there is none")
    for alpha in alphas:
        if not 0 <= alpha <= 1:
            raise PlanError(f"alphas: {alpha!r} is no share", hint="Name shares from 0 to 1")
    order = sorted(range(len(values)), key=lambda place: -values[place])
    weights = [0.0] * len(values)
    weights[order[0]] = 1.0
    best = values[order[0]]
    trials = [Trial(_normal(weights), best, kept=True)]
    for count, place in enumerate(order[1:], start=1):
        limit, chosen = sum(weights) / count, 0.0
        for alpha in alphas:
            if alpha == 0:
                continue
            weights[place] = alpha * limit
            value = score(_normal(weights))
            trials.append(Trial(_normal(weights), value, kept=value > best))
            if value > best:
                best, chosen = value, weights[place]
        weights[place] = chosen
    return Found(_normal(weights), best, tuple(trials))


def _normal(weights: Sequence[float]) -> tuple[float, ...]:
    total = sum(weights)
    return tuple(weight / total for weight in weights)
