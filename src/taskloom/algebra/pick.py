"""The mean of some of the experts, by name."""

from __future__ import annotations

from typing import Any

import numpy as np

from taskloom.algebra.combine import sum_rows
from taskloom.algebra.core import Op, Stack, Step
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

    def taken(_: str, experts: tuple[str, ...], *__: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
        for name in names:
            index_of(name, experts, "mean")
        return np.array([not names or expert in names for expert in experts], np.float32)

    def apply(stack: Stack, _: Any) -> Stack:
        values, marks = stack.values, taken("", stack.experts)
        column = torch.from_numpy(marks > 0).to(values.device).reshape(-1, *[1] * (values.ndim - 1))
        # what is not taken is a zero of its sign, as in the kernels, which multiply by 0
        rows = torch.where(column, values, torch.copysign(torch.zeros_like(values), values))
        return stack.with_values(sum_rows(rows) / float(marks.sum()))

    op = Op("picked", told=taken, flag=1)
    return Step(f"mean({', '.join(names) or 'all'})", apply, linear=True, experts=names, op=op)
