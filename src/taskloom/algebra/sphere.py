"""Means on the sphere: directions and lengths of tensors are averaged apart from each other."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from taskloom.algebra.combine import check_weights, resolve_weights, sum_rows
from taskloom.algebra.core import Grain, Op, Stack, Step, Weights
from taskloom.algebra.gram import BLOCK, block_sums, cosine_of, gram, measuring
from taskloom.errors import NumericalError, PlanError
from taskloom.lazy import Tensor, torch

Whole = Literal["tensor", "row", "column"]
#: squared sine below which an arc is its chord to float32, or, of opposite vectors, undefined
_STRAIGHT = 1e-6


def norms(vectors: Tensor) -> Tensor:
    """Euclidean lengths along the last axis, kept: ``(..., n) -> (..., 1)``, float64.

    Divided by the largest entry first, so that squares neither overflow nor vanish.
    """
    largest = vectors.detach().abs().amax(-1, keepdim=True)
    safe = torch.where(largest > 0, largest, 1.0)
    length: Tensor = torch.linalg.vector_norm(vectors / safe, dim=-1, keepdim=True, dtype=torch.float64)
    return length * safe


def units(vectors: Tensor, lengths: Tensor, floor: float = 0.0) -> Tensor:
    """Vectors of length 1; 0 where the length is not above ``floor``."""
    long = lengths > floor
    inverse = torch.where(long, 1.0 / torch.where(long, lengths, 1.0), 0.0)
    if bool((inverse.detach() > torch.finfo(vectors.dtype).max).any()):
        return (vectors.double() * inverse).to(vectors.dtype)
    return vectors * inverse.to(vectors.dtype)


def dots(a: Tensor, b: Tensor) -> Tensor:
    """Inner products along the last axis, kept, summed in float64, clamped to [-1, 1]."""
    return (a * b).sum(-1, keepdim=True, dtype=torch.float64).clamp(-1, 1)


def arc(
    t: float,
    scope: Whole = "tensor",
    *,
    threshold: float = 1.0,
    floor: float = 0.0,
    zero: Literal["linear", "right angle"] = "linear",
) -> Step:
    """Interpolate two rows along great circles; a tensor, a row or a column is one vector.

    Parameters
    ----------
    t
        0 is the first, 1 the second.
    scope
        What is one vector: the tensor, each row along the last axis, or each column along the first.
    threshold
        Plain linear interpolation where ``|cos|`` is above it, and where it is 1
        (``sin^2`` up to 1e-6, where the cosine is no more than rounding).
    floor
        A vector not longer than this has no direction.
    zero
        What becomes of such a vector: ``"linear"`` interpolation, or a ``"right angle"`` to the other.
    """

    def shares_of(products: NDArray[np.float64]) -> NDArray[np.float64]:
        cosine = cosine_of(products, 0, 1, floor)
        lengths = [math.sqrt(products[k, k]) for k in (0, 1)]
        straight = abs(cosine) > threshold or 1 - cosine * cosine <= _STRAIGHT
        if straight or (zero == "linear" and not min(lengths) > floor):
            return np.array([1 - t, t])
        angle = math.acos(cosine)
        sine = math.sin(angle)
        return np.array([math.sin((1 - t) * angle) / sine, math.sin(t * angle) / sine])

    def apply(stack: Stack, known: Any) -> Stack:
        values = stack.values
        if known is None and scope == "tensor" and not values.requires_grad and values.numel():
            known = shares_of(gram([block_sums(values)]))
        if known is not None:
            return stack.with_values((float(known[0]) * values[0] + float(known[1]) * values[1])[None])
        a, b = (_as_vectors(row, scope) for row in stack.values)
        if a.numel() == 0:
            return stack.with_values(stack.values[:1])
        lengths = norms(a), norms(b)
        cosine = dots(units(a, lengths[0], floor), units(b, lengths[1], floor))
        straight = (cosine.abs() > threshold) | (1 - cosine.square() <= _STRAIGHT)
        if zero == "linear":
            straight |= (lengths[0] <= floor) | (lengths[1] <= floor)
        angle = torch.arccos(torch.where(straight, 0.0, cosine))
        sine = torch.sin(angle)
        first = torch.where(straight, 1 - t, torch.sin((1 - t) * angle) / sine).to(a.dtype)
        second = torch.where(straight, t, torch.sin(t * angle) / sine).to(a.dtype)
        mixed = first * a + second * b
        shape = stack.values.shape[1:]
        if scope == "column" and len(shape) > 1:
            mixed = mixed.transpose(0, -1)
        return stack.with_values(mixed.reshape(1, *shape))

    label = f"arc({t:g})" if scope == "tensor" else f"arc({t:g}, {scope})"
    if scope == "tensor":
        measure = measuring(shares_of)
        return Step(label, apply, Grain.TENSOR, slicewise=measure, op=Op("blend"), block=BLOCK)
    return Step(label, apply, Grain.TENSOR if scope != "row" else Grain.ROW)


def _as_vectors(tensor: Tensor, scope: Whole) -> Tensor:
    if scope == "tensor" or tensor.ndim < 2:
        return tensor.reshape(1, -1)
    return tensor.transpose(0, -1) if scope == "column" else tensor


def mean_direction(
    weights: Weights | None = None, *, normalize: bool = True, floor: float = 1e-8
) -> Step:
    """Weighted mean of the experts' directions times the weighted mean of their lengths.

    Each tensor is one vector. Where the directions cancel (mean shorter than ``floor``): the weighted
    sum of the vectors if there are two experts, or if no expert has a direction; else refused.
    """

    def parts_of(
        name: str, experts: tuple[str, ...], _: Any, products: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        if len(experts) == 1:
            return np.ones(1)
        given = np.ones(len(experts)) if weights is None else check_weights(weights, experts)
        shares = np.asarray(given, np.float64)
        if normalize:
            if shares.sum() == 0:
                raise PlanError("the weights sum to 0, so their mean is undefined", hint=_SUM_HINT)
            shares = shares / shares.sum()
        lengths, cosines = _angles(products)
        length = math.sqrt(max(float(shares @ cosines @ shares), 0.0))
        if length >= floor:
            long = np.where(lengths > 0, lengths, np.inf)
            found: NDArray[np.float64] = shares / long * (shares @ lengths / length)
            return found
        if len(experts) != 2 and (lengths > 0).any():
            raise _cancelled(name, len(experts))
        return shares

    def apply(stack: Stack, known: Any) -> Stack:
        values = stack.values
        vectors = values.reshape(len(values), -1)
        if vectors.numel() == 0 or len(values) == 1:
            return stack.with_values(values[:1])
        if not values.requires_grad and not isinstance(weights, Tensor):
            products = gram([block_sums(values)]) if known is None else known
            return stack.with_values(_blend(values, parts_of(stack.name, stack.experts, {}, products)))
        shares = (
            torch.ones(len(values), dtype=torch.float64, device=values.device)
            if weights is None
            else resolve_weights(weights, stack.experts, values).double()
        )
        if normalize:
            if not bool(shares.sum() != 0):
                raise PlanError("the weights sum to 0, so their mean is undefined", hint=_SUM_HINT)
            shares = shares / shares.sum()
        column = shares.reshape(-1, 1)
        lengths = norms(vectors)
        mean = sum_rows(units(vectors, lengths) * column.to(values.dtype))
        length = norms(mean)
        if bool(length < floor):
            if len(values) != 2 and bool((lengths > 0).any()):
                raise _cancelled(stack.name, len(values))
            merged = sum_rows(vectors * column.to(values.dtype))
        else:
            merged = mean * ((column * lengths).sum() / length).to(values.dtype)
        return stack.with_values(merged.reshape(1, *values.shape[1:]))

    inside = "" if weights is None else "weighted"
    label = f"mean_direction({inside})"
    if isinstance(weights, Tensor):
        return Step(label, apply, Grain.TENSOR, weights=weights)
    op = Op("blend", told=parts_of)
    return Step(label, apply, Grain.TENSOR, weights=weights, slicewise=_PRODUCTS, op=op, block=BLOCK)


def _cancelled(name: str, count: int) -> NumericalError:
    return NumericalError(
        f"tensor {name!r}: the directions of the {count} experts cancel, so they have no mean",
        hint="Give other weights",
    )


def _angles(products: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lengths ``(K,)`` and cosines ``(K, K)`` of vectors by their inner products; 0 of a vector of 0."""
    lengths = np.sqrt(products.diagonal())
    long = np.where(lengths > 0, lengths, np.inf)
    cosines = np.clip(products / long / long[:, None], -1.0, 1.0)
    np.fill_diagonal(cosines, lengths > 0)
    return lengths, cosines


