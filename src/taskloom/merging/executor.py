"""Run a chain over a pool: read slices, stack them, apply the steps, add back to the base, cast.

The executor owns files, dtypes and memory; the steps are pure. Reading from disk and from memory goes
through the same code, so both give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from taskloom.algebra import Chain, Grain, Stack
from taskloom.algebra.combine import resolve_weights
from taskloom.errors import NumericalError, PlanError
from taskloom.lazy import Tensor, torch
from taskloom.progress import Progress, silent
from taskloom.store.checkpoint import Checkpoint, TensorInfo
from taskloom.store.pool import Pool

#: elements of one slice of one expert; 4 MB in float32, so that a stack of a few stays in cache
SLICE = 1 << 20


@dataclass(frozen=True)
class MergePlan:
    """What a merge will read and need, known from headers alone.

    Attributes
    ----------
    parameters, passthrough
        Tensors to merge, and tensors copied as they are (integers, booleans).
    reads
        Passes over every expert's parameters.
    bytes_read
        Over all passes, base included.
    memory
        Bytes the largest stack and its working copies need, about.
    """

    pool: Pool
    chain: Chain
    parameters: tuple[str, ...]
    passthrough: tuple[str, ...]
    reads: int
    bytes_read: int
    memory: int

    @property
    def order(self) -> tuple[str, ...]:
        """Every output tensor, in the stored order of the base."""
        return tuple(self.pool.tensors)


def plan_merge(pool: Pool, chain: Chain) -> MergePlan:
    """Check that the chain fits the pool and count what it will read; touches no weights.

    Raises
    ------
    PlanError
        Too few or too many experts, weights that do not fit them, or a method on task vectors
        without a base.
    """
    low, high = chain.experts
    count = len(pool.experts)
    if count < low or (high is not None and count > high):
        wanted = f"exactly {low}" if low == high else f"{low} to {high}" if high else f"at least {low}"
        names = ", ".join(pool.names)
        raise PlanError(
            f"{chain} is defined for {wanted} experts, but the pool has {count} ({names})",
            hint="Change the pool or take another method",
        )
    if chain.space == "delta" and pool.base is None:
        raise PlanError(
            f"{chain} works on task vectors and needs the base the experts were tuned from",
            hint="Give the base, or take a method that needs none, such as average",
        )
    for step in chain.steps:
        if step.weights is not None:
            resolve_weights(step.weights, pool.names, torch.empty(0))
    tensors = pool.tensors
    parameters = tuple(pool.parameters())
    sources = [e.checkpoint for e in pool.experts]
    if chain.space == "delta" and pool.base is not None:
        sources.append(pool.base)
    once = sum(source.tensors[name].nbytes for source in sources for name in parameters)
    widest = max((_slice_elements(tensors[n], chain.grain) for n in parameters), default=0)
    return MergePlan(
        pool=pool,
        chain=chain,
        parameters=parameters,
        passthrough=tuple(pool.passthrough()),
        reads=chain.reads,
        bytes_read=once * chain.reads + sum(tensors[n].nbytes for n in pool.passthrough()),
        memory=widest * 4 * (2 * count + 3),
    )


def execute(
    plan: MergePlan, *, dtype: torch.dtype | None = None, progress: Progress = silent
) -> Iterator[tuple[str, Tensor]]:
    """Yield every output tensor in the base's order.

    Parameters
    ----------
    plan
        From `plan_merge`.
    dtype
        Of the merged tensors; each keeps the base's if None.
    progress
        Told the number of tensors seen, over all reads.

    Raises
    ------
    NumericalError
        NaN or infinity in an input, naming tensor, checkpoint and count; or a result that the output
        dtype cannot hold.
    PlanError
        ``dtype`` is not a floating point one, or the chain does not end with one row.
    """
    if dtype is not None and not dtype.is_floating_point:
        raise PlanError(
            f"merged tensors cannot be stored as {dtype}, which is not a floating point dtype",
            hint="Take float32, bfloat16 or float16",
        )
    ticks = _Ticks(progress, len(plan.parameters) * plan.reads)
    statistics = _measure(plan, ticks)
    merged = set(plan.parameters)
    source = plan.pool.yardstick
    for name in plan.order:
        if name not in merged:
            yield name, source.read(name)
            continue
        info = source.tensors[name]
        pieces = []
        for rows, start in _slices(info, plan.chain.grain):
            base, stack = _load(plan, name, info, rows, start, check=plan.reads == 1)
            for index, step in enumerate(plan.chain.steps):
                stack = step.apply(stack, statistics.get(index))
            pieces.append(_finish(base, stack, dtype or info.dtype))
        ticks.tick()
        yield name, pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _measure(plan: MergePlan, ticks: _Ticks) -> dict[int, Any]:
    """Run every barrier step's rounds; return the statistics by index of step."""
    statistics: dict[int, Any] = {}
    tensors = plan.pool.tensors
    first = True
    for index, step in enumerate(plan.chain.steps):
        if step.measure is None:
            continue
        accumulated: Any = None
        for round_ in range(step.measure.rounds):
            accumulated = step.measure.start(round_, accumulated)
            for name in plan.parameters:
                for rows, start in _slices(tensors[name], plan.chain.grain):
                    _, stack = _load(plan, name, tensors[name], rows, start, check=first)
                    for before, earlier in enumerate(plan.chain.steps[:index]):
                        stack = earlier.apply(stack, statistics.get(before))
                    accumulated = step.measure.see(accumulated, stack)
                ticks.tick()
            first = False
        statistics[index] = step.measure.done(accumulated) if plan.parameters else None
    return statistics


