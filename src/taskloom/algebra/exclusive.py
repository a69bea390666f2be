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
        flat = stack.values.reshape(len(stack.values), -1)
        marks = _choose_flat(flat, int(density * flat.shape[1]))
        return stack.with_values((flat * marks).reshape(stack.values.shape))

    return Step(f"exclusive({density:g})", apply, Grain.TENSOR, workspace=_ranked)


def _ranked(shape: tuple[int, ...], count: int) -> int:
    """Bytes of magnitudes, marks of all experts, and of one row what is free of it, ranked."""
    return (5 * count + 12) * math.prod(shape)


def _choose_flat(rows: Tensor, count: int) -> Tensor:
    """Mark as `_choose` does in vectors ``(K, n)``, ranking what is free only."""
    free = torch.ones_like(rows[0], dtype=torch.bool)
    marks = torch.zeros_like(rows, dtype=torch.bool)
    for row, mark in zip(rows.detach().abs(), marks, strict=True):
        mine = free & (row > 0)
        mark[mine] = top_mask(row[mine], count)
        free &= ~mark
    return marks


def _choose(rows: Tensor, count: int) -> Tensor:
    """Mark ``count`` entries along the last axis of each of K rows, each in one row at most."""
    held = torch.zeros_like(rows[0], dtype=torch.bool)
    marks = []
    for row in rows.detach().abs():
        mark = top_mask(torch.where(held, 0.0, row), count) & ~held & (row > 0)
        marks.append(mark)
        held = held | mark
    return torch.stack(marks)
