"""Steps that compare every entry with a number, or with its place in its tensor."""

from __future__ import annotations

import math
from typing import Any

from taskloom.algebra.core import Grain, Measure, Op, Stack, Step
from taskloom.algebra.select import top_mask
from taskloom.lazy import Tensor, torch


def clip(limit: float) -> Step:
    """Clip every entry to [-limit, limit]."""

    def apply(stack: Stack, _: Any) -> Stack:
        return stack.with_values(stack.values.clamp(-limit, limit))

    return Step(f"clip({limit:g})", apply, op=Op("clip", limit))


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

    def see(acc: Tensor | None, stack: Stack) -> Tensor:
        counted = [[torch.count_nonzero(row) for row in marks] for marks in _alone(stack.values)]
        own = torch.stack([torch.stack(counts) for counts in counted])
        return own if acc is None else acc + own

    def join(one: Tensor | None, other: Tensor | None) -> Tensor | None:
        return one + other if one is not None and other is not None else one or other

    def factors(counts: Tensor) -> Tensor:
        unique = counts[1]
        ratio = ((counts[0] - unique) / unique.clamp(min=1)).clamp(0, most)
        return 1 + gain * ratio

    def apply(stack: Stack, known: Tensor | None) -> Stack:
        values = stack.values
        found = factors(see(None, stack)) if known is None else known
        column = found.to(values.dtype).reshape(-1, *[1] * (values.ndim - 1))
        return stack.with_values(torch.where(_alone(values)[1], values * column, values))

    measure = Measure(1, lambda *_: None, see, factors, join)
    label = f"favour_unique({gain:g}, {most:g})"
    return Step(label, apply, Grain.TENSOR, slicewise=measure, workspace=_marked)


def _marked(shape: tuple[int, ...], count: int) -> int:
    """Bytes of the enlarged rows and of what is chosen of both, of marks and of their number."""
    return (10 * count + 3) * math.prod(shape)


def _alone(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mark what is not 0, and what is so for one expert only."""
    changed = values.detach() != 0
    many = torch.zeros(changed.shape[1:], dtype=torch.int16, device=changed.device)
    for row in changed:
        many += row
    return changed, changed & (many == 1)


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