def _blend(values: Tensor, shares: NDArray[np.float64]) -> Tensor:
    column = torch.from_numpy(shares).to(values.device, values.dtype)
    return sum_rows(values * column.reshape(-1, *[1] * (values.ndim - 1)))


#: the inner products of a tensor's rows
_PRODUCTS = measuring(lambda products: products)
_SUM_HINT = "Give weights with another sum"


def karcher(iterations: int = 10, tolerance: float = 1e-5, *, floor: float = 0.0) -> Step:
    """Fréchet mean of the experts' directions on the sphere, times the mean of their lengths.

    From the normalised mean direction, moves along the mean of the tangents towards the experts until
    that is shorter than ``tolerance``, ``iterations`` times at most. An expert opposite to the point
    pulls nowhere; a tensor not longer than ``floor`` gives no direction.
    """

    def parts_of(
        _: str, experts: tuple[str, ...], __: Any, products: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        if len(experts) == 1:
            return np.ones(1)
        lengths, cosines = _angles(products)
        known, found = lengths > floor, np.zeros(len(lengths))
        if known.any():
            point = _walk_by_cosines(cosines[np.ix_(known, known)], iterations, tolerance)
            found[known] = point / lengths[known] * lengths.mean()
        return found

    def apply(stack: Stack, given: Any) -> Stack:
        values = stack.values
        vectors = values.reshape(len(values), -1)
        if vectors.numel() == 0 or len(values) == 1:
            return stack.with_values(values[:1])
        if not values.requires_grad:
            products = gram([block_sums(values)]) if given is None else given
            return stack.with_values(_blend(values, parts_of(stack.name, stack.experts, {}, products)))
        lengths = norms(vectors)
        known = (lengths > floor).reshape(-1)
        if not bool(known.any()):
            return stack.with_values(torch.zeros_like(values[:1]))
        directions = units(vectors[known], lengths[known])
        point = _walk(directions, iterations, tolerance)
        merged = point * lengths.mean().to(values.dtype)
        return stack.with_values(merged.reshape(1, *values.shape[1:]))

    label, op = f"karcher({iterations})", Op("blend", told=parts_of)
    return Step(label, apply, Grain.TENSOR, slicewise=_PRODUCTS, op=op, block=BLOCK)


def _walk_by_cosines(
    cosines: NDArray[np.float64], iterations: int, tolerance: float
) -> NDArray[np.float64]:
    """Return what `_walk` returns as ``(K,)`` shares of the directions, by their cosines ``(K, K)``."""

    def length_of(shares: NDArray[np.float64]) -> float:
        return math.sqrt(max(float(shares @ cosines @ shares), 0.0))

    count = len(cosines)
    point = np.full(count, 1 / count)
    length = length_of(point)
    point = np.eye(count)[0] if length < tolerance else point / length
    for _ in range(iterations):
        near = np.clip(cosines @ point, -1.0, 1.0)
        angles = np.arccos(near)
        opposite = (near < 0) & (1 - near * near <= _STRAIGHT)
        far = (angles >= tolerance) & ~opposite
        pull = np.where(far, angles / np.sin(np.where(far, angles, 1.0)), 0.0) / count
        tangent = pull - (pull @ near) * point
        length = length_of(tangent)
        if length < tolerance:
            break
        moved = math.cos(length) * point + math.sin(length) * tangent / length
        point = moved / length_of(moved)
    return point


def _walk(directions: Tensor, iterations: int, tolerance: float) -> Tensor:
    """Return the mean direction ``(1, n)`` of ``(K, n)`` unit vectors."""
    count = len(directions)
    start = sum_rows(directions) / count
    length = norms(start)
    point = directions[:1] if bool(length < tolerance) else units(start, length)
    for _ in range(iterations):
        cosines = dots(directions, point)
        angles = torch.arccos(cosines)
        opposite = (cosines < 0) & (1 - cosines.square() <= _STRAIGHT)
        far = (angles >= tolerance) & ~opposite
        pull = torch.where(far, angles / torch.sin(torch.where(far, angles, 1.0)), 0.0) / count
        pull = pull.to(directions.dtype)
        tangent = sum_rows(pull * (directions - cosines.to(directions.dtype) * point))
        length = norms(tangent)
        if bool(length < tolerance):
            break
        step = units(tangent, length)
        moved = torch.cos(length).to(point.dtype) * point + torch.sin(length).to(point.dtype) * step
        point = units(moved, norms(moved))
    return point
