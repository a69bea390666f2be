"""What an expert knows beyond a shared merge, kept small: leading singular directions, or large entries.

The difference between an expert and the merge of all is its exclusive part. Of a matrix its leading
singular triplets are kept, or the largest of its entries; tensors that have fewer than two dimensions,
and those that would not get smaller, stay whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from taskloom.algebra.beside import split
from taskloom.algebra.core import Grain, Measure, Pair, Stack, Step
from taskloom.algebra.named import index_of
from taskloom.algebra.sparsify import keep
from taskloom.algebra.spectral import BLOCK, leading, one_thread
from taskloom.lazy import Tensor, torch

#: how an exclusive part is kept
Form = Literal["low_rank", "sparse"]


def sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return rows and columns of a tensor seen as a matrix: the first dimension, and all others.

    >>> sides((8, 3, 2, 2))
    (8, 12)
    """
    return shape[0], math.prod(shape[1:])


def kept_numbers(shape: tuple[int, ...], form: Form, share: float) -> int | None:
    """Return how many triplets or entries of a tensor are kept; None where it stays whole.

    ``int(share * min(rows, columns))`` triplets, ``int(share * numel)`` entries. A tensor stays whole
    if it has fewer than two dimensions, or if its parts would be as many numbers as itself.

    >>> kept_numbers((768, 768), "low_rank", 0.1), kept_numbers((768, 768), "sparse", 0.1)
    (76, 58982)
    >>> kept_numbers((768,), "low_rank", 0.1), kept_numbers((8, 8), "low_rank", 0.5)
    (None, None)
    """
    if len(shape) < 2 or not math.prod(shape):
        return None
    rows, columns = sides(shape)
    if form == "sparse":
        count = int(share * rows * columns)
        return count if count < rows * columns else None
    rank = int(share * min(rows, columns))
    return rank if rank * (rows + columns) < rows * columns else None


def shrinks(
    form: Form, share: float, skip: Sequence[str] = ()
) -> Callable[[str, tuple[int, ...]], bool]:
    """Tell by name and shape the tensors whose exclusive part is made smaller.

    >>> decide = shrinks("low_rank", 0.1, ("embed",))
    >>> decide("fc.weight", (64, 64)), decide("fc.bias", (64,)), decide("embed.weight", (64, 64))
    (True, False, False)
    """
    parts = tuple(skip)

    def decide(name: str, shape: tuple[int, ...]) -> bool:
        return kept_numbers(shape, form, share) is not None and not any(p in name for p in parts)

    return decide


def factors(part: Tensor, rank: int) -> Pair:
    """Return ``left (rows, rank)`` and ``right (rank, columns)``, the best of that rank, in float64.

    Each factor takes the square root of the singular values, so that neither leaves the range of a
    narrow dtype before the other. Beyond the numerical rank they are 0.

    Parameters
    ----------
    part
        ``(rows, ...)`` floating point.
    rank
        At least 0, less than both sides.
    """
    rows, columns = sides(tuple(part.shape))
    left = part.new_zeros((rows, rank), dtype=torch.float64)
    right = part.new_zeros((rank, columns), dtype=torch.float64)
    if rank:
        found = leading(part.reshape(rows, columns), rank)
        roots, known = found.values.sqrt(), len(found.values)
        left[:, :known] = found.left * roots
        right[:known] = (found.right * roots).T
    return left, right


def rows_of(pair: Pair, start: int, stop: int) -> Tensor:
    """Return entries ``start`` to ``stop`` of the flattened ``left @ right``, in float64.

    Rows are multiplied in blocks that do not depend on what is asked for, and so do the bytes.
    """
    left, right = pair
    columns = right.shape[1]
    first = start // columns // BLOCK * BLOCK
    last = min(len(left), -(-stop // columns))
    blocks = [left[at : at + BLOCK].double() @ right.double() for at in range(first, last, BLOCK)]
    if not blocks:
        return left.new_zeros(0, dtype=torch.float64)
    return torch.cat(blocks).reshape(-1)[start - first * columns : stop - first * columns]


def low_rank_part(task: str, share: float) -> Step:
    """Leave what is shared and the leading directions of what the task has beyond it.

    ``(K + 1, ...) -> (1, ...)``: given task vectors and the merged one beside them, the merged one plus
    the best approximation of ``tau_t - merged`` of the rank that `kept_numbers` says.
    """
    _check_share(share)

    def apply(stack: Stack, _: Any) -> Stack:
        shared, own = _apart(stack, task)
        rank = kept_numbers(tuple(own.shape), "low_rank", share)
        if rank is None:
            return stack.with_values((shared + own)[None])
        with one_thread(), torch.no_grad():
            found = rows_of(factors(own.detach(), rank), 0, own.numel())
        return stack.with_values((shared + found.reshape(own.shape).to(own.dtype))[None])

    def workspace(shape: tuple[int, ...], count: int) -> int:
        long, short = max(sides(shape)), min(sides(shape))
        return 8 * (long * short + 6 * short * short)

    label = f"low_rank_part({task}, {share:g})"
    return Step(label, apply, Grain.MATRIX, workspace=workspace, experts=(task,))


def sparse_part(task: str, share: float) -> Step:
    """Leave what is shared and the largest entries of what the task has beyond it.

    ``(K + 1, ...) -> (1, ...)``, as `low_rank_part`; of each tensor ``int(share * n)`` entries are kept.
    """
    step = keep(_check_share(share), "tensor")
    known = step.slicewise
    assert known is not None

    def own(stack: Stack) -> Stack:
        return replace(stack, values=_apart(stack, task)[1][None], experts=(task,))

    def apply(stack: Stack, selection: Any) -> Stack:
        shared, _ = _apart(stack, task)
        return stack.with_values(shared[None] + step.apply(own(stack), selection).values)

    def see(acc: Any, stack: Stack) -> Any:
        return known.see(acc, own(stack))

    measure: Measure = replace(known, see=see, count=None)
    label = f"sparse_part({task}, {share:g})"
    return Step(label, apply, Grain.TENSOR, slicewise=measure, experts=(task,))


def own_row(task: str) -> Step:
    """Leave one expert's row: ``(K, ...) -> (1, ...)``."""

    def apply(stack: Stack, _: Any) -> Stack:
        k = _index(stack, task)
        return stack.with_values(stack.values[k : k + 1])

    return Step(f"own_row({task})", apply, experts=(task,))


def _check_share(share: float) -> float:
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share is a share of what is exclusive and must lie in [0, 1], not {share!r}")
    return share


def _apart(stack: Stack, task: str) -> tuple[Tensor, Tensor]:
    """Return the merged row, and what the task has beyond it."""
    rows, merged = split(stack)
    return merged[0], rows[_index(stack, task)] - merged[0]


def _index(stack: Stack, task: str) -> int:
    return index_of(task, stack.experts, "the exclusive part")
