"""Inner products of all pairs of rows, slice by slice, with the same bits however a tensor is cut.

Products of float32 numbers are exact in float64. They are added in blocks of 4096 entries, counted from
the tensor's first: 64 lanes in order, then the lanes by halves. The sums of blocks are added with one
rounding (`math.fsum`), in which order plays no part. The fused kernels add in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.algebra.core import Measure, Stack
from taskloom.lazy import Tensor, torch

#: entries of a block; slices start at its multiples
BLOCK = 4096
_LANES = 64
#: entries of every row that are looked at in float64 at once; whole blocks, so that sums are the same
COLUMNS = 16 * BLOCK
Numbers = NDArray[np.float64]


def block_sums(values: Tensor) -> Numbers:
    """Return ``(blocks, pairs)`` for ``(K, *slice)``; pairs (0, 0), (0, 1), ..., (K - 1, K - 1).

    In float64 there are 65,536 entries of every row at once, however many there are.
    """
    rows = values.detach().reshape(len(values), -1)
    return np.concatenate([_sums(part) for part in torch.split(rows, COLUMNS, 1)])


def _sums(part: Tensor) -> Numbers:
    rows = part.double()
    short = -rows.shape[1] % BLOCK
    lanes = torch.nn.functional.pad(rows, (0, short)).reshape(len(rows), -1, BLOCK // _LANES, _LANES)
    found = []
    for i, j in combinations_with_replacement(range(len(rows)), 2):
        products = lanes[i] * lanes[j]
        total = products[:, 0]
        for k in range(1, products.shape[1]):
            total = total + products[:, k]
        while total.shape[1] > 1:
            half = total.shape[1] // 2
            total = total[:, :half] + total[:, half:]
        found.append(total[:, 0])
    sums: Numbers = torch.stack(found, 1).cpu().numpy()
    return sums


def gram(parts: list[Numbers]) -> Numbers:
    """Add up sums of blocks, in any order: ``(K, K)``.

    >>> gram([np.array([[1.0, 2.0, 5.0]]), np.array([[1.0, 0.0, 1.0]])])
    array([[2., 2.],
           [2., 6.]])
    """
    columns = np.concatenate(parts).T
    count = math.isqrt(2 * len(columns))
    found = np.zeros((count, count))
    for (i, j), column in zip(combinations_with_replacement(range(count), 2), columns, strict=True):
        finite = bool(np.isfinite(column).all())
        found[i, j] = found[j, i] = math.fsum(column) if finite else column.sum()
    return found


def measuring(done: Callable[[Numbers], Any]) -> Measure:
    """Measure the inner products of a tensor's rows, and make of them what a step needs."""

    def see(parts: list[Numbers] | None, stack: Stack) -> list[Numbers]:
        return [*(parts or []), block_sums(stack.values)]

    def join(one: list[Numbers] | None, other: list[Numbers] | None) -> list[Numbers]:
        return [*(one or []), *(other or [])]

    return Measure(1, lambda *_: None, see, lambda parts: done(gram(parts)), join, "gram")


def cosine_of(products: Numbers, i: int, j: int, floor: float = 0.0) -> float:
    """Return the cosine of two rows; 0 where one is not longer than ``floor``."""
    lengths = math.sqrt(products[i, i]), math.sqrt(products[j, j])
    if not min(lengths) > floor:
        return 0.0
    return max(-1.0, min(1.0, float(products[i, j]) / (lengths[0] * lengths[1])))
