"""Steps made of other steps: one for each expert, and one that keeps the size of a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from taskloom.algebra.core import Grain, Stack, Step
from taskloom.errors import PlanError
from taskloom.lazy import torch


def each(steps: Sequence[Step]) -> Step:
    """Apply the k-th step to the k-th expert's row alone, such as a density of its own.

    Raises
    ------
    ValueError
        No steps, or one that measures the whole model, which is measured for all experts at once.
    """
    if not steps or any(step.measure is not None for step in steps):
        raise ValueError("each takes one or more steps that need no measure of the model")

    def apply(stack: Stack, _: Any) -> Stack:
        if len(stack.values) != len(steps):
            raise PlanError(
                f"{len(steps)} steps were given for {len(stack.values)} experts",
                hint="Give one for each expert, in pool order",
            )
        rows = [
            step.apply(replace(stack, values=stack.values[k : k + 1], experts=(expert,)), None).values
            for k, (step, expert) in enumerate(zip(steps, stack.experts, strict=True))
        ]
        return stack.with_values(torch.cat(rows))

    names = [step.name for step in steps]
    name = names[0] if len(set(names)) == 1 else f"each({'; '.join(names)})"
    return Step(name, apply, max(step.grain for step in steps))


def keep_l1(step: Step, *, floor: float = 1e-7) -> Step:
    """Apply a step, then rescale every expert's tensor to the L1 norm it had before.

    Rows whose norm before or after is below ``floor`` are left as the step made them. This is what
    mergekit means by ``rescale``; DARE itself divides by the probability of being kept.
    """
    if step.measure is not None:
        raise ValueError("keep_l1 takes a step that needs no measure of the model")

    def apply(stack: Stack, _: Any) -> Stack:
        after = step.apply(stack, None).values
        count = len(after)
        old = stack.values.reshape(count, -1).abs().sum(-1, dtype=torch.float64)
        new = after.reshape(count, -1).abs().sum(-1, dtype=torch.float64)
        small = (old < floor) | (new < floor)
        factor = torch.where(small, 1.0, old / torch.where(small, 1.0, new)).to(after.dtype)
        return stack.with_values(after * factor.reshape(-1, *[1] * (after.ndim - 1)))

    return Step(f"keep_l1({step.name})", apply, max(step.grain, Grain.TENSOR))
