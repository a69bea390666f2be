"""Keep the experts' rows beside what a chain makes of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from taskloom.algebra.core import Chain, Measure, Op, Stack, Step, chain
from taskloom.errors import PlanError
from taskloom.lazy import Tensor, torch

_PLACED = ("keep", "elect", "weigh", "total", "mean", "kept", "scale")


def beside(*parts: Step | Chain) -> Chain:
    """Put what a chain makes of the K rows beside them: ``(K, ...) -> (K + M, ...)``, its M rows last.

    The first K rows stay as they are, so that a later step can compare what was merged with what it
    was merged from. Reads are those of the chain.

    Examples
    --------
    >>> from taskloom.algebra import scale, total
    >>> print(beside(total(), scale(0.5)))
    beside(total) -> beside(scale(0.5))

    Raises
    ------
    ValueError
        A chain of no steps.
    """
    steps = chain(*parts).steps
    if not steps:
        raise ValueError("beside takes one step or more")
    return chain(_first(steps[0]), *[_beside(step) for step in steps[1:]])


def split(stack: Stack) -> tuple[Tensor, Tensor]:
    """Return the K experts' rows and those beside them.

    Raises
    ------
    PlanError
        There are none beside them.
    """
    count = len(stack.experts)
    if len(stack.values) <= count:
        raise PlanError(
            f"a step needs what was merged beside the rows of its {count} experts, but found "
            f"{len(stack.values)} rows",
            hint="Put beside (tall_masks does) before it",
        )
    return stack.values[:count], stack.values[count:]


def _first(step: Step) -> Step:
    """Let a step see the experts' rows, and put what it makes of them beside."""

    def apply(stack: Stack, statistic: Any) -> Stack:
        made = step.apply(stack, statistic).values
        return stack.with_values(torch.cat([stack.values, made]))

    return replace(step, name=f"beside({step.name})", apply=apply, linear=False, op=_placed(step, 1))


def _beside(step: Step) -> Step:
    """Let a step see and change the rows beside the experts' only."""

    def apply(stack: Stack, statistic: Any) -> Stack:
        rows, others = split(stack)
        made = step.apply(stack.with_values(others), statistic).values
        return stack.with_values(torch.cat([rows, made]))

    return replace(
        step,
        name=f"beside({step.name})",
        apply=apply,
        measure=_measured(step.measure),
        slicewise=_measured(step.slicewise),
        linear=False,
        op=_placed(step, 2),
    )


def _placed(step: Step, place: int) -> Op | None:
    """Tell the kernels where the step works; None for steps that they know on the experts' rows only."""
    if step.op is None or step.op.name not in _PLACED or step.slicewise is not None:
        return None
    return replace(step.op, place=place)


def _measured(measure: Measure | None) -> Measure | None:
    if measure is None:
        return None
    known = measure

    def see(acc: Any, stack: Stack) -> Any:
        return known.see(acc, stack.with_values(split(stack)[1]))

    return replace(known, see=see, count=None)
