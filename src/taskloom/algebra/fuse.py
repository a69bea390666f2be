"""The step of SCE: select what varies, calculate coefficients, erase the minority."""

from __future__ import annotations

from typing import Any, Literal

from taskloom.algebra.combine import sum_rows
from taskloom.algebra.core import Grain, Stack, Step
from taskloom.algebra.select import top_mask
from taskloom.lazy import Tensor, torch

Rule = Literal["paper", "released", "mergekit"]
_TINY = 1e-6  # mergekit's floor, of a sum of squares and of a sum of coefficients


def fuse(share: float, rule: Rule = "paper") -> Step:
    """Fuse task vectors per tensor by the variance of their entries.

    Select: of the n entries whose (population) variance over the experts is not 0, the
    ``int(share * n)`` of largest variance; all entries if ``share`` is 1. Calculate: an expert's
    coefficient is its share of the squared norm of what was selected; equal if all are 0. Erase:
    entries against the sign of the sum (0 counts as positive). Then the mean by coefficient.

    ``"paper"`` merges what was selected only; ``"released"`` uses the selection for the coefficients
    only, and at share 1 too; ``"mergekit"`` is the paper's with equal coefficients where the mean
    squares sum up to less than 1e-6, and with no divisor below 1e-6.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share is a share of the entries and must lie in [0, 1], not {share!r}")

    def apply(stack: Stack, _: Any) -> Stack:
        values = stack.values
        rows = values.reshape(len(values), -1)
        if rows.numel() == 0:
            return stack.with_values(values[:1])
        scaled = rows / _power_of_two(rows)
        selected = rows
        if share < 1 or rule == "released":
            variance = scaled.detach().var(0, unbiased=False)
            count = int(share * int(torch.count_nonzero(variance)))
            selected = rows * top_mask(variance, count)
        merging = rows if rule == "released" else selected
        coefficients = _coefficients(selected, rule).reshape(-1, 1)
        positive = sum_rows(merging).detach() >= 0
        agree = torch.sign(merging.detach()) == torch.where(positive, 1.0, -1.0)
        weights = coefficients * agree
        divisor = sum_rows(weights)
        if rule == "mergekit":
            merged = sum_rows(merging * weights) / divisor.clamp(min=_TINY)
        else:
            empty = divisor == 0
            mean = sum_rows(merging * weights) / torch.where(empty, 1.0, divisor)
            merged = torch.where(empty, 0.0, mean)
        return stack.with_values(merged.reshape(1, *values.shape[1:]))

    return Step(f"fuse({share:g}, {rule})", apply, Grain.TENSOR)


def _coefficients(rows: Tensor, rule: Rule) -> Tensor:
    """``(K, n) -> (K,)``, sum 1."""
    power = _power_of_two(rows)
    squares = (rows / power).square().mean(1)
    total = float(squares.sum()) * (power * power if rule == "mergekit" else 1.0)
    equal = total < _TINY if rule == "mergekit" else total == 0
    return torch.full_like(squares, 1.0 / len(squares)) if equal else squares / squares.sum()


def _power_of_two(rows: Tensor) -> float:
    """Largest magnitude rounded to a power of two: dividing by it changes no bits."""
    largest = float(rows.detach().abs().max())
    return 2.0 ** int(torch.frexp(torch.tensor(largest)).exponent) if largest > 0 else 1.0
