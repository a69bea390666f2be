"""Steps that set entries to zero: keep the largest, cut the largest, drop at random."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from taskloom.algebra.core import Grain, Op, Stack, Step
from taskloom.algebra.random import bernoulli
from taskloom.algebra.select import Numbers, Selection, magnitude_bits, selecting, top_mask
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
        What is ranked together, for each expert alone: a ``"row"`` (last axis), a ``"tensor"`` (exact;
        two more reads of tensors larger than a slice), or all tensors of the ``"model"`` (exact; two
        more reads; entries equal to the threshold stay). Over tensors and models magnitudes are
        compared as rounded to float32, which for float64 weights makes entries equal that differ by
        less than one part in 2**24. A 0-d tensor is ranked over a model
        only; it has no row, and as a tensor of its own it is kept.
    extra
        Entries kept beyond that number; 1 reproduces the released code of TIES.
    """
    _share("density", density)
    label = f"keep({density:g}, {scope})"

    def count(n: int) -> int:
        return int(n * density) + extra

    if scope != "model":
        return _select(label, scope, count, Op("row", density, extra=extra))

    def apply(stack: Stack, limits: Numbers) -> Stack:
        limit = torch.from_numpy(limits).to(stack.values.device)
        column = limit.reshape(-1, *[1] * (stack.values.ndim - 1))
        return stack.with_values(stack.values * (magnitude_bits(stack.values) >= column))

    return Step(label, apply, Grain.ELEMENT, selecting(count, ties=False), op=Op("keep"))


def cut(share: float, scope: Literal["row", "tensor"] = "row") -> Step:
    """Set the ``int(share * n)`` largest magnitudes of each row or tensor to zero (outliers)."""
    _share("share", share)
    op = Op("row", share, flag=1)
    return _select(f"cut({share:g}, {scope})", scope, lambda n: int(n * share), op)


def _select(label: str, scope: Literal["row", "tensor"], count: Callable[[int], int], op: Op) -> Step:
    """Keep (or cut, as the op says) the ``count(n)`` largest of each row or tensor."""
    cuts = op.flag == 1

    def apply(stack: Stack, selection: Selection | None) -> Stack:
        if selection is not None:
            marks = selection.mark(stack.values)
        elif stack.values.ndim == 1:  # scalars: nothing to rank
            return stack
        else:
            ranked = _by_scope(stack.values, scope).detach().abs()
            if scope == "tensor":
                ranked = ranked.to(torch.float32)
            marks = top_mask(ranked, count(ranked.shape[-1])).reshape(stack.values.shape)
        return stack.with_values(stack.values * (~marks if cuts else marks))

    if scope == "row":
        return Step(label, apply, Grain.ROW, op=op)
    measure = selecting(count, ties=True)
    return Step(label, apply, Grain.TENSOR, slicewise=measure, op=replace(op, name="tensor"))


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

    label = f"drop({p:g}{'' if rescale else ', no rescale'}, seed {seed})"
    return Step(label, apply, op=Op("drop", p, seed=seed, flag=int(rescale)))
