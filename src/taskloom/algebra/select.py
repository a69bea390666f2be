"""Exact order statistics: the k largest magnitudes of a row, of a tensor, of a whole model.

Within a tensor the k largest are found by quickselect, ties broken by lower index first. Over a
whole model they are found by radix selection on the bits of the float32 magnitude (16 high bits, then
16 low bits), which needs two passes and 0.5 MB a model however large it is, and samples nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.algebra.core import Measure, Stack
from taskloom.lazy import Tensor, torch

Numbers = NDArray[Any]

_HIGH = 1 << 15  # the sign bit of a magnitude is zero, so 15 of the 16 high bits are used
_LOW = 1 << 16
_NOTHING = (1 << 31) - 1  # above the bits of every magnitude


def top_mask(magnitudes: Tensor, count: int) -> Tensor:
    """Mark exactly the ``count`` largest entries along the last axis.

    Parameters
    ----------
    magnitudes
        ``(..., n)`` non-negative, finite.
    count
        How many to mark, clipped to 0..n. Equal magnitudes: the lower index wins.

    Returns
    -------
    Tensor
        Boolean, same shape.

    Examples
    --------
    >>> top_mask(torch.tensor([[3., 1., 2., 2.]]), 2)
    tensor([[ True, False,  True, False]])
    """
    n = magnitudes.shape[-1]
    if count <= 0:
        return torch.zeros_like(magnitudes, dtype=torch.bool)
    if count >= n:
        return torch.ones_like(magnitudes, dtype=torch.bool)
    # numpy's partition takes a third of the time of torch.kthvalue
    ordered = np.partition(magnitudes.cpu().numpy(), n - count, axis=-1)
    threshold = torch.from_numpy(ordered[..., n - count, None]).to(magnitudes.device)
    mask = magnitudes >= threshold
    crowded = torch.count_nonzero(mask, -1) > count
    if bool(crowded.any()):  # few rows: the others are left alone
        above = magnitudes[crowded] > threshold[crowded]
        equal = mask[crowded] & ~above
        missing = count - above.sum(-1, keepdim=True)
        mask[crowded] = above | (equal & (equal.cumsum(-1) <= missing))
    return mask


def magnitude_bits(values: Tensor) -> Tensor:
    """Return int32 whose order is the order of ``abs(values)`` rounded to float32."""
    return values.detach().abs().to(torch.float32).contiguous().view(torch.int32)


@dataclass
class Radix:
    """Histogram of one radix round for K experts; two that saw different slices can be joined.

    Round 0 counts the high 16 bits of every magnitude; round 1 the low 16 bits of those whose high
    bits are the ones the wanted order statistic falls into.
    """

    counts: Numbers  # (K, bins) int64
    prefix: Numbers | None = None  # (K,) int64, the high bits found in round 0
    rest: Numbers | None = None  # (K,) int64, rank left to find within the prefix, from 1
    beyond: Numbers | None = None  # (K,) bool, a rank above everything counted was asked for

    @classmethod
    def first(cls, experts: int) -> Radix:
        """Start round 0."""
        return cls(np.zeros((experts, _HIGH), dtype=np.int64))

    @classmethod
    def wide(cls, experts: int) -> Radix:
        """Start round 0 for numbers of 32 bits."""
        return cls(np.zeros((experts, _LOW), dtype=np.int64))

    def fresh(self) -> Radix:
        """Return this round with nothing counted."""
        return replace(self, counts=np.zeros(self.counts.shape, np.int64))

    def join(self, other: Radix) -> Radix:
        """Return the round that saw what both saw."""
        return replace(self, counts=self.counts + other.counts)

    def see(self, values: Tensor) -> Radix:
        """Count a ``(K, ...)`` slice of values; return self."""
        return self.see_bits(magnitude_bits(values).reshape(len(values), -1))

    def see_bits(self, bits: Tensor) -> Radix:
        """Count integers ``(K, n)`` of 31 bits, or of 32 where `wide`, in place of `magnitude_bits`."""
        if not self.counts.flags.writeable:
            self.counts = self.fresh().counts
        for k, row in enumerate(bits):
            high = row >> 16
            if self.prefix is None:
                self.counts[k] += _histogram(high, self.counts.shape[1])
            else:
                low = row[high == int(self.prefix[k])] & (_LOW - 1)
                self.counts[k] += _histogram(low, _LOW)
        return self

    def _locate(self, ranks: Numbers) -> tuple[Numbers, Numbers]:
        """Return the bins the ranks fall into, and the ranks within them."""
        below = self.counts.cumsum(-1)
        pairs = list(zip(below, ranks, strict=True))
        bins = np.array([np.searchsorted(row, rank) for row, rank in pairs], dtype=np.int64)
        before = [row[at - 1] if at else 0 for (row, _), at in zip(pairs, bins, strict=True)]
        return bins, ranks - np.array(before, dtype=np.int64)

    def second(self, ranks: Sequence[int] | Numbers) -> Radix:
        """Start round 1 for the ``ranks``-th smallest magnitude (from 1) of each expert.

        A rank greater than the number of magnitudes gives a limit that nothing reaches.
        """
        wanted, totals = np.asarray(ranks, dtype=np.int64), self.totals
        prefix, rest = self._locate(np.minimum(wanted, totals))
        nothing = np.broadcast_to(np.int64(0), (len(self.counts), _LOW))  # takes no memory
        return Radix(nothing, prefix, rest, wanted > totals)

    @property
    def totals(self) -> Numbers:
        """``(K,)`` how many magnitudes were counted in this round."""
        totals: Numbers = self.counts.sum(-1)
        return totals

    def limits(self) -> Numbers:
        """``(K,)`` int32: `magnitude_bits` of the wanted order statistics, exact. Ends round 1."""
        return self.selection().limits

    def wanted(self) -> Numbers:
        """``(K,)`` int64: the wanted numbers of 32 bits, where ranks are not too great. Ends round 1."""
        if self.prefix is None or self.rest is None:
            raise ValueError("what is wanted is known after round 1 only")
        found: Numbers = (self.prefix << 16) | self._locate(self.rest)[0]
        return found

    def selection(self) -> Selection:
        """Return what marks exactly the wanted number of entries, lower index first. Ends round 1."""
        if self.prefix is None or self.rest is None or self.beyond is None:
            raise ValueError("limits are known after round 1 only")
        low, rest = self._locate(self.rest)
        low = np.minimum(low, _LOW - 1)
        bits = np.where(self.beyond, _NOTHING, (self.prefix << 16) | low).astype(np.int32)
        equal = self.counts[np.arange(len(low)), low]
        return Selection(bits, np.where(self.beyond, 0, equal - rest + 1), np.zeros_like(rest))


@dataclass
class Found:
    """Order statistics that were found without radix rounds, in place of a `Radix` that ended.

    Attributes
    ----------
    keys
        ``(K,)`` int64, the wanted numbers: `magnitude_bits`, or what else was counted.
    missing
        ``(K,)`` how many that equal them are not below the wanted rank.
    """

    keys: Numbers
    missing: Numbers

    def selection(self) -> Selection:
        """Return what marks exactly the wanted number of entries, lower index first."""
        return Selection(self.limits(), self.missing, np.zeros_like(self.missing))

    def limits(self) -> Numbers:
        """``(K,)`` int32: `magnitude_bits` of the wanted order statistics."""
        return self.keys.astype(np.int32)

    def wanted(self) -> Numbers:
        """``(K,)`` int64: the wanted numbers of 32 bits."""
        return self.keys


def _histogram(codes: Tensor, bins: int) -> Numbers:
    """Count codes where they are; a device sends back counts, not codes."""
    if codes.device.type != "cpu":
        counts: Numbers = torch.bincount(codes, minlength=bins).cpu().numpy()
        return counts
    return np.bincount(codes.numpy(), minlength=bins)


@dataclass
class Selection:
    """The largest magnitudes of one tensor per expert, marked slice by slice.

    Attributes
    ----------
    limits
        ``(K,)`` int32, `magnitude_bits` of the smallest that is marked.
    missing
        ``(K,)`` how many of the entries equal to the limit are marked.
    seen
        ``(K,)`` how many of those the slices before this one had.
    """

    limits: Numbers
    missing: Numbers
    seen: Numbers

    def mark(self, values: Tensor) -> Tensor:
        """Return the marks of the next slice ``(K, n)``, and count what it had."""
        return self.mark_bits(magnitude_bits(values).reshape(len(values), -1)).reshape(values.shape)

    def mark_bits(self, rows: Tensor) -> Tensor:
        """Mark by int32 ``(K, n)`` in place of `magnitude_bits`."""
        marks = []
        for k, bits in enumerate(rows):
            limit = int(self.limits[k])
            equal = bits == limit
            order = equal.cumsum(0) + int(self.seen[k])
            marks.append((bits > limit) | (equal & (order <= int(self.missing[k]))))
            self.seen[k] += int(torch.count_nonzero(equal))
        return torch.stack(marks)


def selecting(count: Callable[[int], int], *, ties: bool) -> Measure:
    """Measure the ``count(n)`` largest of n magnitudes of each expert, in two radix rounds.

    The statistic is a `Selection` (``ties``: exactly that many, in order of index), or its limits
    (all that equal the smallest are marked).
    """

    def start(round_: int, previous: Radix | None) -> Radix | None:
        if previous is None:
            return None  # the number of experts is known with the first stack
        totals = previous.totals
        return previous.second([max(1, int(n) - count(int(n)) + 1) for n in totals])

    def see(acc: Radix | None, stack: Stack) -> Radix:
        return (acc or Radix.first(len(stack.values))).see(stack.values)

    def join(one: Radix | None, other: Radix | None) -> Radix | None:
        return one.join(other) if one is not None and other is not None else one or other

    def done(acc: Radix | Found) -> Selection | Numbers:
        return acc.selection() if ties else acc.limits()

    return Measure(2, start, see, done, join, "magnitudes")
