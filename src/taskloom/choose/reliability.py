"""How far a ranking can be trusted: the same labels, halved again and again.

Two disjoint halves of the labels are two independent, smaller experiments. Where a score orders the
sources alike on both, it tells something of the sources; where it does not, it tells of the examples
that happened to be labelled. Examples are not drawn with replacement: copies would be their own
nearest neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from taskloom.choose.checks import Floats, Ints
from taskloom.choose.likeness import average_ranks
from taskloom.errors import DataError

#: least mean rank correlation between halves at which an order counts as reliable
LEAST = 0.5


def halves(labels: ArrayLike, *, draws: int, seed: int) -> list[tuple[Ints, Ints]]:
    """Return ``draws`` pairs of disjoint halves, every class dealt out evenly to both.

    Of a class of an odd number, and of one example, the odd one goes to either side.

    Parameters
    ----------
    labels
        ``(N,)`` integers.

    Examples
    --------
    >>> pairs = halves([0, 0, 1, 1], draws=1, seed=0)
    >>> [sorted(np.array([0, 0, 1, 1])[half].tolist()) for half in pairs[0]]
    [[0, 1], [0, 1]]
    """
    given = np.asarray(labels)
    random = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        sides: tuple[list[int], list[int]] = ([], [])
        turn = int(random.integers(2))
        for label in np.unique(given):
            for row in random.permutation(np.flatnonzero(given == label)):
                sides[turn].append(int(row))
                turn = 1 - turn
        found.append((np.sort(np.array(sides[0])), np.sort(np.array(sides[1]))))
    return found


@dataclass(frozen=True, eq=False)
class Stability:
    """What a score says on halves of the labels.

    Attributes
    ----------
    values
        ``(draws, 2, K)``.
    agreement
        Mean rank correlation of the two halves of a draw, in [-1, 1]; 0 for a draw in which either half
        cannot tell any two sources apart.
    """

    values: Floats
    agreement: float

    @property
    def reliable(self) -> bool:
        """Whether the agreement is at least `LEAST`."""
        return self.agreement >= LEAST


def stability(values: Floats) -> Stability:
    """Say how much the halves of each draw agree on the order of K sources.

    The mean of Spearman's correlations over draws: 0 on average where sources do not differ. The order
    by all labels is steadier than that by half of them, so this errs on the side of doubt.

    Raises
    ------
    DataError
        Fewer than two sources, or no draw.

    Examples
    --------
    >>> stability(np.array([[[1.0, 2.0, 3.0], [1.0, 3.0, 2.0]]])).agreement
    0.5
    """
    if values.ndim != 3 or values.shape[1] != 2 or not len(values) or values.shape[2] < 2:
        raise DataError(
            f"reliability: expected values (draws, 2, K) of two sources or more, found {values.shape}",
            hint="Rank two sources or more",
        )
    found = [_correlation(first, second) for first, second in values]
    return Stability(values, float(np.mean(found)))


def _correlation(first: Floats, second: Floats) -> float:
    a, b = (average_ranks(each) - (len(each) + 1) / 2 for each in (first, second))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else 0.0


def mean_ranks(values: Floats) -> Floats:
    """Return ``(..., K)`` places from values ``(scores, ..., K)``: 1 is best, averaged over scores.

    Equal values share their mean place.

    Examples
    --------
    >>> mean_ranks(np.array([[0.9, 0.5, 0.5], [1.0, 3.0, 2.0]])).tolist()
    [2.0, 1.75, 2.25]
    """
    flat = values.reshape(-1, values.shape[-1])
    ranks = np.stack([average_ranks(-row) for row in flat])
    found: Floats = ranks.reshape(values.shape).mean(0)
    return found


def expected_loss(values: Floats) -> Floats:
    """Return ``(K,)``: what is lost by taking a source instead of the best, averaged over halves.

    Parameters
    ----------
    values
        ``(H, K)`` on H halves, such as accuracies; in their units.

    Examples
    --------
    >>> expected_loss(np.array([[0.5, 0.75], [0.75, 0.5], [0.5, 1.0]])).round(6).tolist()
    [0.25, 0.083333]
    """
    found: Floats = (values.max(1, keepdims=True) - values).mean(0)
    return found
