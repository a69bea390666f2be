"""One vector that all tasks share, and what each task keeps of it: masks, factors, consensus.

Steps here make, or take, stacks of ``1 + K`` rows: the shared vector, then for every task the factor
by which it multiplies each entry, which is 0 or one number per task. Such parts are small: a bit per
entry and a number per task.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from taskloom.algebra.beside import split
from taskloom.algebra.combine import resolve_weights, sum_rows
from taskloom.algebra.core import Measure, Op, Stack, Step, Summed, Weights
from taskloom.algebra.exact import ExactSums
from taskloom.algebra.named import index_of
from taskloom.errors import PlanError
from taskloom.lazy import Tensor, torch

#: how the sizes of tensors add up in the factors of `elect_largest`
Sizes = Literal["paper", "released"]


def tall_masks(threshold: float | Mapping[str, float] = 0.4) -> Step:
    """Mark what of the merged vector serves each task: ``(K + 1, ...) -> (1 + K, ...)``.

    Given the task vectors and the merged one beside them, the mask of task t is
    ``|tau_t| > threshold_t |tau - tau_t|`` (Wang et al., ICML 2024, eq. 4 and 5).

    Parameters
    ----------
    threshold
        One number, or one per expert by name. The smaller, the more is marked.

    Raises
    ------
    ValueError
        A threshold that is negative or not finite.
    """
    numbers = list(threshold.values()) if isinstance(threshold, Mapping) else [threshold]
    if any(not 0 <= number < float("inf") for number in numbers):
        raise ValueError(f"threshold must be finite and not negative, not {threshold!r}")
    weights: Weights | None = threshold if isinstance(threshold, Mapping) else None

    def apply(stack: Stack, _: Any) -> Stack:
        taus, merged = split(stack)
        given = [numbers[0]] * len(taus) if weights is None else weights
        limits = resolve_weights(given, stack.experts, taus)
        column = limits.reshape(-1, *[1] * (taus.ndim - 1))
        marks = taus.detach().abs() > column * (merged - taus).detach().abs()
        return stack.with_values(torch.cat([merged, marks.to(taus.dtype)]))

    label = ", ".join(f"{number:g}" for number in numbers)
    op = Op("tall_masks", numbers[0] if weights is None else 0.0, weights)
    return Step(f"tall_masks({label})", apply, weights=weights, op=op)


def consensus(least: int = 2) -> Step:
    """Keep of the shared vector what at least ``least`` tasks use: ``(1 + K, ...) -> (1, ...)``.

    2 drops what no task or one task alone uses, 1 only what no task uses, 0 nothing.
    """
    if least < 0:
        raise ValueError(f"least is a number of tasks and must not be negative, not {least!r}")

    def apply(stack: Stack, _: Any) -> Stack:
        shared, factors = _parts(stack, "consensus")
        count = (factors.detach() != 0).sum(0, keepdim=True)
        return stack.with_values(shared * (count >= least))

    return Step(f"consensus({least})", apply, op=Op("consensus", extra=least))


def take(task: str | None = None) -> Step:
    """Leave one task's vector, the shared one times its factors: ``(1 + K, ...) -> (1, ...)``.

    None leaves the shared vector itself.
    """

    def apply(stack: Stack, _: Any) -> Stack:
        shared, factors = _parts(stack, "take")
        if task is None:
            return stack.with_values(shared)
        k = index_of(task, stack.experts, "take")
        return stack.with_values(shared * factors[k : k + 1])

    named = () if task is None else (task,)
    label = f"take({task or 'shared'})"
    return Step(label, apply, op=Op("take", task=task), experts=named)


def _parts(stack: Stack, step: str) -> tuple[Tensor, Tensor]:
    if len(stack.values) != 1 + len(stack.experts):
        raise PlanError(
            f"{step} needs a shared vector and a mask for each of {len(stack.experts)} experts, but "
            f"found {len(stack.values)} rows",
            hint="Put tall_masks or elect_largest before it",
        )
    return stack.values[:1], stack.values[1:]


def elect_largest(sizes: Sizes | None = "paper") -> Step:
    """Elect a sign per entry and the largest change of that sign: ``(K, ...) -> (1 + K, ...)``.

    The shared vector has the sign of the sum over experts (0 counts as negative) and the largest
    magnitude among those that agree; a task's mask marks where its own change agrees, and its factor
    makes the shared vector as long as its own: ``sum |tau_t| / sum |mask_t * shared|``, 0 where nothing
    agrees (Huang et al., NeurIPS 2024, eq. 2 to 4).

    Parameters
    ----------
    sizes
        ``"paper"`` sums over the entries of the model, ``"released"`` over the mean magnitudes of its
        tensors; both cost one more read. None leaves the factors at 1.
    """

    def apply(stack: Stack, factors: NDArray[np.float64] | None) -> Stack:
        shared, marks = elected(stack.values)
        parts = marks.to(stack.values.dtype)
        if factors is not None:
            column = torch.from_numpy(factors).to(parts.device, parts.dtype)
            parts = parts * column.reshape(-1, *[1] * (parts.ndim - 1))
        return stack.with_values(torch.cat([shared, parts]))

    if sizes is None:
        return Step("elect_largest", apply, op=Op("elect_largest"))
    per_tensor = sizes == "released"

    def see(acc: _Sums | None, stack: Stack) -> _Sums:
        values = stack.values.detach()
        shared, marks = elected(values)
        both = torch.cat([values.abs(), shared.abs() * marks])
        return add(acc, Summed(stack.name, values[0].numel(), stack.numel, ExactSums.of(both)))

    def add(acc: _Sums | None, seen: Summed) -> _Sums:
        key, size = (seen.name, max(1, seen.numel)) if per_tensor else ("", 1)
        return _joined(acc, {key: (size, seen.sums)})

    measure = Measure(1, lambda round_, previous: None, see, _factors, _joined, "elected", add)
    return Step(f"elect_largest({sizes})", apply, measure=measure, op=Op("elect_largest"))


#: tensor (or "" for all) -> what to divide by, and 2 K sums: of the task vectors, of what they take
_Sums = dict[str, tuple[int, ExactSums]]


def elected(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the shared vector ``(1, ...)`` and who agrees with it ``(K, ...)``.

    >>> shared, marks = elected(torch.tensor([[0.5, -0.25, 0.0], [0.25, 0.5, 0.0]]))
    >>> shared.tolist(), marks.int().tolist()
    ([[0.5, 0.5, 0.0]], [[1, 0, 0], [1, 1, 0]])
    """
    sign = (sum_rows(values).detach() > 0).to(values.dtype) * 2 - 1
    agreeing = values * sign
    largest = torch.zeros_like(values[:1])
    for row in agreeing:
        largest = torch.maximum(largest, row)
    # which of two zeros is the larger one is not defined
    return torch.where(largest == 0, 0.0, largest * sign), agreeing.detach() > 0


def _joined(one: _Sums | None, other: _Sums | None) -> _Sums:
    merged = dict(one or {})
    for name, (size, sums) in (other or {}).items():
        known = merged.get(name)
        merged[name] = (size, sums if known is None else known[1] + sums)
    return merged


def _factors(acc: _Sums) -> NDArray[np.float64]:
    totals = sum(sums.values() / size for _, (size, sums) in sorted(acc.items()))
    own, taken = np.split(np.asarray(totals, dtype=np.float64), 2)
    return np.divide(own, taken, out=np.zeros_like(own), where=taken > 0)
