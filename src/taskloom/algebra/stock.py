"""The step of Model Stock: how far to go from the base, by the angle between task vectors."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from taskloom.algebra.combine import sum_rows
from taskloom.algebra.core import Grain, Op, Stack, Step
from taskloom.algebra.gram import BLOCK, block_sums, cosine_of, gram, measuring
from taskloom.algebra.sphere import dots, norms, units
from taskloom.lazy import torch


def stock(
    scope: Literal["tensor", "row"] = "tensor", *, clamp: bool = False, floor: float = 0.0
) -> Step:
    """Mean task vector times ``t = N c / (1 + (N - 1) c)``, c the mean cosine of its pairs.

    Parameters
    ----------
    scope
        What has a ratio of its own: a tensor, or each row along the last axis.
    clamp
        Keep t within [0, 1]; task vectors at an obtuse angle give t < 0, a step away from them.
    floor
        Products of two lengths below this count as this, as in mergekit (1e-6); 0 for exact cosines.
        t is 0 where a task vector is 0 or the denominator vanishes.
    """

    def ratio_of(products: NDArray[np.float64]) -> NDArray[np.float64]:
        count = len(products)
        cosines = []
        for i, j in combinations(range(count), 2):
            cosine = cosine_of(products, i, j)
            length = math.sqrt(products[i, i]) * math.sqrt(products[j, j])
            cosines.append(cosine * (length / max(length, floor)) if floor else cosine)
        mean = sum(cosines) / len(cosines)
        below = 1 + (count - 1) * mean
        t = 0.0 if abs(below) < 1e-6 else count * mean / below
        return np.array([min(1.0, max(0.0, t)) if clamp else t])

    def apply(stack: Stack, known: Any) -> Stack:
        values = stack.values
        if known is None and scope == "tensor" and not values.requires_grad and values.numel():
            known = ratio_of(gram([block_sums(values)]))
        if known is not None:
            return stack.with_values(sum_rows(values) / len(values) * float(known[0]))
        rows = values.reshape(len(values), -1) if scope == "tensor" or values.ndim == 1 else values
        if rows.numel() == 0:
            return stack.with_values(values[:1])
        lengths = norms(rows)
        directions = units(rows, lengths)
        cosines = []
        for i, j in combinations(range(len(rows)), 2):
            cosine = dots(directions[i], directions[j])
            product = lengths[i] * lengths[j]
            cosines.append(cosine * (product / product.clamp(min=floor)) if floor else cosine)
        count = len(rows)
        mean = torch.stack(cosines).mean(0)
        below = 1 + (count - 1) * mean
        singular = below.abs() < 1e-6
        t = torch.where(singular, 0.0, count * mean / torch.where(singular, 1.0, below))
        if clamp:
            t = t.clamp(0, 1)
        merged = sum_rows(rows) / count * t.to(values.dtype)
        return stack.with_values(merged.reshape(1, *values.shape[1:]))

    inside = ", ".join([scope, *(["clamp"] if clamp else [])])
    if scope == "row":
        return Step(f"stock({inside})", apply, Grain.ROW)
    measure = measuring(ratio_of)
    return Step(f"stock({inside})", apply, Grain.TENSOR, slicewise=measure, op=Op("stock"), block=BLOCK)
