"""Order statistics of a tensor in one read of it, where a sample says in which bin they lie.

Radix selection reads a tensor twice: for the high 16 bits, then for the low 16 bits within one bin. Here
a quarter of a million entries from all over the tensor says which bin that will be; one read then
counts what lies below it and the low bits within it and its neighbours. The count also tells whether
the sample was right. Where it was not, the tensor is read twice. The result is the same and exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.algebra.core import Measure
from taskloom.algebra.select import Radix
from taskloom.merging.fused import Arena, Compiled, varies
from taskloom.merging.program import Output
from taskloom.merging.slices import Piece

#: entries of a sample, and the pieces it is taken in
SAMPLE, PIECES = 1 << 18, 16
#: entries of the smallest tensor for which a sample is worth its reading
LEAST = 1 << 20
_BINS = 3
_LOW, _HIGH = 1 << 16, 1 << 15
Numbers = NDArray[Any]


def worthwhile(measure: Measure, numel: int, before: Sequence[str]) -> bool:
    """Whether a tensor is large beside a sample, and steps before do not count along the tensor."""
    ranked = {"tensor", "row", "rank", "vary"}
    return measure.count == "magnitudes" and numel >= LEAST and not ranked & {*before}


def order_statistics(
    measure: Measure,
    arena: Arena,
    output: Output,
    made: Compiled,
    index: int,
    pieces: Sequence[Piece],
    read: Callable[[Piece], None],
) -> Radix | None:
    """Return what the measure's second round would have counted; None if the sample was wrong.

    Parameters
    ----------
    measure
        One that is `worthwhile`.
    arena
        Its buffers hold a slice after ``read``.
    made
        The steps; those before ``index`` are taken first.
    pieces
        The whole tensor.
    read
        Brings a piece into the arena.
    """
    rows = 1 if varies(output, index) else len(output.experts)

    def count(piece: Piece, what: int, prefix: Numbers, found: Numbers) -> None:
        read(piece)
        arena.count(
            output, made, piece.count, piece.start, upto=index, what=what, prefix=prefix, found=found
        )

    sampled = np.zeros((rows, 4, _HIGH), np.int64)
    none, length = np.zeros(rows, np.int64), min(SAMPLE // PIECES, arena.elements)
    for start in range(0, output.info.numel - length, output.info.numel // PIECES):
        count(Piece(start, start + length, (length,)), 0, none, sampled)
    guess: Numbers = measure.start(1, Radix(sampled.sum(1))).prefix
    lowest = guess - 1
    if (lowest < 2).any() or (lowest + _BINS >= _HIGH - 1).any():
        return None
    found = np.zeros((rows, 1, _BINS * _LOW + 2), np.int64)
    for piece in pieces:
        count(piece, 5, lowest, found)
    inside = found[:, 0, : _BINS * _LOW].reshape(rows, _BINS, _LOW)
    below, zeros = found[:, 0, -2], found[:, 0, -1]
    counts = np.zeros((rows, _HIGH), np.int64)
    for k, at in enumerate(lowest):
        counts[k, 0] = zeros[k]
        counts[k, at - 1] = below[k] - zeros[k]
        counts[k, at : at + _BINS] = inside[k].sum(-1)
        counts[k, at + _BINS] = output.info.numel - below[k] - inside[k].sum()
    second: Radix = measure.start(1, Radix(counts))
    if second.prefix is None:
        return None
    within = second.prefix - lowest
    if ((within < 0) | (within >= _BINS)).any():
        return None
    second.counts[:] = inside[np.arange(rows), within]
    return second
