"""Which examples make which step: shuffled, yet of similar length within a batch."""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import NDArray

_POOL = 16  # batches that are sorted by length together


class BatchPlan:
    """The batch of every step, a function of lengths, batch size, seed and step alone.

    Every epoch shuffles the examples, sorts them by length within groups of 16 batches, cuts the
    groups into batches and shuffles those. Padding thus shrinks to a few tokens per batch while
    batches still differ from epoch to epoch; for inputs of equal length it is a plain shuffle.

    Parameters
    ----------
    lengths
        ``(N,)``, N >= 1.
    batch_size
        Examples per batch; the last one of an epoch may be smaller.
    seed
        Of the shuffles.

    Examples
    --------
    >>> plan = BatchPlan(np.array([5, 1, 5, 1, 5]), 2, seed=0)
    >>> plan.per_epoch, sorted(i for step in range(3) for i in plan.at(step).tolist())
    (3, [0, 1, 2, 3, 4])
    """

    def __init__(self, lengths: NDArray[np.int64], batch_size: int, *, seed: int) -> None:
        self._lengths = lengths
        self._size = batch_size
        self._seed = seed
        self._epoch = -1
        self._batches: list[NDArray[np.int64]] = []
        self.per_epoch = ceil(len(lengths) / batch_size)

    def at(self, step: int) -> NDArray[np.int64]:
        """Return the indices of the batch of ``step``, counted from 0."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._shuffle(epoch)
        return self._batches[place]

    def _shuffle(self, epoch: int) -> list[NDArray[np.int64]]:
        rng = np.random.default_rng([self._seed, epoch])
        order = rng.permutation(len(self._lengths))
        group = self._size * _POOL
        batches = []
        for start in range(0, len(order), group):
            rows = order[start : start + group]
            rows = rows[np.argsort(self._lengths[rows], kind="stable")]
            batches += [rows[i : i + self._size] for i in range(0, len(rows), self._size)]
        return [batches[i] for i in rng.permutation(len(batches))]
