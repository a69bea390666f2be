"""Order statistics of integers in memory, exact, with the time of a few counts, compiled by numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

_jit: Callable[[Callable[..., Any]], Callable[..., Any]] = nb.njit(
    nogil=True, cache=True, error_model="numpy"
)
#: bins of a count
_BINS = 2048


@_jit
def _range(keys: Any) -> Any:
    """Return the smallest and the largest."""
    low, high = np.uint32(0xFFFFFFFF), np.uint32(0)
    for i in range(len(keys)):
        y = np.uint32(keys[i])
        low, high = min(low, y), max(high, y)
    return low, high


@_jit
def _count(keys: Any, low: Any, high: Any, counts: Any) -> Any:
    """Count keys, all between two numbers, in bins of powers of two; return the bits of a bin."""
    width, shift = np.uint32(high - low), np.uint32(0)
    while (width >> shift) >= np.uint32(_BINS):
        shift = np.uint32(shift + np.uint32(1))
    counts[:] = 0
    for i in range(len(keys)):
        counts[np.uint32(np.uint32(keys[i]) - low) >> shift] += 1
    return shift


@_jit
def _bin_of(counts: Any, rank: Any) -> Any:
    """Return the bin that a rank (from 1) falls into, and how many keys lie in bins below."""
    below, b = np.int64(0), 0
    while b < _BINS - 1 and below + counts[b] < rank:
        below += counts[b]
        b += 1
    return b, below


@_jit
def _of_bin(keys: Any, first: Any, shift: Any, count: Any) -> Any:
    """Return the ``count`` keys of a bin that starts at a number."""
    found, to = np.empty(count + 1, np.uint32), np.uint64(0)
    width = np.uint32((np.uint32(1) << shift) - np.uint32(1))
    for i in range(len(keys)):
        y = np.uint32(keys[i])
        found[to] = y
        to += np.uint64(np.uint32(y - first) <= width)
    return found[:count]


@_jit
def _nth(keys: Any, rank: Any) -> Any:
    """Return the ``rank``-th smallest (from 1) of some integers, how many are below it, and equal it.

    Counts in bins over the range that is left, as often as it takes until a bin is one number; many
    equal numbers, which quickselect is slow with, do not matter.
    """
    counts, below = np.empty(_BINS, np.int64), np.int64(0)
    while True:
        low, high = _range(keys)
        shift = _count(keys, low, high, counts)
        b, less = _bin_of(counts, rank - below)
        below += less
        first = np.uint32(low + np.uint32(np.uint32(b) << shift))
        if shift == np.uint32(0):
            return np.int64(first), below, counts[b]
        keys = _of_bin(keys, first, shift, counts[b])


@_jit
def _at(keys: Any, rank: Any, low: Any, shift: Any, counts: Any) -> Any:
    """Return the key of a rank; the smallest or largest number there is beyond the first and last."""
    if rank < 1:
        return np.int64(0)
    if rank > len(keys):
        return np.int64(0xFFFFFFFF)
    b, below = _bin_of(counts, rank)
    first = np.uint32(low + np.uint32(np.uint32(b) << shift))
    found, _, _ = _nth(_of_bin(keys, first, shift, counts[b]), rank - below)
    return found


@_jit
def _below(keys: Any, number: Any) -> Any:
    """Count the keys below a number."""
    some = np.uint32(0)
    for i in range(len(keys)):
        some = np.uint32(some + np.uint32(np.uint32(keys[i]) < number))
    return np.int64(some)


@_jit
def _around(keys: Any, pieces: Any, ranks: Any, wide: Any, ends: Any) -> Any:
    """Write two keys for each rank, almost certainly on either side of it in what was sampled.

    They are ``wide`` standard deviations of the rank away from it: those of independent entries or,
    where that is more, of how much the pieces of the sample differ near it.

    Parameters
    ----------
    keys
        ``(n,)`` uint32, the sample, piece after piece.
    pieces
        How many there are, of one length.
    ranks
        In the sample, from 1.
    wide
        Standard deviations.
    ends
        ``(ranks, 2)`` int64, written to.

    Returns
    -------
    int
        The most keys of the sample between two ends.
    """
    n = len(keys)
    low, high = _range(keys)
    counts = np.empty(_BINS, np.int64)
    shift = _count(keys, low, high, counts)
    length, most = n // pieces, np.int64(0)
    for r in range(len(ranks)):
        rank = np.int64(ranks[r])
        b, below = _bin_of(counts, rank)
        if below + counts[b] - rank < rank - below and b < _BINS - 1:  # the upper edge is nearer
            b += 1
        edge = np.uint32(low + np.uint32(np.uint32(b) << shift))
        total, square = 0.0, 0.0
        for p in range(pieces):
            share = _below(keys[p * length : (p + 1) * length], edge) / length
            total += share
            square += share * share
        spread = max(square / pieces - (total / pieces) ** 2, 0.0)
        margin = max(
            np.int64(wide * np.sqrt(rank * (n - rank) / n) + 8.0),
            np.int64(wide * np.sqrt(spread / pieces) * n + 8.0),
        )
        first = _at(keys, rank - margin, low, shift, counts)
        last = max(first, _at(keys, rank + margin, low, shift, counts))
        ends[r, 0], ends[r, 1] = first, last
        if last > first:
            inside = _below(keys, np.uint32(last)) - _below(keys, np.uint32(first + 1))
            most = max(most, np.int64(inside))
    return most


nth: Callable[[NDArray[Any], int], tuple[int, int, int]] = _nth
around: Callable[[NDArray[Any], int, NDArray[Any], float, NDArray[Any]], int] = _around
