"""Order statistics of a tensor in one read of it, between two numbers that a sample gives.

Radix selection reads a tensor twice. Here some thousands of entries from all over the tensor say between
which two numbers the wanted one lies; one read then counts what lies below and above them, and gathers
what lies between, of which the wanted one is picked. The counts also tell whether the sample was right.
Where it was not, or where there would be too much to gather, the tensor is read twice. The result is
the same and exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.algebra.core import Measure
from taskloom.algebra.select import Found, Radix, Selection
from taskloom.merging.fused import RANKED, Arena, Compiled, multiplied, varies
from taskloom.merging.program import Output
from taskloom.merging.slices import Piece

#: entries of the smallest sample, and the pieces it is taken in
SAMPLE, PIECES = 1 << 14, 32
#: one entry of so many is in the sample of a large tensor, up to a limit
SHARE, MOST = 64, 1 << 18
#: entries of the largest tensor that is sorted, where it is one slice
LEAST = 1 << 17
#: entries that are gathered at most, for each expert
ROOM = 1 << 19
#: standard deviations of the rank in the sample
_WIDE = 4.0
Numbers = NDArray[Any]


def worthwhile(measure: Measure, output: Output, before: Sequence[str]) -> bool:
    """Whether entries are ordered, and the steps before do not count along the tensor.

    Of adapters many rows would be multiplied for few entries.
    """
    known = measure.count == "magnitudes" and not {*RANKED} & {*before}
    return known and output.info.numel > 0 and not multiplied(output)


def order_statistics(
    measure: Measure,
    arena: Arena,
    output: Output,
    made: Compiled,
    index: int,
    pieces: Sequence[Piece],
    read: Callable[[Piece], None],
) -> Found | None:
    """Return what the measure's rounds would have found; None if the sample was wrong.

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
    rows, numel = 1 if varies(output, index) else len(output.experts), output.info.numel
    if len(pieces) == 1 and numel <= LEAST:
        into = arena.room(rows, numel)[:, :numel]
        read(pieces[0])
        arena.sample(output, made, numel, 0, upto=index, into=into, at=0)
        return _sorted(measure, into)
    length = min(max(SAMPLE, min(numel // SHARE, MOST)) // PIECES, arena.elements, numel // PIECES)
    sampled = arena.room(rows, PIECES * length)
    for number in range(PIECES):
        start = number * (numel // PIECES)
        piece = Piece(start, start + length, (length,))
        read(piece)
        arena.sample(output, made, length, start, upto=index, into=sampled, at=number * length)
    likely = _ends(measure, sampled[:, : PIECES * length], numel)
    if likely is None:
        return None
    ends, most = likely
    into, found = arena.room(rows, most), np.zeros((rows, 5), np.int64)
    for piece in pieces:
        read(piece)
        arena.between(
            output, made, piece.count, piece.start, upto=index, ends=ends, into=into, found=found
        )
    ranks = _ranks(measure, found[:, 4], numel)
    if ranks is None:
        return None
    picked = [
        _pick(int(rank), row, end, gathered)
        for rank, row, end, gathered in zip(ranks, found, ends, into, strict=True)
    ]
    known = [each for each in picked if each is not None]
    return _found(known) if len(known) == rows else None


def _sorted(measure: Measure, rows: Numbers) -> Found | None:
    """Return the wanted numbers of a tensor whose entries are all there."""
    numel = rows.shape[1]
    ranks = _ranks(measure, (rows < 1 << 16).sum(1), numel)
    if ranks is None:
        return None
    none, all_of_it = np.array([0, 0, numel, 0]), np.array([-1, 1 << 32])
    picked = [_pick(int(rank), none, all_of_it, row) for rank, row in zip(ranks, rows, strict=True)]
    return _found([each for each in picked if each is not None])


def _found(picked: list[tuple[int, int]]) -> Found:
    limits, missing = np.array(picked, np.int64).T
    return Found(Selection(limits.astype(np.int32), missing, np.zeros_like(missing)))


def _ranks(measure: Measure, still: Numbers, numel: int) -> Numbers | None:
    """Return the wanted ranks, from 1, of ``numel`` entries; None if one is above all of them.

    ``still``: how many have no high bits, which SCE leaves out of its count.
    """
    second: Radix = measure.start(1, Radix(np.stack([still, numel - still], 1)))
    if second.prefix is None or second.rest is None or second.beyond is None or second.beyond.any():
        return None
    ranks: Numbers = second.rest + np.where(second.prefix > 0, still, 0)
    return ranks


def _ends(measure: Measure, sampled: Numbers, numel: int) -> tuple[Numbers, int] | None:
    """Return two numbers for each row between which the wanted one lies, almost certainly.

    And how many entries of a row lie between them at most, about. How far apart they are follows from
    how much the pieces of the sample differ. None where too many entries would lie between them.
    """
    size = sampled.shape[1]
    ranks = _ranks(measure, (sampled < 1 << 16).sum(1), size)
    if ranks is None:
        return None
    ends, most = np.zeros((len(sampled), 2), np.int64), 0
    for row, rank, end in zip(sampled, ranks, ends, strict=True):
        ordered = np.sort(row)
        below = (row.reshape(PIECES, -1) < ordered[rank - 1]).mean(1)
        clustered = float(below.std()) / math.sqrt(PIECES) * size
        margin = int(_WIDE * max(clustered, math.sqrt(rank * (size - rank) / size)) + 8)
        first, last = rank - 1 - margin, rank - 1 + margin
        end[0] = ordered[first] if first >= 0 else 0
        end[1] = ordered[last] if last < size else 0x7FFFFFFF
        inside = np.count_nonzero((row > end[0]) & (row < end[1]))
        most = max(most, int(1.25 * inside / size * numel) + 1024)
    return (ends, most) if most <= ROOM else None


def _pick(rank: int, found: Numbers, ends: Numbers, gathered: Numbers) -> tuple[int, int] | None:
    """Return the entry of a rank, and how many equal to it are not below that rank."""
    below, low, inside, high = (int(count) for count in found[:4])
    first, last = int(ends[0]), int(ends[1])
    left = rank - below
    if left <= 0:
        return None
    if left <= low:
        return first, low - left + 1
    left -= low
    if left <= inside:
        if inside > len(gathered):
            return None
        part = gathered[:inside]
        limit = int(np.partition(part, left - 1)[left - 1])
        less, equal = np.count_nonzero(part < limit), np.count_nonzero(part == limit)
        return limit, int(equal - (left - less) + 1)
    left -= inside
    if last > first and left <= high:
        return last, high - left + 1
    return None
