"""Steps that weigh the experts, make one row of K, and scale the result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from taskloom.algebra.core import Chain, Grain, Op, Scalar, Stack, Step, Weights, chain
from taskloom.algebra.gram import BLOCK, block_sums, cosine_of, gram, measuring
from taskloom.errors import PlanError, nearest
from taskloom.lazy import Tensor, torch


def sum_rows(values: Tensor) -> Tensor:
    """Add the rows up in pool order: ``(K, ...) -> (1, ...)``.

    ``Tensor.sum(0)`` picks its order of additions by the shape of the slice, so that the last bit
    would depend on how a tensor was cut up.
    """
    summed = values[:1].clone()
    for k in range(1, len(values)):
        summed += values[k : k + 1]
    return summed


def check_weights(weights: Weights, experts: tuple[str, ...]) -> Sequence[float] | Tensor:
    """Return the weights in the order of ``experts``: numbers, or the 1-d tensor that was given.

    Raises
    ------
    PlanError
        A wrong number of weights, names that are not exactly the experts', NaN or infinity.
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
    if isinstance(weights, Tensor) and weights.ndim != 1:
        raise PlanError(
            f"weights have the shape {list(weights.shape)}, but one per expert makes [{len(experts)}]",
            hint="Give a 1-d tensor",
        )
    if len(weights) != len(experts):
        raise PlanError(
            f"{len(weights)} weights were given for {len(experts)} experts ({', '.join(experts)})",
            hint="Give one weight per expert, in pool order or by name",
        )
    for name, weight in zip(experts, weights, strict=True):
        if not math.isfinite(weight.detach() if isinstance(weight, Tensor) else weight):
            raise PlanError(
                f"the weight of the expert {name!r} is not finite", hint="Give finite weights"
            )
    return weights


def resolve_weights(weights: Weights, experts: tuple[str, ...], like: Tensor) -> Tensor:
    """Return `check_weights` as ``(K,)``, with the dtype and device of ``like``."""
    given = check_weights(weights, experts)
    return torch.as_tensor(given, dtype=like.dtype, device=like.device)


def _column(weights: Tensor, values: Tensor) -> Tensor:
    return weights.reshape(-1, *[1] * (values.ndim - 1))


def weigh(weights: Weights) -> Step:
    """Multiply each expert's row by its weight."""

    def apply(stack: Stack, _: Any) -> Stack:
        w = resolve_weights(weights, stack.experts, stack.values)
        return stack.with_values(stack.values * _column(w, stack.values))

    return Step("weigh", apply, weights=weights, linear=True, op=Op("weigh", weights=weights))


def total() -> Step:
    """Sum over experts: ``(K, ...) -> (1, ...)``."""
    return Step(
        "total",
        lambda stack, _: stack.with_values(sum_rows(stack.values)),
        linear=True,
        op=Op("total"),
    )


