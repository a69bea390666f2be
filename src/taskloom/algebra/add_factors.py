"""The step of LoraHub: weighted sums of the factors of adapters, each factor by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taskloom.algebra.combine import check_weights
from taskloom.algebra.core import Factored, Grain, Pair, Stack, Step, Weights
from taskloom.errors import PlanError
from taskloom.lazy import Tensor


def add_factors(weights: Weights | None = None) -> Step:
    """Merge the factors B (rows, r) and A (r, columns) of adapters of one rank.

    ``B = sum_k w_k B_k`` and ``A = sum_k w_k A_k``, so that their product holds ``w_i w_j B_i A_j`` for
    every pair of adapters. An adapter that does not change a matrix adds nothing to it.

    Parameters
    ----------
    weights
        One number per expert; ``1 / K`` each if None.

    Examples
    --------
    >>> import torch
    >>> one = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0, 0.0]])
    >>> two = torch.tensor([[2.0], [-1.0]]), torch.tensor([[0.0, 1.0]])
    >>> left, right = add_factors([0.5, -0.25]).factored.apply("w", ("a", "b"), [one, two], None)
    >>> (left @ right).tolist()
    [[0.0, -0.0], [0.625, -0.3125]]
    """

    def merge(name: str, experts: tuple[str, ...], pairs: Sequence[Pair], _: Any) -> Pair:
        numbers = [1 / len(experts)] * len(experts) if weights is None else weights
        return sum_factors(name, experts, pairs, check_weights(numbers, experts))

    def refuse(stack: Stack, _: Any) -> Stack:
        raise PlanError(
            f"tensor {stack.name!r}: {label} works on the factors of adapters, found a full tensor",
            hint="Merge adapters into an adapter (--as-adapter)",
        )

    label = "add_factors" if weights is None else "add_factors(weighted)"
    return Step(label, refuse, Grain.MATRIX, weights=weights, factored=Factored(merge))


def sum_factors(
    name: str, experts: tuple[str, ...], pairs: Sequence[Pair], weights: Sequence[float] | Tensor
) -> Pair:
    """Return ``(sum_k w_k B_k, sum_k w_k A_k)``; a pair of rank 0 adds nothing.

    Raises
    ------
    PlanError
        Ranks that differ.
    """
    ranks = {expert: len(right) for expert, (_, right) in zip(experts, pairs, strict=True) if len(right)}
    if len(set(ranks.values())) > 1:
        listed = ", ".join(f"{expert} {rank}" for expert, rank in ranks.items())
        raise PlanError(
            f"tensor {name!r}: the adapters' ranks differ ({listed}), and LoraHub adds up rank by rank",
            hint="Take adapters of one rank, or another method, such as task_arithmetic with weights",
        )
    left, right = pairs[0]
    if not ranks:
        return left, right
    rank = next(iter(ranks.values()))
    left, right = left.new_zeros(len(left), rank), right.new_zeros(rank, right.shape[1])
    for (one, other), weight in zip(pairs, weights, strict=True):
        if len(other):
            left = left + weight * one
            right = right + weight * other
    return left, right
