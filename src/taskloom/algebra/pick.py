"""The mean of some of the experts, by name."""

from __future__ import annotations

from typing import Any

from taskloom.algebra.combine import sum_rows
from taskloom.algebra.core import Stack, Step
from taskloom.algebra.named import index_of
from taskloom.lazy import torch


def pick_mean(names: tuple[str, ...]) -> Step:
    """Mean over the named experts, all if none is named: ``(K, ...) -> (1, ...)``.

    Raises
    ------
    ValueError
        A name given twice.
    PlanError
        When it is applied: a name that no expert has.
    """
    if len(set(names)) != len(names):
        raise ValueError(f"an ingredient is named twice in {', '.join(names)}")

    def apply(stack: Stack, _: Any) -> Stack:
        for name in names:
            index_of(name, stack.experts, "mean")
        rows = [stack.values[k : k + 1] for k, e in enumerate(stack.experts) if not names or e in names]
        return stack.with_values(sum_rows(torch.cat(rows)) / len(rows))

    return Step(f"mean({', '.join(names) or 'all'})", apply, linear=True, experts=names)
