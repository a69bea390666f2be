"""The k best rows of a stream, in memory for some multiple of k."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from taskloom.choose.keyed import Digests

_ROOM = 1 << 16  # rows that may wait beyond k before the best are sorted out


class Top:
    """Holds on to the k best of the rows it is shown, the earliest of equally good ones.

    Parameters
    ----------
    k
        Rows to keep.
    once
        Keep the earliest only of rows with the same digest. Such rows must have the same score.

    Examples
    --------
    >>> top = Top(2, once=True)
    >>> top.add(np.array([0, 1]), np.array([0.5, 0.9]), np.array([7, 8], dtype=np.uint64))
    >>> top.add(np.array([2, 3]), np.array([0.9, 0.7]), np.array([8, 9], dtype=np.uint64))
    >>> rows, scores, _ = top.best()
    >>> rows.tolist(), scores.tolist()
    ([1, 3], [0.9, 0.7])
    """

    def __init__(self, k: int, *, once: bool) -> None:
        self._k, self._once = k, once
        self._waiting: list[Found] = []
        self._count = 0
        self._least = -np.inf

    def add(self, rows: NDArray[np.int64], scores: NDArray[np.float64], keys: Digests) -> None:
        """Look at some rows: their numbers, scores and digests, each ``(N,)``.

        Rows must come in ascending order; NaN is not looked for here.
        """
        kept = scores > self._least
        if not kept.all():
            rows, scores, keys = rows[kept], scores[kept], keys[kept]
        self._waiting.append((rows, scores, keys))
        self._count += len(rows)
        if self._count > 2 * self._k + _ROOM:
            self.best()

    def best(self) -> Found:
        """Return numbers, scores and digests of the best rows so far, best first."""
        found = best_of(self._waiting, self._k, once=self._once)
        self._waiting, self._count = [found], len(found[0])
        # a later row of the same score loses to the last one kept
        self._least = found[1][-1] if len(found[0]) == self._k else -np.inf
        return found


Found = tuple[NDArray[np.int64], NDArray[np.float64], Digests]


def best_of(parts: Iterable[Found], k: int, *, once: bool) -> Found:
    """Return the k best of several findings, as `Top.best`."""
    listed = [*parts]
    rows = np.concatenate([each[0] for each in listed]) if listed else np.empty(0, np.int64)
    scores = np.concatenate([each[1] for each in listed]) if listed else np.empty(0)
    keys = np.concatenate([each[2] for each in listed]) if listed else np.empty(0, np.uint64)
    order = np.lexsort((rows, -scores))
    if once:
        _, first = np.unique(keys[order], return_index=True)
        order = order[np.sort(first)]
    order = order[:k]
    return rows[order], scores[order], keys[order]
