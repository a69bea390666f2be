"""Steps that give every entry to one expert at most, the first in order to choose it."""

from __future__ import annotations

import math
from typing import Any, Literal

from taskloom.algebra.core import Grain, Op, Stack, Step
from taskloom.algebra.select import top_mask
from taskloom.lazy import Tensor, torch

Trailing = Literal["drop", "keep"]


def exclusive_blocks(n: int, m: int, trailing: Trailing = "drop") -> Step:
    """Keep the n largest magnitudes of every m consecutive entries, expert by expert.

    Tensors are flattened row by row. The first expert chooses in each block, the next among the
    entries that no expert before it holds (an entry that is 0 is held by none), and so on; with K n
    above m the last have fewer than n.

    Parameters
    ----------
    n, m
        ``1 <= n <= m``.
    trailing
        The last block of a tensor, where it is shorter than m: ``"drop"`` sets it to zero, ``"keep"``
        keeps ``max(1, round(n * length / m))`` of it.
    """
    if not 1 <= n <= m:
        raise ValueError(f"n of every m entries are kept, so 1 <= n <= m, not n = {n} and m = {m}")

    def apply(stack: Stack, _: Any) -> Stack:
        values = stack.values
        flat = values.reshape(len(values), -1)
        whole = flat.shape[1] // m * m
        marks = torch.zeros_like(flat, dtype=torch.bool)
        blocks = flat[:, :whole].reshape(len(flat), -1, m)
        marks[:, :whole] = _choose(blocks, n).reshape(len(flat), whole)
        left = flat.shape[1] - whole
        if left and trailing == "keep":
            marks[:, whole:] = _choose(flat[:, whole:], kept_of(left, n, m))
        return stack.with_values((flat * marks).reshape(values.shape))

    inside = f"{n}:{m}" + (", trailing" if trailing == "keep" else "")
    op = Op("exclusive", flag=int(trailing == "keep"), extra=n, size=m)
    return Step(f"exclusive({inside})", apply, block=m, op=op)


def kept_of(length: int, n: int, m: int) -> int:
    """Return how many entries stay of a last block that is shorter than m.

    >>> kept_of(2, 1, 4), kept_of(1, 1, 4)
    (1, 1)
    """
    return max(1, round(n * length / m))


def exclusive(density: float) -> Step:
    """Keep the ``int(density * n)`` largest magnitudes of a tensor, expert by expert.

    Each expert chooses among the entries that no expert before it holds. Every choice depends on those
    before it, so that the tensor must be in memory as a whole.
    """
    if not 0.0 <= density <= 1.0:
        raise ValueError(f"density is a share of the entries and must lie in [0, 1], not {density!r}")

    def apply(stack: Stack, _: Any) -> Stack:
        rows = stack.values.reshape(len(stack.values), -1)
        count = int(density * rows.shape[1])
        free = torch.ones_like(rows[0], dtype=torch.bool)
        if rows.requires_grad:
            marks = [_take_largest(row, free, count) for row in rows.detach()]
            return stack.with_values((rows * torch.stack(marks)).reshape(stack.values.shape))
        kept = torch.empty_like(rows)
        for row, own in zip(rows, kept, strict=True):
            torch.mul(row, _take_largest(row, free, count), out=own)
        return stack.with_values(kept.reshape(stack.values.shape))

    return Step(f"exclusive({density:g})", apply, Grain.TENSOR, workspace=_ranked)


def _ranked(shape: tuple[int, ...], count: int) -> int:
    """Bytes of what is kept of all rows; of one its magnitudes, these partitioned, and four marks."""
    return (4 * count + 12) * math.prod(shape)


def _take_largest(row: Tensor, free: Tensor, count: int) -> Tensor:
    """Mark by 1 the ``count`` largest magnitudes of a vector that are free and not 0; take their places.

    Of equal ones the first are taken. The rest is marked by 0.
    """
    sizes = row.abs().mul_(free)
    if count <= 0:
        return sizes.zero_()
    if count < len(sizes):
        ordered = sizes.cpu().numpy().copy()
        ordered.partition(len(ordered) - count)
        limit = float(ordered[len(ordered) - count])
        del ordered
    else:
        limit = 0.0
    mark = sizes >= limit if limit > 0 else sizes > 0
    if limit > 0 and (more := int(torch.count_nonzero(mark)) - count) > 0:
        mark[torch.nonzero(sizes == limit).reshape(-1)[-more:]] = False
    free &= ~mark
    return sizes.copy_(mark)


def _choose(rows: Tensor, count: int) -> Tensor:
    """Mark ``count`` entries along the last axis of each of K rows, each in one row at most."""
    held = torch.zeros_like(rows[0], dtype=torch.bool)
    marks = []
    for row in rows.detach().abs():
        mark = top_mask(torch.where(held, 0.0, row), count) & ~held & (row > 0)
        marks.append(mark)
        held = held | mark
    return torch.stack(marks)
