"""Steps that weigh the experts, make one row of K, and scale the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from taskloom.algebra.core import Chain, Grain, Stack, Step, chain
from taskloom.errors import PlanError, nearest

#: one number: a plain float, or a 0-d tensor when its gradient is wanted
Scalar = float | Tensor
#: one number per expert: in pool order, or by expert's name
Weights = Sequence[float] | Mapping[str, float] | Tensor


def resolve_weights(weights: Weights, experts: tuple[str, ...], like: Tensor) -> Tensor:
    """Return ``(K,)`` weights in the order of ``experts``, with the dtype and device of ``like``.

    Raises
    ------
    PlanError
        A wrong number of weights, or names that are not exactly the experts'.
    """
    if isinstance(weights, Mapping):
        for name in weights:
            if name not in experts:
                guess = nearest(name, experts)
                did = f"did you mean {guess!r}? " if guess else ""
                listed = ", ".join(experts)
                raise PlanError(f"weights name the expert {name!r}: {did}The pool holds: {listed}")
        missing = [name for name in experts if name not in weights]
        if missing:
            raise PlanError(f"weights lack the experts {', '.join(missing)}", hint="Give each one")
        weights = [weights[name] for name in experts]
    if len(weights) != len(experts):
        raise PlanError(
            f"{len(weights)} weights were given for {len(experts)} experts ({', '.join(experts)})",
            hint="Give one weight per expert, in pool order or by name",
        )
    if isinstance(weights, Tensor):
        return weights.to(like)
    return torch.tensor([float(w) for w in weights], dtype=like.dtype, device=like.device)


def _column(weights: Tensor, values: Tensor) -> Tensor:
    return weights.reshape(-1, *[1] * (values.ndim - 1))


def weigh(weights: Weights) -> Step:
    """Multiply each expert's row by its weight."""

    def apply(stack: Stack, _: Any) -> Stack:
        w = resolve_weights(weights, stack.experts, stack.values)
        return stack.with_values(stack.values * _column(w, stack.values))

    return Step("weigh", apply)


def total() -> Step:
    """Sum over experts: ``(K, ...) -> (1, ...)``."""
    return Step("total", lambda stack, _: stack.with_values(stack.values.sum(0, keepdim=True)))


def mean(
    of: Literal["all", "kept"] = "all", weights: Weights | None = None, *, normalize: bool = True
) -> Step:
    """Weighted mean over experts: ``(K, ...) -> (1, ...)``.

    Parameters
    ----------
    of
        ``"all"`` divides by the sum of all weights; ``"kept"`` by that of the experts whose entry is
        not zero (the disjoint mean of TIES, eq. in section 3; 0 where no entry is kept).
    weights
        One per expert; equal if None.
    normalize
        False leaves out the division: a weighted sum.
    """

    def apply(stack: Stack, _: Any) -> Stack:
        values = stack.values
        w = (
            torch.ones(len(values), dtype=values.dtype, device=values.device)
            if weights is None
            else resolve_weights(weights, stack.experts, values)
        )
        column = _column(w, values)
        summed = (values * column).sum(0, keepdim=True)
        if not normalize:
            return stack.with_values(summed)
        if of == "all":
            divisor = w.sum()
            if not bool(divisor != 0):
                raise PlanError("the weights sum to 0, so their mean is undefined", hint=_SUM_HINT)
            return stack.with_values(summed / divisor)
        divisor = (column * (values.detach() != 0)).sum(0, keepdim=True)
        empty = divisor == 0
        return stack.with_values(torch.where(empty, 0.0, summed / torch.where(empty, 1.0, divisor)))

    kind = "" if of == "all" else "kept"
    weighted = "" if weights is None else "weighted"
    name = "mean" if normalize else "total"
    inside = ", ".join(part for part in (kind, weighted) if part)
    return Step(f"{name}({inside})" if inside else name, apply)


_SUM_HINT = "Give weights with another sum, or normalize=False for a plain weighted sum"


def scale(factor: Scalar) -> Step:
    """Multiply by one number."""
    shown = f"{factor:g}" if isinstance(factor, float | int) else "learned"

    def apply(stack: Stack, _: Any) -> Stack:
        return stack.with_values(stack.values * factor)

    return Step(f"scale({shown})", apply)


def interpolate_sphere(t: Scalar, *, threshold: float = 0.9995, eps: float = 1e-8) -> Step:
    """Spherical linear interpolation of exactly two rows, each tensor as one vector.

    ``[sin((1-t) phi) a + sin(t phi) b] / sin phi`` with phi the angle between a and b (Shoemake 1985,
    section 3.3), applied to the vectors as they are; ``(1-t) a + t b`` when ``|cos phi|`` exceeds
    ``threshold`` or a vector is shorter than ``eps``.
    """

    def apply(stack: Stack, _: Any) -> Stack:
        a, b = stack.values
        norms = torch.linalg.vector_norm(a), torch.linalg.vector_norm(b)
        linear = (1 - t) * a + t * b
        if bool((norms[0] <= eps) | (norms[1] <= eps)):
            return stack.with_values(linear[None])
        cosine = (a / norms[0] * (b / norms[1])).sum().clamp(-1, 1)
        if bool(cosine.abs() > threshold):
            return stack.with_values(linear[None])
        angle = torch.arccos(cosine)
        mixed = torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b
        return stack.with_values((mixed / torch.sin(angle))[None])

    shown = f"{t:g}" if isinstance(t, float | int) else "learned"
    return Step(f"slerp({shown})", apply, Grain.TENSOR)


def optionally(weights: Weights | None) -> Chain:
    """``weigh(weights)``, or nothing when there are none."""
    return chain() if weights is None else chain(weigh(weights))
