"""Steps that compare every entry with a number, or with its place in its tensor."""

from __future__ import annotations

from typing import Any

from taskloom.algebra.core import Grain, Op, Stack, Step
from taskloom.algebra.select import top_mask
from taskloom.lazy import torch


def clip(limit: float) -> Step:
    """Clip every entry to [-limit, limit]."""

    def apply(stack: Stack, _: Any) -> Stack:
        return stack.with_values(stack.values.clamp(-limit, limit))

    return Step(f"clip({limit:g})", apply)


def beyond(size: float) -> Step:
    """Set entries to zero that are not larger than ``size`` in magnitude."""

    def apply(stack: Stack, _: Any) -> Stack:
        limit = torch.tensor(size, dtype=stack.values.dtype, device=stack.values.device)
        return stack.with_values(stack.values * (stack.values.detach().abs() > limit))

    return Step(f"beyond({size:g})", apply, op=Op("beyond", size))


def favour_unique(gain: float, most: float) -> Step:
    """Enlarge what one expert alone changed, by how much it shares with others in the tensor.

    Entries that are not 0 for one expert only are multiplied by
    ``1 + gain * clamp(shared / unique, 0, most)``, the expert's numbers of shared and unique entries.
    """

    def apply(stack: Stack, _: Any) -> Stack:
        changed = stack.values.detach() != 0
        alone = changed & (changed.sum(0, keepdim=True) == 1)
        count = len(changed)
        unique = alone.reshape(count, -1).sum(1)
        shared = changed.reshape(count, -1).sum(1) - unique
        ratio = (shared / unique.clamp(min=1)).clamp(0, most)
        factor = (1 + gain * ratio).to(stack.values.dtype)
        column = factor.reshape(-1, *[1] * (stack.values.ndim - 1))
        return stack.with_values(torch.where(alone, stack.values * column, stack.values))

    return Step(f"favour_unique({gain:g}, {most:g})", apply, Grain.TENSOR)


def band(density: float, remove: float = 0.0, *, least: int = 0) -> Step:
    """Keep the ``int(density * n)`` magnitudes of a tensor below its ``int(remove * n)`` largest.

    At least ``least`` entries are kept (if the tensor has so many) and, where both shares add up to
    more than the tensor has, fewer of the largest are removed.
    """
    if not (0.0 <= density <= 1.0 and 0.0 <= remove <= 1.0):
        raise ValueError(f"density and remove are shares in [0, 1], not {density!r} and {remove!r}")

    def apply(stack: Stack, _: Any) -> Stack:
        rows = stack.values.reshape(len(stack.values), -1)
        size = rows.shape[-1]
        if density >= 1 or size == 0:
            return stack
        kept = min(size, max(least, int(density * size)))
        top = min(int(remove * size), size - kept)
        magnitudes = rows.detach().abs()
        mask = top_mask(magnitudes, top + kept)
        if top:
            mask &= ~top_mask(magnitudes, top)
        return stack.with_values((rows * mask).reshape(stack.values.shape))

    return Step(f"band({density:g}, below {remove:g})", apply, Grain.TENSOR)