def _load(
    plan: MergePlan, name: str, info: TensorInfo, rows: slice | None, start: int, *, check: bool
) -> tuple[Tensor | None, Stack]:
    """Read one slice of every expert, minus the base where the chain works on task vectors."""
    pool = plan.pool
    source = pool.base if plan.chain.space == "delta" else None
    base = None if source is None else source.read(name, rows)
    read = [expert.checkpoint.read(name, rows) for expert in pool.experts]
    double = any(t.dtype == torch.float64 for t in [*read, *([] if base is None else [base])])
    wide = torch.float64 if double else torch.float32
    values = torch.stack([tensor.to(wide) for tensor in read])
    if check:
        for expert, row in zip(pool.experts, values, strict=True):
            if _count_nonfinite(row):
                raise _nonfinite(expert.checkpoint, name, f"expert {expert.name!r}")
    if base is not None and source is not None:
        base = base.to(wide)
        if check and _count_nonfinite(base):
            raise _nonfinite(source, name, "the base")
        values = values - base
    return base, Stack(name, values, pool.names, start, info.numel)


def _count_nonfinite(tensor: Tensor) -> int:
    """Count NaN and infinity; a finite sum says there are none, which is quicker than looking."""
    values = tensor.detach()
    return 0 if bool(torch.isfinite(values.sum())) else int((~torch.isfinite(values)).sum())


def _nonfinite(source: Checkpoint, name: str, owner: str) -> NumericalError:
    count = _count_nonfinite(source.read(name).to(torch.float64))
    return NumericalError(
        f"tensor {name!r} of {owner} ({source.label}) holds {count} NaN or infinite values",
        hint="A merge would spread them; repair or leave out that checkpoint",
    )


def _finish(base: Tensor | None, stack: Stack, dtype: torch.dtype) -> Tensor:
    if len(stack.values) != 1:
        raise PlanError(
            f"the recipe ends with {len(stack.values)} rows for tensor {stack.name!r} instead of one",
            hint="End the chain with an aggregate such as total or mean",
        )
    merged = stack.values[0] if base is None else base + stack.values[0]
    cast = merged.to(dtype)
    if count := _count_nonfinite(cast.to(merged.dtype)):
        raise NumericalError(
            f"{count} merged values of tensor {stack.name!r} are too large for {dtype}",
            hint="Scale the merge down, or write a wider dtype",
        )
    return cast


def _slice_elements(info: TensorInfo, grain: Grain) -> int:
    if len(info.shape) < 2 or grain >= Grain.TENSOR or info.numel == 0:
        return info.numel
    row = info.numel // info.shape[0]
    return min(info.numel, max(1, SLICE // row) * row)


def _slices(info: TensorInfo, grain: Grain) -> Iterator[tuple[slice | None, int]]:
    """Yield (rows along axis 0 or None for all, index of the first element)."""
    size = _slice_elements(info, grain)
    if size >= info.numel:
        yield None, 0
        return
    row = info.numel // info.shape[0]
    for first in range(0, info.shape[0], size // row):
        yield slice(first, min(first + size // row, info.shape[0])), first * row


class _Ticks:
    """Counts tensors for the listener."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def tick(self) -> None:
        self.done += 1
        self.progress("merge", self.done, self.total)
