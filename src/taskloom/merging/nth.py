"""One order statistic of integers in memory, exact, with the time of a few counts, compiled by numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray


def _nth(keys: Any, rank: Any) -> Any:
    """Return the ``rank``-th smallest (from 1) of some integers, how many are below it, and equal it.

    Counts in bins over the range that is left, as often as it takes until a bin is one number; many
    equal numbers, which quickselect is slow with, do not matter.
    """
    low, high = np.uint32(0xFFFFFFFF), np.uint32(0)
    for i in range(len(keys)):
        y = np.uint32(keys[i])
        low, high = min(low, y), max(high, y)
    counts = np.empty(2048, np.int64)
    below = np.int64(0)
    while True:
        width, shift = np.uint32(high - low), np.uint32(0)
        while (width >> shift) >= np.uint32(2047):
            shift = np.uint32(shift + np.uint32(1))
        counts[:] = 0
        for i in range(len(keys)):  # what is outside goes to the last bin
            y = np.uint32(np.uint32(keys[i]) - low)
            counts[min(np.uint32(y >> shift) if y <= width else np.uint32(2047), np.uint32(2047))] += 1
        b = 0
        while below + counts[b] < rank:
            below += counts[b]
            b += 1
        low = np.uint32(low + np.uint32(np.uint32(b) << shift))
        if shift == np.uint32(0):
            return np.int64(low), below, counts[b]
        most = np.uint32((np.uint32(1) << shift) - np.uint32(1))
        high = np.uint32(low + min(np.uint32(high - low), most))


nth: Callable[[NDArray[Any], int], tuple[int, int, int]] = nb.njit(nogil=True, cache=True)(_nth)