def mean(
    of: Literal["all", "kept"] = "all", weights: Weights | None = None, *, normalize: bool = True
) -> Step:
    """Weighted mean over experts: ``(K, ...) -> (1, ...)``.

    Parameters
    ----------
    of
        ``"all"`` divides by the sum of all weights; ``"kept"`` by that of the experts whose entry is
        not zero (the disjoint mean of TIES, section 3); 0 where no entry is kept, or where the
        weights of those kept cancel.
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
        summed = sum_rows(values if weights is None else values * column)
        if not normalize:
            return stack.with_values(summed)
        if of == "all":
            divisor = sum_rows(w)
            if not bool(divisor != 0):
                raise PlanError("the weights sum to 0, so their mean is undefined", hint=_SUM_HINT)
            return stack.with_values(summed / divisor)
        divisor = sum_rows(column * (values.detach() != 0))
        empty = divisor == 0
        return stack.with_values(torch.where(empty, 0.0, summed / torch.where(empty, 1.0, divisor)))

    kind = "" if of == "all" else "kept"
    weighted = "" if weights is None else "weighted"
    name = "mean" if normalize else "total"
    inside = ", ".join(part for part in (kind, weighted) if part)
    linear = of == "all" or not normalize
    op = Op("kept" if of == "kept" and normalize else "mean", weights=weights, flag=int(normalize))
    shown = f"{name}({inside})" if inside else name
    return Step(shown, apply, weights=weights, linear=linear, op=op)


_SUM_HINT = "Give weights with another sum, or normalize=False for a plain weighted sum"


def _shown(name: str, number: Scalar) -> str:
    """Return how a step shows the number; refuse what is not one finite number."""
    if isinstance(number, Tensor):
        if number.numel() != 1 or not bool(torch.isfinite(number.detach())):
            raise ValueError(f"{name} must be one finite number, not {number}")
        return "learned"
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number, not {number!r}")
    return f"{number:g}"


def scale(factor: Scalar) -> Step:
    """Multiply by one finite number."""
    shown = _shown("scale", factor)

    def apply(stack: Stack, _: Any) -> Stack:
        return stack.with_values(stack.values * factor)

    op = None if isinstance(factor, Tensor) else Op("scale", float(factor))
    return Step(f"scale({shown})", apply, linear=True, op=op)


def interpolate_sphere(t: Scalar, *, threshold: float = 0.9995, eps: float = 1e-8) -> Step:
    """Spherical linear interpolation of exactly two rows, each tensor as one vector.

    ``[sin((1-t) phi) a + sin(t phi) b] / sin phi`` with phi the angle between a and b (Shoemake 1985,
    section 3.3), applied to the vectors as they are; ``(1-t) a + t b`` when ``|cos phi|`` reaches
    ``threshold`` or a vector is not longer than ``eps``.
    """
    shown = _shown("t", t)

    def shares_of(products: NDArray[np.float64]) -> NDArray[np.float64]:
        cosine = cosine_of(products, 0, 1, eps)
        lengths = [math.sqrt(products[k, k]) for k in (0, 1)]
        if not min(lengths) > eps or not abs(cosine) < threshold:
            return np.array([1 - t, t])
        angle = math.acos(cosine)
        sine = math.sin(angle)
        return np.array([math.sin((1 - t) * angle) / sine, math.sin(t * angle) / sine])

    def apply(stack: Stack, known: Any) -> Stack:
        a, b = stack.values
        if known is None and not isinstance(t, Tensor) and not stack.values.requires_grad and a.numel():
            known = shares_of(gram([block_sums(stack.values)]))
        if known is not None:
            return stack.with_values((float(known[0]) * a + float(known[1]) * b)[None])
        shares: tuple[Scalar, Scalar] = (1 - t, t)
        units = _unit(a, eps), _unit(b, eps)
        if units[0] is not None and units[1] is not None:
            cosine = (units[0] * units[1]).sum().clamp(-1, 1)
            if bool(cosine.abs() < threshold):
                angle = torch.arccos(cosine)
                sine = torch.sin(angle)
                shares = torch.sin((1 - t) * angle) / sine, torch.sin(t * angle) / sine
        return stack.with_values((shares[0] * a + shares[1] * b)[None])

    if isinstance(t, Tensor):
        return Step(f"slerp({shown})", apply, Grain.TENSOR)
    return Step(
        f"slerp({shown})",
        apply,
        Grain.TENSOR,
        slicewise=measuring(shares_of),
        op=Op("blend"),
        block=BLOCK,
    )


def _unit(vector: Tensor, eps: float) -> Tensor | None:
    """Return the vector at length 1, None if it is not longer than ``eps``.

    It is divided by its largest entry first, so that squares neither overflow nor vanish.
    """
    largest = float(vector.detach().abs().max()) if vector.numel() else 0.0
    if largest == 0:
        return None
    scaled = vector / largest
    norm = torch.linalg.vector_norm(scaled)
    return scaled / norm if float(norm.detach()) * largest > eps else None


def optionally(weights: Weights | None) -> Chain:
    """``weigh(weights)``, or nothing when there are none."""
    return chain() if weights is None else chain(weigh(weights))
