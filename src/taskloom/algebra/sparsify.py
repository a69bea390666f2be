"""Steps that set entries to zero: keep the largest, cut the largest, drop at random."""

from __future__ import annotations

import math
from typing import Any, Literal

from taskloom.algebra.core import Grain, Measure, Stack, Step
from taskloom.algebra.random import bernoulli
from taskloom.algebra.select import Radix, magnitude_bits, top_mask
from taskloom.lazy import Tensor, torch

Scope = Literal["row", "tensor", "model"]


def _share(name: str, value: float) -> float:
    if not (math.isfinite(value) and 0.0 <= value <= 1.0):
        raise ValueError(f"{name} is a share of the entries and must lie in [0, 1], not {value!r}")
    return value


def _by_scope(values: Tensor, scope: Scope) -> Tensor:
    """View ``(K, *slice)`` so that the last axis is what is ranked together."""
    if scope == "tensor" or values.ndim == 1:
        return values.reshape(len(values), -1)
    return values


def keep(density: float, scope: Scope = "model", *, extra: int = 0) -> Step:
    """Keep the largest magnitudes and set the rest to zero.

    Parameters
    ----------
    density
        Share kept, in [0, 1]; ``int(density * n)`` entries of the n ranked together.
    scope
        What is ranked together, for each expert alone: a ``"row"`` (last axis), a ``"tensor"``, or
        all tensors of the ``"model"`` (exact; two more reads; entries equal to the threshold stay).
        Over a model magnitudes are compared as rounded to float32, which for float64 weights makes
        entries equal that differ by less than one part in 2**24. A 0-d tensor is ranked over a model
        only; it has no row, and as a tensor of its own it is kept.
    extra
        Entries kept beyond that number; 1 reproduces the released code of TIES.
    """
    _share("density", density)
    label = f"keep({density:g}, {scope})"
    if scope != "model":

        def local(stack: Stack, _: Any) -> Stack:
            ranked = _by_scope(stack.values, scope)
            if stack.values.ndim == 1:  # scalars: nothing to rank
                return stack
            mask = top_mask(ranked.detach().abs(), int(ranked.shape[-1] * density) + extra)
            return stack.with_values(stack.values * mask.reshape(stack.values.shape))

        return Step(label, local, Grain.ROW if scope == "row" else Grain.TENSOR)

    def start(round_: int, previous: Radix | None) -> Radix | None:
        if round_ == 0 or previous is None:
            return None  # the number of experts is known with the first stack
        totals = previous.totals
        kept = torch.tensor([int(int(n) * density) + extra for n in totals])
        return previous.second((totals - kept + 1).clamp(min=1))

    def see(acc: Radix | None, stack: Stack) -> Radix:
        return (acc or Radix.first(len(stack.values))).see(stack.values)

    def apply(stack: Stack, limits: Tensor) -> Stack:
        limit = limits.to(stack.values.device).reshape(-1, *[1] * (stack.values.ndim - 1))
        return stack.with_values(stack.values * (magnitude_bits(stack.values) >= limit))

    measure = Measure(2, start, see, lambda acc: acc.limits())
    return Step(label, apply, Grain.ELEMENT, measure)


def cut(share: float, scope: Literal["row", "tensor"] = "row") -> Step:
    """Set the ``int(share * n)`` largest magnitudes of each row or tensor to zero (outliers)."""
    _share("share", share)

    def apply(stack: Stack, _: Any) -> Stack:
        if stack.values.ndim == 1:
            return stack
        ranked = _by_scope(stack.values, scope)
        mask = ~top_mask(ranked.detach().abs(), int(ranked.shape[-1] * share))
        return stack.with_values(stack.values * mask.reshape(stack.values.shape))

    grain = Grain.ROW if scope == "row" else Grain.TENSOR
    return Step(f"cut({share:g}, {scope})", apply, grain)


def drop(p: float, *, rescale: bool = True, seed: int = 0) -> Step:
    """Set each entry to zero with probability ``p``, independently for each expert.

    Survivors are divided by ``1 - p`` when ``rescale``, so that the expectation is kept; ``p = 1``
    drops everything and rescales nothing.
    """
    _share("p", p)
    factor = 1.0 / (1.0 - p) if rescale and p < 1 else 1.0

    def apply(stack: Stack, _: Any) -> Stack:
        count = stack.values[0].numel()
        masks = [~bernoulli(p, seed, stack.name, expert, stack.start, count) for expert in stack.experts]
        mask = torch.stack(masks).reshape(stack.values.shape).to(stack.values.device)
        return stack.with_values(stack.values * mask * factor)

    return Step(f"drop({p:g}{'' if rescale else ', no rescale'}, seed {seed})", apply)
