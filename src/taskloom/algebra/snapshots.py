"""Averages of the snapshots of one run, oldest first."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from taskloom.algebra.combine import sum_rows
from taskloom.algebra.core import Op, Stack, Step
from taskloom.errors import PlanError
from taskloom.lazy import torch

Over = Literal["last", "swa", "ema"]


def snapshot_weights(
    count: int, over: Over, *, last: int, start: float, decay: float
) -> NDArray[np.float64]:
    """Return the weight of each of ``count`` snapshots, oldest first; they sum up to 1.

    >>> snapshot_weights(4, "last", last=2, start=0.75, decay=0.5).tolist()
    [0.0, 0.0, 0.5, 0.5]
    >>> snapshot_weights(4, "ema", last=2, start=0.75, decay=0.5).tolist()
    [0.125, 0.125, 0.25, 0.5]

    Raises
    ------
    PlanError
        ``last`` is more than there are.
    """
    weights = np.zeros(count)
    if over == "ema":
        weights[:] = (1 - decay) * decay ** np.arange(count - 1, -1, -1, dtype=np.float64)
        weights[0] = decay ** (count - 1)
        return weights
    if over == "last" and last > count:
        raise PlanError(
            f"the last {last} snapshots are to be averaged, and there are {count}",
            hint="Give more snapshots, or a smaller last",
        )
    taken = last if over == "last" else count - min(int(start * count), count - 1)
    weights[count - taken :] = 1 / taken
    return weights


def average_snapshots(over: Over, *, last: int, start: float, decay: float) -> Step:
    """Weighted sum of the snapshots: ``(K, ...) -> (1, ...)``; see `snapshot_weights`."""

    def shares(_: str, experts: tuple[str, ...], *__: Any) -> NDArray[np.float64]:
        return snapshot_weights(len(experts), over, last=last, start=start, decay=decay)

    def apply(stack: Stack, _: Any) -> Stack:
        values = stack.values
        found = shares("", stack.experts)
        column = torch.from_numpy(found).to(values.dtype).to(values.device)
        return stack.with_values(sum_rows(values * column.reshape(-1, *[1] * (values.ndim - 1))))

    inside = {"last": f"last {last}", "swa": f"from {start:g}", "ema": f"ema {decay:g}"}[over]
    return Step(f"snapshots({inside})", apply, linear=True, op=Op("blend", told=shares))
