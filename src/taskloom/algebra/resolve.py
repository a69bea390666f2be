"""Steps that settle conflicts between experts."""

from __future__ import annotations

from typing import Literal

from taskloom.algebra.combine import resolve_weights, sum_rows
from taskloom.algebra.core import Measure, Op, Stack, Step, Weights
from taskloom.lazy import Tensor, torch

Tie = Literal["zero", "plus", "majority"]


def elect(tie: Tie = "zero", weights: Weights | None = None) -> Step:
    """Elect a sign for every entry by the sum over experts; zero what disagrees with it.

    Parameters
    ----------
    tie
        What an exact tie (sum 0) elects: ``"zero"`` nothing, so that every entry there becomes 0;
        ``"plus"`` the positive sign; ``"majority"`` the sign most entries of the model elected
        (negative if that too is a tie), which costs one more read.
    weights
        Multiply the ballots, one per expert; the values that pass are left as they are.
    """

    def ballots(stack: Stack) -> Tensor:
        values = stack.values.detach()
        if weights is None:
            return values
        w = resolve_weights(weights, stack.experts, values).detach()
        return values * w.reshape(-1, *[1] * (values.ndim - 1))

    def apply(stack: Stack, majority: float | None) -> Stack:
        votes = ballots(stack)
        sign = torch.sign(sum_rows(votes))
        if tie != "zero":
            tied = 1.0 if majority is None else majority
            sign = torch.where(sign == 0, torch.full_like(sign, tied), sign)
        return stack.with_values(stack.values * (votes * sign > 0))

    if tie != "majority":
        op = Op("elect", weights=weights, flag=int(tie == "plus"))
        return Step("elect" if tie == "zero" else f"elect(tie {tie})", apply, weights=weights, op=op)

    def see(acc: int, stack: Stack) -> int:
        return acc + int(torch.sign(sum_rows(ballots(stack))).sum(dtype=torch.float64))

    measure = Measure(
        1,
        lambda round_, previous: 0,
        see,
        lambda acc: 1.0 if acc > 0 else -1.0,
        join=lambda one, other: one + other,
    )
    op = Op("elect", weights=weights, flag=2)
    return Step("elect(tie majority)", apply, measure=measure, weights=weights, op=op)
