"""The step of CoPA-Merging: prune both factors of every adapter, make up for what a row lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taskloom.algebra.core import Factored, Grain, Pair, Stack, Step
from taskloom.errors import PlanError
from taskloom.lazy import Tensor, torch


def complement(density: float, lifted: float, scale: float) -> Step:
    """Merge the factors B (rows, r) and A (r, columns) of adapters of one rank.

    1. Of each factor the entries stay whose magnitude reaches the ``int(n (1 - density))``-th smallest.
    2. ``s_k[j]`` is the L1 norm of row j of A_k before, by that after; not below the entry
       ``int(r (1 - lifted))`` of the sorted ``s_k``.
    3. ``A = sum_k scale A_k`` and ``B[:, j] = sum_k scale s_k[j] B_k[:, j] / sum_k s_k[j]``.

    A row of which nothing stays takes no part.
    """
    for name, value in (("density", density), ("lifted", lifted)):
        if not 0.0 < value <= 1.0:
            raise ValueError(f"{name} is a share and must lie in (0, 1], not {value!r}")

    def merge(name: str, experts: tuple[str, ...], pairs: Sequence[Pair], _: Any) -> Pair:
        ranks = [len(right) for _, right in pairs]
        if len(set(ranks)) > 1:
            listed = ", ".join(f"{e} {r}" for e, r in zip(experts, ranks, strict=True))
            raise PlanError(
                f"tensor {name!r}: the adapters' ranks differ ({listed}), and CoPA-Merging adds up rank "
                "by rank",
                hint="Take adapters of one rank on the same modules, or KnOTS",
            )
        lefts = torch.stack([prune(left, density) for left, _ in pairs])
        rights = torch.stack([prune(right, density) for _, right in pairs])
        before = torch.stack([right.abs().sum(1) for _, right in pairs])
        weights = lift(before, rights.abs().sum(2), lifted)
        divisor = weights.sum(0)
        mixed = (lefts * weights[:, None, :]).sum(0) / torch.where(divisor > 0, divisor, 1.0)
        return mixed * scale, rights.sum(0) * scale

    def refuse(stack: Stack, _: Any) -> Stack:
        raise PlanError(
            f"tensor {stack.name!r}: {label} works on the factors of adapters, found a full tensor",
            hint="Merge adapters into an adapter (--as-adapter)",
        )

    label = f"complement({density:g}, {lifted:g}, {scale:g})"
    return Step(label, refuse, Grain.MATRIX, factored=Factored(merge))


def prune(factor: Tensor, density: float) -> Tensor:
    """Set to 0 what is below the ``int(n (1 - density))``-th smallest magnitude."""
    cut = int(factor.numel() * (1 - density))
    if cut < 1:
        return factor
    sizes = factor.abs()
    return factor * (sizes >= sizes.reshape(-1).kthvalue(cut).values)


def lift(before: Tensor, after: Tensor, lifted: float) -> Tensor:
    """``(K, r)`` L1 norms of rows -> their ratio, low ones raised; 0 where nothing stayed."""
    stays = after > 0
    ratio = torch.where(stays, before / torch.where(stays, after, 1.0), 0.0)
    for row, kept in zip(ratio, stays, strict=True):
        ordered = row[kept].sort().values
        if len(ordered):
            low = ordered[min(int(len(ordered) * (1 - lifted)), len(ordered) - 1)]
            row[kept] = row[kept].clamp(min=low)
    return ratio
