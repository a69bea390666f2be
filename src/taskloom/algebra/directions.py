"""Steps on singular directions: whiten those of all tasks, flatten a spectrum, do both.

They take whole matrices, compute in float64 on one thread, and pass no gradient to the experts. Signs
of singular vectors cancel in what they return.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

from taskloom.algebra.combine import sum_rows
from taskloom.algebra.core import Grain, Stack, Step
from taskloom.algebra.spectral import (
    cosines,
    flattened,
    gather,
    leading,
    one_thread,
    whitened,
)
from taskloom.errors import CheckpointError
from taskloom.lazy import Tensor, torch

#: what experts with the same task vector lead to
Duplicates = Literal["refuse", "share"]
#: cosine from which two task vectors count as one
_SAME = 1 - 1e-6


def whiten(duplicates: Duplicates = "refuse") -> Step:
    """Keep each task's leading singular triplets and make those of all tasks orthonormal.

    ``k = int(min(rows, columns) / K)`` triplets of each task vector (fewer where its rank is lower),
    side by side as U, sigma, V; then ``U' diag(sigma) V'^T`` with U' and V' the closest matrices with
    orthonormal columns. A matrix with a side below K has k = 0 and gets the mean task vector.

    Where columns of U or V depend on each other the closest orthonormal matrix is not unique. Of all
    of them the partial isometry is taken, which adds no direction that no task has.

    Raises
    ------
    CheckpointError
        Two task vectors of one tensor are parallel (cosine above 1 - 1e-6), and ``duplicates`` is
        ``"refuse"``.
    """

    def merge(stack: Stack) -> Tensor:
        count = int(min(stack.values.shape[1:]) / len(stack.values))
        if count == 0:
            return sum_rows(stack.values)[0] / len(stack.values)
        _check(stack, duplicates, "whiten")
        found = gather([(row, count) for row in stack.values], _shape(stack), count * len(stack.values))
        return whitened(found, found.values, stack.values[0])

    return _step("whiten", merge, lambda shape, count: _gathered(shape))


def flatten() -> Step:
    """Sum the task vectors and give every singular direction of the sum the same weight, the mean.

    The directions are those within the numerical rank, and so is the mean: beyond it, singular
    vectors are arbitrary.
    """

    def merge(stack: Stack) -> Tensor:
        return flattened(sum_rows(stack.values)[0])

    return _step("flatten", merge, _flattened)


def flatten_common(fraction: float, duplicates: Duplicates = "refuse") -> Step:
    """Flatten the spectrum of common and task-specific directions together.

    With ``r = min(rows, columns)``, the sum's ``int(fraction r)`` leading directions are common, up to
    what makes the rest divisible by K (rounded half to even); the rest is shared out to the tasks,
    for their leading directions after the common left ones are projected out. All are made
    orthonormal as in `whiten` and get their mean singular value.
    """
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"fraction is a share of the directions and must lie in [0, 1], not {fraction}")

    def merge(stack: Stack) -> Tensor:
        values = stack.values
        count, rank = len(values), min(values.shape[1:])
        own = min(round((rank - int(rank * fraction)) / count), rank // count)
        summed = sum_rows(values)[0]
        common = leading(summed, rank - own * count)
        if own:
            _check(stack, duplicates, "flatten_common")
        left = common.left.to(values.dtype)

        def wanted() -> Iterator[tuple[Tensor, int]]:
            if own:
                for row in values:
                    yield row - left @ (left.T @ row), own
            yield summed, rank - own * count

        found = gather(wanted(), _shape(stack), rank)
        if not len(found.values):
            return summed * 0
        return whitened(found, found.values.mean().expand(len(found.values)), summed)

    return _step(f"flatten_common({fraction:g})", merge, lambda shape, count: _common(shape))


def _shape(stack: Stack) -> tuple[int, int]:
    return stack.values.shape[1], stack.values.shape[2]


def _gathered(shape: tuple[int, ...]) -> int:
    """Bytes that `whiten` takes: vectors of both sides, an eigenproblem, the result."""
    long, short = max(shape), min(shape)
    return 8 * (long * short + short * short) + 8 * 4 * short * short + 4 * long * short


def _flattened(shape: tuple[int, ...], count: int) -> int:
    """Bytes that `flatten` takes: the sum, an eigenproblem, the result."""
    long, short = max(shape), min(shape)
    return 4 * long * short + max(8 * 4 * short * short, 8 * 2 * short * short + 4 * long * short)


def _common(shape: tuple[int, ...]) -> int:
    """Bytes that `flatten_common` takes: as `whiten`, the common vectors, the sum and a residual."""
    long, short = max(shape), min(shape)
    return _gathered(shape) + 8 * (long * short + short * short) + 4 * 3 * long * short


def _step(
    name: str, merge: Callable[[Stack], Tensor], workspace: Callable[[tuple[int, ...], int], int]
) -> Step:
    def apply(stack: Stack, _: Any) -> Stack:
        with one_thread(), torch.no_grad():
            return stack.with_values(merge(stack.with_values(stack.values.detach()))[None])

    return Step(name, apply, Grain.MATRIX, workspace=workspace)


def _check(stack: Stack, duplicates: Duplicates, step: str) -> None:
    if duplicates == "share":
        return
    same = cosines(stack.values)
    for k, first in enumerate(stack.experts):
        for j in range(k + 1, len(stack.experts)):
            if abs(float(same[k, j])) > _SAME:
                raise CheckpointError(
                    f"tensor {stack.name!r}: the experts {first!r} and {stack.experts[j]!r} have the "
                    f"same task vector but for a factor (cosine {float(same[k, j]):.7f}), and {step} is "
                    "defined for different ones: with its full weight it would add a direction that "
                    "neither has",
                    hint="Leave one of them out, or set duplicates=share so that they share theirs",
                )
