"""Drop at random by rank: the larger a change, the more likely it stays (DELLA's MagPrune)."""

from __future__ import annotations

from typing import Any

from taskloom.algebra.core import Grain, Op, Stack, Step
from taskloom.algebra.random import uniform_bits
from taskloom.lazy import Tensor, torch


def keep_probabilities(values: Tensor, density: float, epsilon: float) -> Tensor:
    """Probability of every entry by the rank of its magnitude along the last axis.

    ``(density - epsilon) + 2 epsilon (r - 1) / (n - 1)`` for rank r = 1 (smallest) .. n; ``density``
    in a row of one entry. Equal magnitudes: the lower index has the lower rank.

    >>> keep_probabilities(torch.tensor([0.5, -0.1, 0.3]), 0.5, 0.15)
    tensor([0.6500, 0.3500, 0.5000])
    """
    size = values.shape[-1]
    if size < 2:
        return torch.full_like(values, density)
    order = values.detach().abs().argsort(dim=-1, stable=True)
    ranks = torch.empty_like(order)
    ranks.scatter_(-1, order, torch.arange(size, device=order.device).expand_as(order))
    return (density - epsilon) + ranks.to(values.dtype) * (2 * epsilon / (size - 1))


def drop_by_rank(density: float, epsilon: float, *, rescale: bool = True, seed: int = 0) -> Step:
    """Keep every entry with a probability by its rank in its row; see `keep_probabilities`.

    Survivors are divided by their own probability when ``rescale``. ``density`` 1 keeps everything.

    Raises
    ------
    ValueError
        ``density`` outside [0, 1], or a probability that would not lie within (0, 1).
    """
    if not 0.0 <= density <= 1.0 or epsilon < 0:
        raise ValueError(
            f"density must lie in [0, 1] and epsilon must not be negative, not {density}, {epsilon}"
        )
    if 0 < density < 1 and not (density - epsilon > 0 and density + epsilon < 1):
        raise ValueError(
            f"density {density:g} -+ epsilon {epsilon:g} must lie within (0, 1): take a smaller epsilon"
        )

    def apply(stack: Stack, _: Any) -> Stack:
        if density == 1:
            return stack
        if density == 0:
            return stack.with_values(torch.zeros_like(stack.values))
        rows = []
        for expert, row in zip(stack.experts, stack.values, strict=True):
            chance = keep_probabilities(row.reshape(1, -1) if row.ndim < 2 else row, density, epsilon)
            bits = uniform_bits(seed, stack.name, expert, stack.start, row.numel())
            bits = bits.to(row.device)
            kept = row * (bits.reshape(row.shape) < chance.reshape(row.shape).double() * 2**32)
            rows.append(kept / chance.reshape(row.shape) if rescale else kept)
        return stack.with_values(torch.stack(rows))

    label = f"drop_by_rank({density:g}, {epsilon:g}{'' if rescale else ', no rescale'}, seed {seed})"
    op = Op("rank", density, seed=seed, flag=int(rescale), width=epsilon) if 0 < density < 1 else None
    return Step(label, apply, Grain.ROW, op=op)
