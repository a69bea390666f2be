"""Weigh experts by the size of their task vectors, with no data and no search."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from taskloom.algebra.combine import sum_rows
from taskloom.algebra.core import Grain, Measure, Op, Stack, Step
from taskloom.algebra.exact import ExactSums
from taskloom.lazy import Tensor, torch

Whose = Literal["element", "tensor", "model"]


def weigh_by_size(power: float = 2.0, scope: Whose = "model") -> Step:
    """Multiply each expert's row by its share ``s_k**power / sum_j s_j**power`` of all sizes.

    The weights are numbers, no gradient flows through them.

    Parameters
    ----------
    power
        2 for MetaGPT, 1 for CoDiEmb, 0 for equal weights; not negative.
    scope
        What s is: the norm of the task vector over the ``"model"`` (one more read), its norm in each
        ``"tensor"`` (one more read of tensors larger than a slice), or the magnitude of the
        ``"element"``. Where all sizes are 0 the weights are equal.
    """
    if not math.isfinite(power) or power < 0:
        raise ValueError(f"power must be a finite number that is not negative, not {power!r}")
    label = f"weigh_by_size({power:g}, {scope})"
    if scope == "element":
        return Step(label, lambda stack, _: _by_element(stack, power))
    measure = Measure(
        1,
        lambda round_, previous: None,
        _see,
        lambda acc: shares(acc.values(), power),
        join=lambda one, other: one + other if one is not None and other is not None else one or other,
        count="squares",
        add=lambda acc, seen: seen.sums if acc is None else acc + seen.sums,
    )
    op = Op("weigh")

    def apply(stack: Stack, weights: NDArray[np.float64] | None) -> Stack:
        if weights is None:
            weights = shares(_see(None, stack).values(), power)
        column = torch.from_numpy(weights).to(stack.values.device, stack.values.dtype)
        return stack.with_values(stack.values * column.reshape(-1, *[1] * (stack.values.ndim - 1)))

    if scope == "model":
        return Step(label, apply, measure=measure, op=op)
    return Step(label, apply, Grain.TENSOR, slicewise=measure, op=op)


def shares(squares: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    """Squared norms ``(K,)`` to weights that sum to 1.

    >>> shares(np.array([1.0, 3.0]), 2.0)
    array([0.25, 0.75])
    >>> shares(np.zeros(2), 2.0)
    array([0.5, 0.5])
    """
    largest = squares.max()
    if largest == 0:
        return np.full(len(squares), 1.0 / len(squares))
    raised: NDArray[np.float64] = (squares / largest) ** (power / 2)
    weights: NDArray[np.float64] = raised / raised.sum()
    return weights


def _see(acc: ExactSums | None, stack: Stack) -> ExactSums:
    found = ExactSums.of(stack.values.detach().double().square())
    return found if acc is None else acc + found


def _by_element(stack: Stack, power: float) -> Stack:
    sizes: Tensor = stack.values.detach().abs()
    largest = sizes.amax(0, keepdim=True)
    raised: Any = (sizes / torch.where(largest > 0, largest, 1.0)) ** power
    weights = raised / torch.where(largest > 0, sum_rows(raised), 1.0)
    return stack.with_values(stack.values * weights)
