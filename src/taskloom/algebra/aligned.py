"""Merge task vectors in the singular basis that they share, matrix by matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from taskloom.algebra.core import Chain, Factored, Grain, Measure, Pair, Stack, Step
from taskloom.algebra.spectral import blocks, gram, numerical_rank, one_thread
from taskloom.lazy import Tensor, torch


def aligned(inner: Chain) -> Step:
    """Run a chain on the coordinates of the task vectors in their shared left basis.

    With the thin decomposition ``[tau_1 ... tau_K] = U S [V_1 ... V_K]^T`` (side by side along the
    columns) expert k is ``S V_k^T = U^T tau_k``; the chain merges these, and U brings the result back.
    U is cut at the numerical rank. Only U's span and order matter: a sign turns a row of all experts.

    Low-rank task vectors ``left_k right_k`` need no matrix: QR of all left factors, and a core as wide
    as the sum of the ranks.

    Parameters
    ----------
    inner
        Ends with one row, and has at most one step with a measure of the model.
    """
    measured = [index for index, step in enumerate(inner.steps) if step.measure is not None]
    if len(measured) > 1:
        raise ValueError("aligned takes a chain with at most one measure of the model")
    at = measured[0] if measured else len(inner.steps)

    def run(stack: Stack, statistic: Any, steps: Sequence[Step]) -> Stack:
        for index, step in enumerate(steps):
            stack = step.apply(stack, statistic if index == at else None)
        return stack

    def apply(stack: Stack, statistic: Any) -> Stack:
        with one_thread(), torch.no_grad():
            basis, rows = _align(stack.values.detach())
            merged = run(_coordinates(stack, rows), statistic, inner.steps)
            back = basis @ merged.values[0].double()
        return stack.with_values(back.to(stack.values.dtype)[None])

    def seen(stack: Stack) -> Stack:
        with one_thread(), torch.no_grad():
            _, rows = _align(stack.values.detach())
        return run(_coordinates(stack, rows), None, inner.steps[:at])

    def of_factors(name: str, experts: tuple[str, ...], pairs: Sequence[Pair]) -> tuple[Tensor, Stack]:
        basis, rows = _align_factors(pairs)
        return basis, Stack(name, rows, experts, 0, rows[0].numel())

    def merge_factors(
        name: str, experts: tuple[str, ...], pairs: Sequence[Pair], statistic: Any
    ) -> Pair:
        basis, stack = of_factors(name, experts, pairs)
        return basis, run(stack, statistic, inner.steps).values[0]

    def see_factors(name: str, experts: tuple[str, ...], pairs: Sequence[Pair]) -> Stack:
        return run(of_factors(name, experts, pairs)[1], None, inner.steps[:at])

    own = inner.steps[at].measure if measured else None
    return Step(
        f"aligned({inner})",
        apply,
        Grain.MATRIX,
        measure=_through(own, seen),
        workspace=_workspace,
        factored=Factored(merge_factors, see_factors, own),
    )


def _through(measure: Measure | None, seen: Callable[[Stack], Stack]) -> Measure | None:
    """Measure what ``seen`` makes of every stack; None where nothing was seen."""
    if measure is None:
        return None
    return Measure(
        measure.rounds,
        measure.start,
        lambda acc, stack: measure.see(acc, seen(stack)),
        lambda acc: None if acc is None else measure.done(acc),
        measure.join,
    )


def _coordinates(stack: Stack, rows: Tensor) -> Stack:
    return Stack(stack.name, rows, stack.experts, 0, rows[0].numel())


def _align(values: Tensor) -> tuple[Tensor, Tensor]:
    """``(K, rows, columns)`` -> basis ``(rows, k)`` in float64, coordinates ``(K, k, columns)``."""
    count, rows, columns = values.shape
    if values.dtype == torch.float64:
        left, sizes, _ = torch.linalg.svd(torch.cat(list(values), 1), full_matrices=False)
        eps = torch.finfo(torch.float64).eps
    else:
        square = values.new_zeros((rows, rows), dtype=torch.float64)
        for row in values:
            square += gram(row.T)
        left, sizes = _roots(square)
        eps = torch.finfo(torch.float32).eps
    basis = left[:, : numerical_rank(sizes, max(rows, count * columns), eps)]
    found = values.new_empty((count, basis.shape[1], columns))
    for k in range(count):
        for block in blocks(columns):
            found[k, :, block] = _cleared(basis.T @ values[k, :, block].double(), sizes, eps)
    return basis, found


def _cleared(rows: Tensor, sizes: Tensor, eps: float) -> Tensor:
    """Set to 0 what is no more than rounding beside the largest singular value.

    A coordinate that is 0 in exact arithmetic must not vote, nor count in the mean of what agrees.
    """
    return torch.where(rows.abs() > 4 * eps * sizes[:1], rows, 0.0)


def _align_factors(pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Do the same to ``left_k right_k``; coordinates in the dtype of the factors."""
    dtype = pairs[0][1].dtype
    q, upper = torch.linalg.qr(torch.cat([left for left, _ in pairs], 1).double())
    cores, at = [], 0
    for _, right in pairs:
        cores.append(upper[:, at : at + len(right)] @ right.double())
        at += len(right)
    square = upper.new_zeros((len(upper), len(upper)))
    for core in cores:
        square.addmm_(core, core.T)
    turn, sizes = _roots(square)
    eps = torch.finfo(torch.float32).eps
    turn = turn[:, : numerical_rank(sizes, max(len(q), len(pairs) * pairs[0][1].shape[1]), eps)]
    return q @ turn, torch.stack([_cleared(turn.T @ core, sizes, eps).to(dtype) for core in cores])


def _roots(square: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(square)
    return vectors.flip(1), values.flip(0).clamp(min=0).sqrt()


def _workspace(shape: tuple[int, ...], count: int) -> int:
    """Bytes of an eigenproblem of the rows, the coordinates before and after a step, the result."""
    rows, columns = shape
    kept = min(rows, count * columns)
    return max(8 * 4 * rows * rows, 8 * rows * rows + 4 * 3 * count * kept * columns)
