"""How much better something that was dropped could be than what was taken."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.errors import MissingExtra


def share_ends(successes: int, n: int, error: float) -> tuple[float, float]:
    """Return the exact ends of a share, each wrong with probability ``error`` at most.

    Clopper and Pearson (1934): quantiles of beta laws.

    >>> low, high = share_ends(0, 10, 0.05)
    >>> low, round(high, 4)
    (0.0, 0.2589)
    """
    try:
        special: Any = importlib.import_module("scipy.special")
    except ImportError as missing:
        raise MissingExtra("scipy", "run", purpose="a bound on the regret") from missing
    low = 0.0 if successes == 0 else special.betaincinv(successes, n - successes + 1, error)
    high = 1.0 if successes == n else special.betaincinv(successes + 1, n - successes, 1 - error)
    return float(low), float(high)


def most_lost(
    taken: NDArray[np.bool_], other: NDArray[np.bool_], *, pairs: int, level: float = 0.95
) -> float:
    """Return a bound on how much more often ``other`` is right than ``taken``.

    With a = examples that only the other gets right and b = those that only the taken one does, the
    difference of accuracies is p_a - p_b; the bound is the exact upper end of p_a minus the exact lower
    end of p_b, at an error of ``(1 - level) / (2 pairs)`` each. So all ``pairs`` of models that could
    have been compared keep their bounds together with probability ``level``, whichever was taken.

    Parameters
    ----------
    taken, other
        Which of the same examples each gets right, (N,).
    pairs
        Ordered pairs of models.

    Examples
    --------
    >>> right = np.array([True] * 30)
    >>> round(most_lost(right, right, pairs=1), 3)
    0.116
    """
    error = (1 - level) / (2 * pairs)
    n = len(taken)
    _, high = share_ends(int((other & ~taken).sum()), n, error)
    low, _ = share_ends(int((taken & ~other).sum()), n, error)
    return high - low


def regret_bound(
    taken: str, right: Sequence[dict[str, NDArray[np.bool_]]], *, level: float = 0.95
) -> float | None:
    """Return a bound on the accuracy that was given away, over everything that was dropped.

    Every ordered pair of models is counted once for every rung on which it could have been compared.
    What is compared is models as they were on that rung, fitted on its share of the examples.

    Parameters
    ----------
    taken
        Name of what won; it was run on every rung that counts.
    right
        For each rung: name -> which of its examples the model got right, (N,). A model counts at the
        highest rung that it reached together with the taken one.

    Returns
    -------
    float or None
        None if nothing was compared with it.
    """
    names = {name for rung in right for name in rung}
    pairs = len(names) * (len(names) - 1) * len(right)
    found = []
    for name in sorted(names - {taken}):
        both = [rung for rung in right if name in rung and taken in rung]
        if both:
            found.append(most_lost(both[-1][taken], both[-1][name], pairs=pairs, level=level))
    return max(found, default=None)
